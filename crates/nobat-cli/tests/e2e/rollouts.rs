//! Canaries and copies: judged while they serve, promoted or refused, on both stores.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::rig::http::Http;
use crate::rig::onnx::{body_of_class, matrix};
use crate::rig::process::{Redis, Service, binary, free_port, worker};
use crate::rig::{Random, wait_for};

const LOOKS: [(&str, &str); 1] = [("NOBAT_GATEWAY__MONITOR__EVERY_S", "1")];
/// Margins that a few hundred requests can show.
const WIDE: [&str; 6] = ["--failures", "0.1", "--classes", "0.25", "--disagreement", "0.1"];

/// Three models of one signature: two answer alike, the third always with class 0.
fn models(folder: &Path) -> PathBuf {
    matrix(folder, "first", |row, column| row == column);
    matrix(folder, "alike", |row, column| row == column);
    matrix(folder, "stuck", |_, column| column == 0)
}

fn nobat(service: &Service, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("nobat"));
    command.args(arguments).env("NOBAT_URL", format!("http://{}", service.address)).stdin(Stdio::null());
    command.output().expect("it runs")
}

fn errors(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

fn put(http: &mut Http, route: &str, rule: &Value) {
    let headers = [("Content-Type", "application/json")];
    let answer = http.send("PUT", &format!("/api/v1/routes/{route}"), &headers, rule.to_string().as_bytes());
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn half(new: &str) -> Value {
    json!({"weighted": [{"target": "first", "percent": 50}, {"target": new, "percent": 50}]})
}

/// Sends rows of eight classes.
fn send(http: &mut Http, name: &str, rows: usize, random: &mut Random) {
    for _ in 0..rows {
        let answer = http.post(&format!("/v1/models/{name}:predict"), &body_of_class(random.below(8)));
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

fn rollout(http: &mut Http, route: &str) -> Value {
    http.get(&format!("/api/v1/routes/{route}")).expect("an answer").json()["rollouts"][0].clone()
}

#[test]
fn a_bad_canary_is_refused_and_rolled_back_and_a_good_one_promoted() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut service = Service::serve(folder.path(), &models(folder.path()), &[], &LOOKS);
    ["first", "alike", "stuck"].iter().for_each(|model| service.wait_for_model(model));
    let (mut http, mut random) = (service.http(), Random::new(1));

    put(&mut http, "bad", &half("stuck"));
    let early = nobat(&service, &["routes", "promote", "bad"]);
    assert!(!early.status.success() && errors(&early).contains("not shown yet over 0 requests"), "{}", errors(&early));
    send(&mut http, "bad", 300, &mut random);
    let seen = rollout(&mut http, "bad");
    assert_eq!((&seen["candidate"], &seen["verdict"]), (&json!("stuck"), &json!("unsafe")), "{seen}");
    assert!(seen["p"].as_f64().is_some_and(|p| p < 0.01), "{seen}");
    let refused = nobat(&service, &["route", "promote", "bad", "--wait", "1m"]);
    assert!(!refused.status.success() && errors(&refused).contains("`bad` stays as it is"), "{}", errors(&refused));
    assert!(errors(&refused).contains("class `0` moved most"), "{}", errors(&refused));
    let back = nobat(&service, &["routes", "promote", "bad", "--roll-back"]);
    assert!(!back.status.success() && errors(&back).contains("goes back to `first`"), "{}", errors(&back));
    assert_eq!(http.get("/api/v1/routes/bad").expect("an answer").json()["direct"], "first");
    let over = nobat(&service, &["routes", "promote", "bad"]);
    assert!(errors(&over).contains("has nobody to promote"), "{}", errors(&over));

    put(&mut http, "good", &half("alike"));
    send(&mut http, "good", 800, &mut random);
    let promoted = nobat(&service, &[&["routes", "promote", "good", "--wait", "5s"][..], &WIDE].concat());
    assert!(promoted.status.success(), "{}", errors(&promoted));
    assert_eq!(http.get("/api/v1/routes/good").expect("an answer").json()["direct"], "alike");
    send(&mut http, "good", 5, &mut random);

    // A version that fails: its requests are the evidence, though no answer came.
    let wrong = http.post("/api/v1/routes/good/promote", r#"{"margins": {"failures": 2}}"#).expect("an answer");
    assert_eq!((wrong.status, wrong.text().contains("the margin `failures` is 2")), (400, true), "{}", wrong.text());
}

#[test]
fn gateways_judge_by_what_all_have_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    let redis = Redis::start(folder.path(), false);
    let _worker = worker(folder.path(), &redis.url(), &models(folder.path()), &[]);
    let mut gateways = [(); 2].map(|()| Service::gateway(folder.path(), &redis.url(), free_port(), &LOOKS));
    for gateway in &mut gateways {
        ["first", "alike", "stuck"].iter().for_each(|model| gateway.wait_for_model(model));
    }
    let mut random = Random::new(2);
    let [mut one, mut two] = [0, 1].map(|at| gateways[at].http());
    put(&mut one, "bad", &half("stuck"));
    put(&mut one, "copied", &json!({"shadow": {"primary": "first", "copies": ["alike"]}}));
    wait_for("both have the routes", || two.get("/api/v1/routes/copied").is_ok_and(|answer| answer.status == 200));
    for http in [&mut one, &mut two] {
        send(http, "bad", 100, &mut random);
        send(http, "copied", 150, &mut random);
    }
    let requests = |http: &mut Http, route: &str| rollout(http, route)["requests"].as_u64().unwrap_or(0);
    wait_for("each sees what both counted", || {
        [&mut one, &mut two].into_iter().all(|http| requests(http, "bad") >= 190 && requests(http, "copied") >= 290)
    });
    // One that has had no request judges by what the others have seen.
    let mut idle = Service::gateway(folder.path(), &redis.url(), free_port(), &LOOKS);
    ["first", "alike", "stuck"].iter().for_each(|model| idle.wait_for_model(model));
    let mut third = idle.http();
    wait_for("the idle one sees it too", || {
        requests(&mut third, "bad") >= 190 && requests(&mut third, "copied") >= 290
    });
    let refused = nobat(&idle, &["routes", "promote", "bad"]);
    assert!(errors(&refused).contains("is unsafe: classes"), "{}", errors(&refused));
    let promoted = nobat(&gateways[1], &[&["routes", "promote", "copied"][..], &WIDE].concat());
    assert!(promoted.status.success() && errors(&promoted).contains("goes to `alike`"), "{}", errors(&promoted));
    wait_for("the other one follows", || {
        one.get("/api/v1/routes/copied").is_ok_and(|answer| answer.json()["direct"] == "alike")
    });
}

#[test]
fn live_copies_are_compared_and_the_route_goes_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut service = Service::serve(folder.path(), &models(folder.path()), &[], &[]);
    ["first", "alike", "stuck"].iter().for_each(|model| service.wait_for_model(model));
    let (mut http, mut random) = (service.http(), Random::new(3));
    let mut compare = |new: &str| {
        let mut command = Command::new(binary("nobat"));
        let margins = ["--disagreement", "0.05", "--lost", "0.05", "--latency", "1000", "--score", "1"];
        command.args(["compare", "first", new, "--shadow", "--most", "300", "--for", "1m"]).args(margins);
        command.env("NOBAT_URL", format!("http://{}", service.address)).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = command.spawn().expect("it runs");
        wait_for("copies are made", || http.get("/api/v1/routes/first").is_ok_and(|answer| answer.status == 200));
        // Slower than what keeps copies from being dropped.
        send(&mut http, "first", 400, &mut random);
        let done = running.wait_with_output().expect("it ends");
        assert_eq!(http.get("/api/v1/routes/first").expect("an answer").status, 404, "the route has gone");
        let report: Value = serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{}", errors(&done)));
        (done.status.success(), report)
    };
    let (safe, report) = compare("alike");
    assert!(safe && report["verdict"] == "safe" && report["requests"] == 300, "{report:#}");
    let (safe, report) = compare("stuck");
    assert!(!safe && report["verdict"] == "unsafe", "{report:#}");
    let example = &report["examples"][0];
    assert!(
        example["new"] == "0" && example["input"].as_str().is_some_and(|id| id.starts_with("request ")),
        "{report:#}"
    );
}
