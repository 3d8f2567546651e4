//! Starts that are interrupted and starts that cannot be: the process ends as it
//! should, with no thread left inside a model. `scripts/check_starts.py` does a
//! hundred of each.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::amount;
use crate::rig::process::{Process, Service, free_port};
use crate::rig::{Random, onnx, wait_for};

const GRACE: Duration = Duration::from_secs(30);

/// A dozen copies of one model: their loads take a while.
fn many(folder: &Path) -> PathBuf {
    let models = onnx::echo(folder, 256, 8);
    for number in 0..12 {
        let copy = models.join(format!("m{number}/1"));
        std::fs::create_dir_all(&copy).expect("a folder");
        std::fs::copy(models.join("echo/1/model.onnx"), copy.join("model.onnx")).expect("a copy");
    }
    models
}

/// Whether the process has its own answer to SIGTERM by now.
fn hears_stop(process: &Process) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> 14 & 1 == 1)
}

#[test]
fn a_stop_at_any_time_of_a_start_is_heard() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = many(folder.path()).display().to_string();
    let data = folder.path().join("data").display().to_string();
    let away = format!("redis://127.0.0.1:{}", free_port());
    let off = [("NOBAT_GRPC", ""), ("NOBAT_METRICS", "")];
    let serve = ["serve", "--models", &models, "--data", &data, "--listen", "127.0.0.1:0"];
    let worker = ["--redis", &away, "--models", &models];
    let gateway = ["--redis", &away, "--listen", "127.0.0.1:0"];
    let mut random = Random::new(29);
    for round in 0..amount(2, 20) {
        for (name, args) in [("nobat", &serve[..]), ("nobat-worker", &worker), ("nobat-gateway", &gateway)] {
            let mut process = Process::start(folder.path(), name, args, &off);
            wait_for("it listens to signals", || hears_stop(&process));
            let after = random.below(1_000);
            std::thread::sleep(Duration::from_millis(after));
            process.signal("-TERM");
            let status = process.wait(GRACE);
            let status = status.unwrap_or_else(|| panic!("{name} goes on after a stop at {after} ms, round {round}"));
            assert!(status.success(), "{name}, stopped after {after} ms: {status}");
        }
    }
}

#[test]
fn a_start_that_cannot_be_ends_with_its_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = many(folder.path()).display().to_string();
    let data = folder.path().join("data").display().to_string();
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = held.local_addr().expect("bound").to_string();
    let gone = folder.path().join("gone").display().to_string();
    let free = "127.0.0.1:0";
    let certificate = [("NOBAT_GATEWAY__TLS__CERTIFICATE", gone.as_str()), ("NOBAT_GATEWAY__TLS__KEY", gone.as_str())];
    let cases: [(&[&str], &[(&str, &str)], &str); 5] = [
        (&["--listen", &taken, "--grpc", free, "--metrics", free], &[], &taken),
        (&["--listen", free, "--grpc", &taken, "--metrics", free], &[], &taken),
        (&["--listen", free, "--grpc", free, "--metrics", &taken], &[], &taken),
        (&["--listen", free, "--grpc", free, "--metrics", free, "--keys", &gone], &[], &gone),
        (&["--listen", free, "--grpc", free, "--metrics", free], &certificate, &gone),
    ];
    for _ in 0..amount(1, 20) {
        for (args, env, named) in cases {
            let args = [&["serve", "--models", &models, "--data", &data], args].concat();
            let mut process = Process::start(folder.path(), "nobat", &args, env);
            let status = process.wait(GRACE).expect("it ends");
            assert_eq!(status.code(), Some(1), "{args:?}: {status}");
            let output = process.output();
            assert!(output.contains(named) && !output.contains("is not loaded"), "{output}");
        }
    }
}

#[test]
fn what_is_sent_once_it_is_ready_is_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = many(folder.path());
    for round in 0..amount(1, 5) {
        let service = Service::serve(folder.path(), &models, &[], &[]);
        let ready = || service.http().get("/readyz").is_ok_and(|answer| answer.status == 200);
        wait_for("it is ready", ready);
        let mut http = service.http();
        for number in 0..24u32 {
            let (model, path) = (number % 12, if number < 12 { "v1/models" } else { "api/v1/predict" });
            let path = if number < 12 { format!("/{path}/m{model}:predict") } else { format!("/{path}/m{model}") };
            let answer = http.post(&path, &onnx::body(number, 1)).expect("an answer");
            assert!(matches!(answer.status, 200 | 202), "round {round}: {path} {}", answer.text());
        }
    }
}
