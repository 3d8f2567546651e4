//! Idempotency keys as a client meets them: whatever happens to a caller or to a job,
//! the same request under the same key is answered with what is so.

use std::time::Duration;

use nobat_gateway::GatewayConfig;
use nobat_queue::Queue;
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::house::{House, Reply, row};
use crate::jobs::group;

fn keyed(house: &House, path: &str, key: &str) -> RequestBuilder {
    house.request(Method::POST, path).header("idempotency-key", key).body(row().to_string())
}

async fn send(house: &House, path: &str, key: &str) -> Reply {
    house.send(keyed(house, path, key)).await
}

#[tokio::test]
async fn a_client_that_gives_up_finds_its_job_under_its_key() {
    let house = House::start(json!([group("all", "all")])).await;
    for (name, queue) in [("one", "one"), ("all", "route:all")] {
        // The queue of a route is there with its first job.
        house.predict(name).await;
        house.queue.set_paused(queue, true).await.expect("paused");
        let path = format!("/api/v1/predict/{name}?wait=20");
        let given_up = keyed(&house, &path, "k").timeout(Duration::from_millis(400)).send().await;
        assert!(given_up.is_err(), "the client leaves first");
        // The server notices that it has gone.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (second, ()) = tokio::join!(send(&house, &path, "k"), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            house.queue.set_paused(queue, false).await.expect("resumed");
        });
        assert_eq!(second.status, 200, "{name}: {}", second.json);
        let repeat = send(&house, &path, "k").await;
        assert_eq!((repeat.status, &repeat.json["id"]), (200, &second.json["id"]), "{name}: {}", repeat.json);
    }
}

#[tokio::test]
async fn a_repeat_after_the_result_is_gone_is_a_new_job_that_runs() {
    let house = House::start(json!([])).await;
    for round in 0..4 {
        let key = format!("k{round}");
        let path = "/api/v1/predict/one?result_ttl=200ms";
        let first = send(&house, path, &key).await;
        assert_eq!(first.status, 202, "{}", first.json);
        let first = first.json["id"].as_str().expect("an id").to_owned();
        let mut gone = false;
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            gone = house.get(&format!("/api/v1/jobs/{first}")).await.status == 410;
            if gone {
                break;
            }
        }
        assert!(gone, "its record ends");
        let again = send(&house, path, &key).await;
        let id = again.json["id"].as_str().expect("an id").to_owned();
        assert!(again.status == 202 && id != first, "{}", again.json);
        assert_eq!(house.get(&format!("/api/v1/jobs/{id}/result?wait=20")).await.status, 200);
    }
}

#[tokio::test]
async fn a_repeat_may_wait_longer_and_is_told_where_the_job_stands() {
    let house = House::start(json!([])).await;
    let first = send(&house, "/api/v1/predict/one?priority=3&deadline=60s", "k").await;
    assert_eq!(first.status, 202, "{}", first.json);
    let waited = send(&house, "/api/v1/predict/one?deadline=60s&wait=20&priority=3", "k").await;
    assert_eq!((waited.status, &waited.json["id"]), (200, &first.json["id"]), "{}", waited.json);
    let read = send(&house, "/api/v1/predict/one?priority=3&deadline=60s", "k").await;
    assert_eq!((read.status, &read.json["state"]), (202, &json!("succeeded")), "read, not assumed: {}", read.json);
    let preferred = keyed(&house, "/api/v1/predict/one?priority=3&deadline=60s", "k");
    let preferred = house.send(preferred.header("prefer", "respond-async, wait=5")).await;
    assert_eq!((preferred.status, &preferred.json["id"]), (200, &first.json["id"]), "{}", preferred.json);
    let other = send(&house, "/api/v1/predict/one?priority=4&deadline=60s", "k").await;
    assert_eq!((other.status, &other.json["code"]), (422, &json!("idempotency_mismatch")), "{}", other.json);
}

/// A v2 request with its row as a binary tensor, under this key.
fn keyed_v2(house: &House, model: &str, key: &str, value: f32) -> RequestBuilder {
    let document =
        json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}]});
    let document = document.to_string();
    let request = house.request(Method::POST, &format!("/v2/models/{model}/infer")).header("idempotency-key", key);
    let tensor = [value, 2.0].map(f32::to_le_bytes).concat();
    let request = request.header("inference-header-content-length", document.len());
    request.body([document.into_bytes(), tensor].concat())
}

async fn jobs_of(house: &House, queue: &str) -> usize {
    let listed = house.get(&format!("/api/v1/jobs?model={queue}&limit=100")).await;
    listed.json["jobs"].as_array().unwrap_or_else(|| panic!("{}", listed.json)).len()
}

#[tokio::test]
async fn a_v2_request_that_is_repeated_under_its_key_runs_once() {
    let house = House::start(json!([group("all", "all")])).await;
    for (model, queue) in [("one", "one"), ("all", "route:all")] {
        house.predict(model).await;
        let before = jobs_of(&house, queue).await;
        house.queue.set_paused(queue, true).await.expect("paused");
        let given_up = keyed_v2(&house, model, "k", 1.0).timeout(Duration::from_millis(400)).send().await;
        assert!(given_up.is_err(), "the connection breaks before the answer");
        // The server notices that it has gone.
        tokio::time::sleep(Duration::from_millis(500)).await;
        house.queue.set_paused(queue, false).await.expect("resumed");
        for _ in 0..3 {
            let again = house.send(keyed_v2(&house, model, "k", 1.0)).await;
            assert_eq!(again.status, 200, "{model}: {}", again.json);
            assert_eq!(again.json["outputs"][0]["data"], json!([1.0, 2.0]), "{model}: {}", again.json);
        }
        assert_eq!(jobs_of(&house, queue).await, before + 1, "{model}: one job for four requests");
        let other = house.send(keyed_v2(&house, model, "k", 5.0)).await;
        assert_eq!((other.status, &other.json["code"]), (422, &json!("idempotency_mismatch")), "{}", other.json);
    }
}

#[tokio::test]
async fn a_keyed_v2_request_whose_time_is_over_says_that_its_job_goes_on() {
    let house =
        House::start_with(json!([group("all", "all")]), GatewayConfig { sync_timeout_s: 1, ..Default::default() })
            .await;
    for (model, queue) in [("one", "one"), ("all", "route:all")] {
        house.predict(model).await;
        house.queue.set_paused(queue, true).await.expect("paused");
        let late = house.send(keyed_v2(&house, model, "k", 1.0)).await;
        assert_eq!((late.status, &late.json["code"]), (504, &json!("deadline_exceeded")), "{}", late.json);
        assert!(late.json["error"].as_str().is_some_and(|said| said.contains("repeat the request")), "{}", late.json);
        let job = late.json["job"].as_str().unwrap_or_else(|| panic!("a job: {}", late.json)).to_owned();
        house.queue.set_paused(queue, false).await.expect("resumed");
        assert_eq!(house.get(&format!("/api/v1/jobs/{job}/result?wait=20")).await.status, 200);
    }
}
