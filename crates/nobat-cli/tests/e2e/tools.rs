//! The tools against a real service, and the settings that people write.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::rig::onnx;
use crate::rig::process::{Process, Service, binary, free_port};

struct Tool {
    url: String,
}

impl Tool {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("nobat"));
        command.args(arguments).env("NOBAT_URL", &self.url).stdin(Stdio::null());
        command
    }

    /// What a pipe gets: JSON.
    fn json(&self, arguments: &[&str]) -> Value {
        let done = self.command(arguments).output().expect("it runs");
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{arguments:?}: not JSON"))
    }

    /// What it says of a failure.
    fn refused(&self, arguments: &[&str]) -> String {
        let done = self.command(arguments).output().expect("it runs");
        assert!(!done.status.success(), "{arguments:?} succeeded");
        String::from_utf8_lossy(&done.stderr).into_owned()
    }
}

#[test]
fn routes_models_and_webhooks_are_shown_and_steered_and_a_pipe_gets_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 0);
    let mut service = Service::serve(folder.path(), &models, &[], &[]);
    service.wait_for_model("echo");
    let tool = Tool { url: format!("http://{}", service.address) };

    let rule = folder.path().join("rule.json");
    std::fs::write(&rule, r#"{"direct": "echo"}"#).expect("written");
    let rule = rule.to_str().expect("text");
    assert_eq!(tool.json(&["routes", "put", "parrot", "--input", rule])["serves"], true);
    assert_eq!(tool.json(&["routes", "list"])["routes"][0]["name"], "parrot");
    assert_eq!(tool.json(&["routes", "get", "parrot"])["direct"], "echo");
    assert_eq!(tool.json(&["routes", "remove", "parrot"])["removed"], "parrot");
    assert!(tool.refused(&["routes", "get", "parrot"]).contains("parrot"));

    assert_eq!(tool.json(&["models"])["models"][0]["name"], "echo");
    assert_eq!(tool.json(&["unload", "echo"])["unloaded"], "echo");
    let loaded = tool.json(&["load", "echo"]);
    assert_eq!((&loaded["models"][0]["name"], &loaded["models"][0]["ready"]), (&"echo".into(), &true.into()));
    assert!(tool.refused(&["load", "nobody"]).contains("nobody"));

    assert_eq!(tool.json(&["webhooks", "list"])["deliveries"], Value::Array(vec![]));
    assert!(tool.json(&["webhooks", "endpoints"])["disabled"].is_array());
    assert!(tool.refused(&["webhooks", "redeliver", "msg_none"]).contains("msg_none"));
    assert!(tool.refused(&["webhooks", "enable", "https://example.com/"]).contains("not disabled"));
    assert_eq!(tool.json(&["queue", "list", "--json"])["queues"][0]["model"], "echo");
    let waited = tool.refused(&["jobs", "wait", "x", "--timeout", "soon"]);
    assert!(waited.contains("90s, 5m, 1h"), "{waited}");
}

#[test]
fn every_shell_completes_every_command() {
    let tool = Tool { url: String::new() };
    for shell in ["bash", "zsh", "fish"] {
        let done = tool.command(&["completions", shell]).output().expect("it runs");
        let text = String::from_utf8(done.stdout).expect("text");
        assert!(
            done.status.success()
                && ["serve", "routes", "webhooks", "--json"].iter().all(|word| {
                    // fish writes long flags without their dashes.
                    text.contains(word) || text.contains(&format!("-l {}", word.trim_start_matches('-')))
                }),
            "{shell}"
        );
    }
    // bash reads it.
    let read = Command::new("bash")
        .args(["-c", "eval \"$(\"$0\" completions bash)\" && complete -p nobat"])
        .arg(binary("nobat"))
        .output()
        .expect("bash is there");
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
}

#[test]
fn a_port_alone_and_values_with_units_are_taken_and_the_others_told_what_to_write() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 0);
    let (models, data) = (models.to_str().expect("text"), folder.path().join("data"));
    let data = data.to_str().expect("text");
    let port = free_port().to_string();
    let started = |flag: &str| {
        let quiet = [("NOBAT_GATEWAY__GRPC", ""), ("NOBAT_GATEWAY__METRICS", ""), ("NOBAT_QUEUE__LEASE_MS", "3s")];
        let process = Process::start(folder.path(), "nobat", &["serve", models, "--data", data, flag, &port], &quiet);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !process.output().contains(&format!("http://127.0.0.1:{port}")) {
            assert!(std::time::Instant::now() < end, "{flag}: {}", process.output());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    started("--port");
    started("--listen");

    let tool = Tool { url: String::new() };
    let said = |arguments: &[&str], variable: (&str, &str)| {
        // The ports that are taken by default may be somebody's.
        let quiet =
            [("NOBAT_GATEWAY__LISTEN", "127.0.0.1:0"), ("NOBAT_GATEWAY__GRPC", ""), ("NOBAT_GATEWAY__METRICS", "")];
        let done = tool.command(arguments).envs(quiet).env(variable.0, variable.1).output().expect("it runs");
        assert!(!done.status.success(), "{arguments:?} succeeded");
        String::from_utf8_lossy(&done.stderr).into_owned()
    };
    let none = ("NOBAT_NOTHING", "");
    let told = said(&["serve", models, "--listen", "nine"], none);
    assert!(told.contains("127.0.0.1:9000"), "{told}");
    let told = said(&["config"], ("NOBAT_QUEUE__LEASE_MS", "soon"));
    assert!(told.contains("queue.lease_ms") && told.contains("\"3s\""), "{told}");
    let told = said(&["config"], ("NOBAT_GATEWAY__MAX_BODY_BYTES", "much"));
    assert!(told.contains("max_body_bytes") && told.contains("64MiB"), "{told}");
    let told = said(&["serve", models, "--redis", "http://me:secret@127.0.0.1"], none);
    assert!(told.contains("redis://[user:password@]host:port/db") && !told.contains("secret"), "{told}");
}

#[test]
fn a_reader_that_had_enough_is_no_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 0);
    let model = models.join("echo").display().to_string();
    for (code, args) in [
        (0, &["inspect", &model][..]),
        (0, &["inspect", "--json", &model]),
        (0, &["inspect", "--write", &model]),
        (0, &["keys", "new", "ci"]),
        (0, &["keys", "list"]),
        (0, &["keys", "revoke", "ci"]),
        (0, &["config"]),
        (0, &["doctor"]),
        (0, &["completions", "bash"]),
        (0, &["--help"]),
        (1, &["inspect", "nothing.onnx"]),
        (2, &["test", "echo", "--url", "http://127.0.0.1:9"]),
    ] {
        let ended = Process::unread(folder.path(), "nobat", args, &[]).wait(Duration::from_secs(60));
        assert_eq!(ended.and_then(|status| status.code()), Some(code), "{args:?}");
    }
}

#[test]
fn a_service_outlives_the_terminal_that_it_was_started_from() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 0).display().to_string();
    let listen = format!("127.0.0.1:{}", free_port());
    let args = ["serve", "--models", &models, "--listen", &listen, "--log-level", "debug"];
    let env = [("NOBAT_GRPC", "127.0.0.1:0"), ("NOBAT_METRICS", "127.0.0.1:0")];
    let process = Process::unread(folder.path(), "nobat", &args, &env);
    let mut service = Service { process, address: listen.parse().expect("an address") };
    service.wait_for_model("echo");
    let answer = service.http().post("/v1/models/echo:predict", &onnx::body(7, 1)).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    service.process.signal("-TERM");
    let ended = service.process.wait(Duration::from_secs(60));
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
}
