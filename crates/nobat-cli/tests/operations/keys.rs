//! `nobat keys` and a gateway that reads its file, end to end.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::rig::onnx;
use crate::rig::process::{Process, Service, binary, free_port};
use crate::rig::wait_for;

/// Runs `nobat keys …` and returns what it prints and says.
fn keys(folder: &Path, args: &[&str]) -> (bool, String, String) {
    let output = Command::new(binary("nobat"))
        .args(["keys", "--keys", "keys.toml"])
        .args(args)
        .current_dir(folder)
        .output()
        .expect("nobat runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text").trim().to_owned();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn made(folder: &Path, args: &[&str]) -> String {
    let (done, key, told) = keys(folder, args);
    assert!(done && key.starts_with("nobat_"), "{key} {told}");
    key
}

fn ask(service: &Service, key: &str) -> u16 {
    let authorization = format!("Bearer {key}");
    let headers = [("authorization", authorization.as_str())];
    let body = onnx::body(1, 1);
    service.http().send("POST", "/v1/models/echo:predict", &headers, body.as_bytes()).expect("an answer").status
}

#[test]
fn keys_are_made_listed_rotated_and_revoked_while_the_service_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1);
    let first = made(folder.path(), &["new", "ci", "--scope", "predict", "--models", "echo", "--days", "90"]);
    let admin = made(folder.path(), &["new", "ops", "--scope", "admin"]);
    let mut service = Service::serve(folder.path(), &models, &["--keys", "keys.toml"], &[]);
    wait_for("the key is let in", || {
        service.process.is_running() && service.address.port() != 0 && {
            std::net::TcpStream::connect(service.address).is_ok() && ask(&service, &first) == 200
        }
    });
    assert_eq!(service.http().get("/v1/models/echo").expect("an answer").status, 401, "no key");

    let (_, listed, _) = keys(folder.path(), &["list"]);
    assert!(listed.contains("ci") && listed.contains("predict") && listed.contains("echo"), "{listed}");
    let secret = first.rsplit('_').next().expect("a secret");
    let stored = std::fs::read_to_string(folder.path().join("keys.toml")).expect("the file");
    assert!(!listed.contains(secret) && !stored.contains(secret), "only a hash is stored");

    let second = made(folder.path(), &["rotate", "ci", "--overlap-hours", "1"]);
    wait_for("the new secret is taken over", || ask(&service, &second) == 200);
    assert_eq!(ask(&service, &first), 200, "the one before is valid for the overlap");
    let (done, _, _) = keys(folder.path(), &["revoke", "ci"]);
    assert!(done);
    wait_for("the revoked key is refused", || ask(&service, &second) == 401);
    assert_eq!((ask(&service, &first), ask(&service, &admin)), (401, 200));

    let (done, _, told) = keys(folder.path(), &["revoke", "nobody"]);
    assert!(!done && told.contains("nobody") && told.contains("nobat keys list"), "{told}");
    assert!(!service.process.output().contains(secret), "no key in logs");
}

#[test]
fn a_public_address_needs_keys_or_the_word_insecure() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1).display().to_string();
    let listen = format!("0.0.0.0:{}", free_port());
    let args = ["serve", "--models", &models, "--listen", &listen];
    let env = [("NOBAT_GRPC", ""), ("NOBAT_METRICS", "")];
    let mut refused = Process::start(folder.path(), "nobat", &args, &env);
    let status = refused.wait(Duration::from_secs(60)).expect("it ends");
    let said = refused.output();
    assert!(!status.success() && said.contains("nobat keys new") && said.contains("--insecure"), "{said}");

    let mut told = Process::start(folder.path(), "nobat", &[&args[..], &["--insecure"]].concat(), &env);
    wait_for("it is ready", || told.output().contains("nobat is ready") || !told.is_running());
    assert!(told.is_running(), "{}", told.output());
}

#[test]
fn an_unreadable_file_of_keys_is_one_clear_line_at_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1).display().to_string();
    std::fs::write(folder.path().join("keys.toml"), "[[key]]\nid = 'x'\nrole = 1").expect("written");
    for (file, says) in [("keys.toml", "keys.toml"), ("missing.toml", "nobat keys new")] {
        let args = ["serve", "--models", &models, "--listen", "127.0.0.1:0", "--keys", file];
        let mut process = Process::start(folder.path(), "nobat", &args, &[("NOBAT_GRPC", ""), ("NOBAT_METRICS", "")]);
        let status = process.wait(Duration::from_secs(60)).expect("it ends");
        assert!(!status.success() && process.output().contains(says), "{}", process.output());
    }
}

#[test]
fn a_caller_with_a_wrong_key_cannot_fill_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1);
    let key = made(folder.path(), &["new", "ci", "--scope", "predict"]);
    let mut service = Service::serve(folder.path(), &models, &["--keys", "keys.toml"], &[]);
    wait_for("the service is up", || service.process.is_running() && service.http().get("/livez").is_ok());
    let wrong = format!("{key}x");
    let mut http = service.http();
    let started = std::time::Instant::now();
    for _ in 0..500 {
        let headers = [("authorization", wrong.as_str())];
        assert_eq!(http.send("POST", "/v1/models/echo:predict", &headers, b"{}").expect("an answer").status, 401);
    }
    let took = started.elapsed();
    wait_for("what was counted is told", || service.process.output().contains("more like it within"));
    let lines = service.process.output().matches(" 401 ").count();
    let bound = 3 + took.as_secs() as usize;
    assert!((1..=bound).contains(&lines), "{lines} lines in {took:?}:\n{}", service.process.output());
}
