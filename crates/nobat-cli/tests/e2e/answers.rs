//! The right answer to the right caller, on both stores.

use crate::rig::golden::{self, Digit};
use crate::rig::process::{Redis, Service, free_port, root, worker};

const PREDICT: &str = "/v1/models/digits:predict";

#[test]
fn the_golden_digits_are_answered_on_the_embedded_queue() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut service = Service::serve(folder.path(), &root().join("models"), &[], &[]);
    service.wait_for_model("digits");
    answers_are_golden(&service);
}

#[test]
fn the_golden_digits_are_answered_by_a_gateway_and_two_workers_on_redis() {
    let folder = tempfile::tempdir().expect("a folder");
    let redis = Redis::start(folder.path(), false);
    let models = root().join("models");
    let _workers =
        [worker(folder.path(), &redis.url(), &models, &[]), worker(folder.path(), &redis.url(), &models, &[])];
    let mut gateway = Service::gateway(folder.path(), &redis.url(), free_port(), &[]);
    gateway.wait_for_model("digits");
    answers_are_golden(&gateway);
}

fn answers_are_golden(service: &Service) {
    let digits = golden::digits();
    assert_eq!(digits.len(), 64, "the golden set has 64 digits");

    let mut http = service.http();
    for digit in &digits {
        let answer = http.post(PREDICT, &golden::body([digit])).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        golden::check([digit], &answer.json());
    }

    let answer = http.post(PREDICT, &golden::body(&digits)).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    golden::check(&digits, &answer.json());

    // Every client sends its own digit, over and over: an answer to another's
    // question would be off by far more than 1e-5.
    std::thread::scope(|scope| {
        for digit in &digits {
            scope.spawn(move || client(service, digit));
        }
    });
}

fn client(service: &Service, digit: &Digit) {
    let mut http = service.http();
    for _ in 0..20 {
        let answer = http.post(PREDICT, &golden::body([digit])).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        golden::check([digit], &answer.json());
    }
}

#[test]
fn a_fired_job_is_found_by_its_location_and_its_result_waits() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut service = Service::serve(folder.path(), &root().join("models"), &[], &[]);
    service.wait_for_model("digits");
    let digits = golden::digits();
    let mut http = service.http();

    let path = "/api/v1/predict/digits?priority=10&result_ttl=60s&max_retries=3";
    let accepted = http.post(path, &golden::body([&digits[0]])).expect("an answer");
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let id = accepted.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(accepted.header("location"), Some(format!("/api/v1/jobs/{id}").as_str()));

    let result = http.get(&format!("/api/v1/jobs/{id}/result?wait=30")).expect("an answer");
    assert_eq!(result.status, 200, "{}", result.text());
    golden::check([&digits[0]], &result.json());
    let job = http.get(&format!("/api/v1/jobs/{id}")).expect("an answer").json();
    assert_eq!(job["state"], "succeeded");

    let headers = [("Prefer", "wait=10"), ("Content-Type", "application/json")];
    let blocking = http
        .send("POST", "/api/v1/predict/digits", &headers, golden::body([&digits[1]]).as_bytes())
        .expect("an answer");
    assert_eq!(blocking.status, 200, "{}", blocking.text());

    let openapi = http.get("/api/openapi.json").expect("an answer");
    assert_eq!(openapi.json()["openapi"].as_str().map(|version| &version[..3]), Some("3.1"));
}
