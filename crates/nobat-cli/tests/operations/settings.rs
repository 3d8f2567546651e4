//! Settings of the edge that nobody can mean: one clear line at start, exit
//! code 1, nothing served.

use std::time::Duration;

use crate::rig::onnx;
use crate::rig::process::Process;

#[test]
fn unknown_and_contradictory_settings_of_the_edge_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1).display().to_string();
    for (key, value, says) in [
        ("NOBAT_GATEWAY__LIMITS__MAX_INFLIGHT", "5", "`max_in_flight`"),
        ("NOBAT_GATEWAY__LIMITS__BURST", "5", "limits.burst needs limits.rate_per_s"),
        ("NOBAT_GATEWAY__LIMITS__RATE_PER_S", "-1", "limits.rate_per_s"),
        ("NOBAT_GATEWAY__TLS__CERTIFICATE", "cert.pem", "both or neither"),
        ("NOBAT_GATEWAY__MONITOR__WEBHOOK_SECRET", "whsec_x", "monitor.webhook_secret needs monitor.webhook"),
        ("NOBAT_GATEWAY__MONITOR__WEBHOOK", "http://alerts.example.com/", "monitor.webhook"),
        ("NOBAT_GATEWAY__MONITOR__WEBHOOK", "https://10.0.0.1/", "private or reserved"),
        ("NOBAT_GATEWAY__MONITOR__MAX_ERROR_RATE", "5", "monitor.max_error_rate"),
        ("NOBAT_GATEWAY__CACHE__ECHO__POLICY", "ttl", "cache.ttl_s"),
        ("NOBAT_LOG_LEVEL", "loud", "`loud`"),
    ] {
        let args = ["serve", "--models", &models, "--listen", "127.0.0.1:0"];
        let env = [("NOBAT_GRPC", ""), ("NOBAT_METRICS", ""), (key, value)];
        let mut process = Process::start(folder.path(), "nobat", &args, &env);
        let status = process.wait(Duration::from_secs(60));
        let output = process.output();
        assert_eq!(status.and_then(|status| status.code()), Some(1), "{key}={value}: {output}");
        assert!(output.contains(says) && !output.contains("panicked"), "{key}={value}: {output}");
    }
}
