//! Logs of real processes: levels by signal, ids from edge to worker, a disk
//! that is full.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::rig::onnx;
use crate::rig::process::{Redis, Service, free_port, worker};
use crate::rig::wait_for;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The events of a JSON log whose message or target holds `what`.
fn events(log: &str, what: &str) -> Vec<Value> {
    let parsed = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let text = |event: &Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
    parsed.filter(|event| text(event, "message").contains(what) || text(event, "target") == what).collect()
}

#[test]
fn a_request_id_and_its_trace_go_from_the_edge_to_the_worker() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1);
    let redis = Redis::start(folder.path(), false);
    let env = [("NOBAT_LOG__FORMAT", "json"), ("NOBAT_LOG_LEVEL", "info,nobat::access=debug,nobat_worker=debug")];
    let worker = worker(folder.path(), &redis.url(), &models, &env);
    let mut gateway = Service::gateway(folder.path(), &redis.url(), free_port(), &env);
    gateway.wait_for_model("echo");
    let headers = [("x-request-id", "req-42"), ("traceparent", TRACEPARENT)];
    let body = onnx::body(7, 1);
    let answer = gateway.http().send("POST", "/v1/models/echo:predict", &headers, body.as_bytes()).expect("an answer");
    assert_eq!((answer.status, answer.header("x-request-id")), (200, Some("req-42")), "{}", answer.text());

    wait_for("both have written their line", || {
        !events(&worker.output(), "a job ran").is_empty()
            && !events(&gateway.process.output(), "nobat::access").is_empty()
    });
    let (ran, seen) = (events(&worker.output(), "a job ran"), events(&gateway.process.output(), "nobat::access"));
    let seen = seen.iter().find(|event| event["request"] == "req-42").expect("the request's line");
    for event in [&ran[0], seen] {
        assert_eq!((&event["request"], &event["traceparent"]), (&"req-42".into(), &TRACEPARENT.into()), "{event}");
        assert_eq!(event["model"], "echo");
    }
    assert_eq!(ran[0]["job"], seen["job"], "both name the job");
    for log in [worker.output(), gateway.process.output()] {
        assert!(!log.contains("7.0,7.0") && !log.contains("[7,7"), "no tensors in logs");
    }
}

#[test]
fn signals_change_the_level_of_a_running_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1);
    let mut service = Service::serve(folder.path(), &models, &[], &[]);
    service.wait_for_model("echo");
    let lines = |service: &Service| service.process.output().matches("POST /v1/models/echo:predict 200").count();
    let ask = |service: &Service| {
        let answer = service.http().post("/v1/models/echo:predict", &onnx::body(1, 1)).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let changed = |service: &Service, level: &str, times: usize| {
        wait_for(&format!("the level is {level}"), || {
            service.process.output().matches(&format!("level={level}")).count() >= times
        });
    };
    ask(&service);
    assert_eq!(lines(&service), 0, "an answered request is told at debug only");
    service.process.signal("-USR1");
    changed(&service, "DEBUG", 1);
    ask(&service);
    wait_for("the access line", || lines(&service) > 0);
    service.process.signal("-USR2");
    changed(&service, "INFO", 1);
    let before = lines(&service);
    ask(&service);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(lines(&service), before, "back to info");
}

/// `/dev/full` answers every write as a full disk does.
#[test]
fn a_full_disk_under_the_log_folder_is_told_once_and_the_service_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1);
    let logs = folder.path().join("log");
    fs::create_dir(&logs).expect("a folder");
    std::os::unix::fs::symlink("/dev/full", logs.join("nobat.log")).expect("a link");
    let dir = logs.display().to_string();
    let env = [("NOBAT_LOG_DIR", dir.as_str()), ("NOBAT_LOG_LEVEL", "debug")];
    let mut service = Service::serve(folder.path(), &models, &[], &env);
    service.wait_for_model("echo");
    for value in 0..200 {
        let answer = service.http().post("/v1/models/echo:predict", &onnx::body(value, 1)).expect("an answer");
        assert_eq!(answer.json()["predictions"][0][0].as_f64(), Some(f64::from(value)), "{}", answer.text());
    }
    let output = service.process.output();
    let told = output.lines().filter(|line| line.contains("could not be written")).collect::<Vec<_>>();
    assert!(told.len() == 1 && told[0].contains("No space left"), "told once a minute: {told:?}");
    assert!(output.contains("nobat::access"), "the console goes on");
    assert!(service.process.is_running());
}

#[test]
fn a_log_folder_that_cannot_be_made_is_told_and_the_service_starts() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1);
    fs::write(folder.path().join("file"), "not a folder").expect("written");
    let dir = Path::new("file/log").display().to_string();
    let mut service = Service::serve(folder.path(), &models, &[], &[("NOBAT_LOG_DIR", &dir)]);
    service.wait_for_model("echo");
    let output = service.process.output();
    assert!(output.contains("part of the logging could not be set up") && output.contains("file/log"), "{output}");
}
