//! Drift: live rows against the profile that a worker published, on both stores.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::rig::golden::{Digit, body, digits};
use crate::rig::http::Http;
use crate::rig::process::{Redis, Service, binary, free_port, root, worker};
use crate::rig::{Random, wait_for};

const LOOKS: [(&str, &str); 2] = [("NOBAT_GATEWAY__MONITOR__EVERY_S", "1"), ("NOBAT_METRICS", "127.0.0.1:0")];

fn class(digit: &Digit) -> usize {
    let highest = digit.probabilities.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    highest.expect("ten probabilities").0
}

/// The digits model with a profile of its golden digits, under a name of its own.
fn repository(folder: &Path, model: &str) -> PathBuf {
    let models = folder.join("models");
    let own = models.join(model);
    std::fs::create_dir_all(own.join("1")).expect("a folder");
    std::fs::copy(root().join("models/digits/1/model.onnx"), own.join("1/model.onnx")).expect("the demo model");
    let mut classes = serde_json::Map::new();
    for digit in digits() {
        let count = classes.entry(class(&digit).to_string()).or_insert(json!(0));
        *count = json!(count.as_u64().unwrap_or(0) + 32);
    }
    let rows = digits().len() * 32;
    let answer = json!({"output": "label", "reading": "class", "classes": classes, "without": 0, "rows": rows});
    let profile = json!({"model": "digits", "version": "1", "rows": rows, "inputs": [], "answers": [answer]});
    std::fs::write(own.join("profile.json"), profile.to_string()).expect("written");
    models
}

/// Sends rows one by one, each drawn from `digits`.
fn send(http: &mut Http, digits: &[&Digit], rows: usize, random: &mut Random) {
    for _ in 0..rows {
        let digit = digits[random.below(digits.len() as u64) as usize];
        let answer = http.post("/v1/models/digits:predict", &body([digit])).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

fn drift(http: &mut Http, model: &str) -> Value {
    let answer = http.get(&format!("/api/v1/models/{model}")).expect("an answer");
    answer.json()["drift"][0].clone()
}

/// Rows that come before are served and not counted.
fn wait_until_followed(http: &mut Http, model: &str) {
    wait_for("the profile is followed", || drift(http, model)["state"] == "as_profiled");
}

fn is_failing(http: &mut Http) -> Option<bool> {
    let status = http.get("/api/v1/status").expect("an answer").json();
    let checks = status["checks"].as_array().cloned().unwrap_or_default();
    checks.iter().find(|check| check["name"] == "drift").map(|check| check["state"] == "failing")
}

#[test]
fn a_stream_that_leaves_the_profile_alarms_and_a_right_one_does_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut service = Service::serve(folder.path(), &repository(folder.path(), "digits"), &[], &LOOKS);
    service.wait_for_model("digits");
    let (mut http, mut random) = (service.http(), Random::new(3));
    let all = digits();
    let right: Vec<&Digit> = all.iter().collect();
    wait_until_followed(&mut http, "digits");
    send(&mut http, &right, 600, &mut random);
    // A repetition is no row, and a batch is one.
    let keyed = [("Content-Type", "application/json"), ("Idempotency-Key", "once")];
    for _ in 0..3 {
        let answer = http.send("POST", "/api/v1/predict/digits?wait=10s", &keyed, body([right[0]]).as_bytes());
        assert_eq!(answer.expect("an answer").status, 200);
    }
    assert_eq!(http.post("/v1/models/digits:predict", &body(right.iter().copied())).expect("an answer").status, 200);
    wait_for("the rows are looked at", || drift(&mut http, "digits")["rows"] == 601);
    let seen = drift(&mut http, "digits");
    assert_eq!(seen["state"], "as_profiled", "{seen}");
    assert!(seen["words"].as_str().is_some_and(|words| words.starts_with("601 rows look like the profile")), "{seen}");
    assert_eq!(is_failing(&mut http), Some(false));

    let few: Vec<&Digit> = all.iter().filter(|digit| class(digit) < 3).collect();
    send(&mut http, &few, 400, &mut random);
    wait_for("drift is told", || is_failing(&mut http) == Some(true));
    let seen = drift(&mut http, "digits");
    assert_eq!(seen["state"], "drifting");
    let words = seen["words"].as_str().expect("words");
    assert!(words.contains("of output `label` has") && words.contains("in the profile"), "{words}");
    assert!(service.process.output().contains("drift is failing: model `digits` version 1"), "it is in the log");
    // It stays until somebody has seen it, though the rows are right again.
    send(&mut http, &right, 200, &mut random);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(is_failing(&mut http), Some(true));
    let url = format!("http://{}", service.address);
    let mut command = Command::new(binary("nobat"));
    let done = command.args(["models", "digits", "--acknowledge-drift", "--url", &url]).output().expect("it runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    wait_for("it is watched anew", || is_failing(&mut http) == Some(false));
}

#[test]
fn gateways_add_their_rows_up_and_one_acknowledgement_is_for_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let redis = Redis::start(folder.path(), false);
    let _worker = worker(folder.path(), &redis.url(), &repository(folder.path(), "digits"), &[]);
    let mut gateways = [(); 2].map(|()| Service::gateway(folder.path(), &redis.url(), free_port(), &LOOKS));
    gateways.iter_mut().for_each(|gateway| gateway.wait_for_model("digits"));
    let mut random = Random::new(5);
    let all = digits();
    let (right, few): (Vec<&Digit>, Vec<&Digit>) =
        (all.iter().collect(), all.iter().filter(|digit| class(digit) < 3).collect());
    let [mut first, mut second] = [0, 1].map(|at| gateways[at].http());
    for http in [&mut first, &mut second] {
        wait_until_followed(http, "digits");
    }
    send(&mut first, &right, 200, &mut random);
    send(&mut second, &right, 100, &mut random);
    wait_for("each sees the rows of both", || {
        drift(&mut first, "digits")["rows"] == 300 && drift(&mut second, "digits")["rows"] == 300
    });
    assert_eq!((is_failing(&mut first), is_failing(&mut second)), (Some(false), Some(false)));
    // All of what drifts goes through one gateway; the other one tells too.
    send(&mut first, &few, 400, &mut random);
    wait_for("both tell", || is_failing(&mut first) == Some(true) && is_failing(&mut second) == Some(true));
    // What is acknowledged is what has been seen: all of it.
    wait_for("each has seen every row", || {
        drift(&mut first, "digits")["rows"] == 700 && drift(&mut second, "digits")["rows"] == 700
    });
    let answer = second.post("/api/v1/models/digits/drift/acknowledge", "").expect("an answer");
    assert_eq!(answer.status, 204, "{}", answer.text());
    wait_for("both watch anew", || is_failing(&mut first) == Some(false) && is_failing(&mut second) == Some(false));
    // A gateway that starts now reads the rows of both, and counts what has come since.
    send(&mut second, &right, 20, &mut random);
    let mut late = Service::gateway(folder.path(), &redis.url(), free_port(), &LOOKS);
    late.wait_for_model("digits");
    let mut late = late.http();
    wait_for("it sees the rows that came since", || drift(&mut late, "digits")["rows"] == 20);
    assert_eq!(is_failing(&mut late), Some(false));
}

#[test]
fn a_profile_of_another_model_is_told_and_the_model_is_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut service = Service::serve(folder.path(), &repository(folder.path(), "numbers"), &[], &LOOKS);
    service.wait_for_model("numbers");
    let mut http = service.http();
    wait_for("it is told", || drift(&mut http, "numbers")["state"] == "not_followed");
    let words = drift(&mut http, "numbers")["words"].to_string();
    assert!(words.contains("it is the profile of model `digits`, not of `numbers`"), "{words}");
    assert!(service.process.output().contains("is not watched for drift"), "{}", service.process.output());
    let answer = http.post("/v1/models/numbers:predict", &body([&digits()[0]])).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let refused = http.post("/api/v1/models/nobody/drift/acknowledge", "").expect("an answer");
    assert_eq!(refused.status, 404, "{}", refused.text());
}
