//! Every end of a job that named a webhook, or whose API key does, is told.

use std::time::{Duration, Instant};

use nobat_gateway::GatewayConfig;
use nobat_queue::Queue;
use nobat_serving::auth::{AuthConfig, Keyring, NewKey, Scope, load, store};
use reqwest::Method;
use serde_json::json;

use crate::house::{House, Manner, Receiver, row};

#[tokio::test]
async fn each_event_of_a_job_is_told() {
    let house = House::start(json!([])).await;
    let receiver = Receiver::start();
    let hook = |more: &str| format!("?webhook={}{more}", receiver.url);
    house.behave("two", Manner::Fails { again: true });
    house.behave("three", Manner::Hangs);
    let succeeded = house.enqueue("one", &hook("")).await;
    // An attempt that failed is told when a look finds the job between two of them:
    // a watch rests two seconds, and the sender looks every two.
    let dead = house.enqueue("two", &hook("&max_retries=1&retry_delay=12s")).await;
    let expired = house.enqueue("three", &hook("&deadline=1s")).await;
    let cancelled = house.enqueue("one", &hook("&delay=1h")).await;
    assert_eq!(house.post(&format!("/api/v1/jobs/{cancelled}/cancel"), &json!({})).await.status, 200);

    let message = receiver.message("job.succeeded", &succeeded).await;
    assert_eq!((&message["data"]["model"], &message["data"]["attempts"]), (&json!("one"), &json!(1)), "{message}");
    let message = receiver.message("job.failed", &dead).await;
    assert_eq!(message["data"]["state"], "failed", "{message}");
    let message = receiver.message("job.dead", &dead).await;
    assert_eq!(message["data"]["error"]["message"], "the model refuses", "{message}");
    receiver.message("job.expired", &expired).await;
    receiver.message("job.cancelled", &cancelled).await;

    // The receiver has a message a little before the sender has its answer.
    let deadline = Instant::now() + Duration::from_secs(20);
    let log = loop {
        let log = house.get("/api/v1/webhooks/deliveries").await.json;
        let deliveries = log["deliveries"].as_array().expect("a list");
        if deliveries.iter().filter(|d| d["outcome"] == "delivered").count() >= 5 {
            break log;
        }
        assert!(Instant::now() < deadline, "{log}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let again = log["deliveries"].as_array().expect("a list")[0]["id"].as_str().expect("an id").to_owned();
    let redelivered = house.post(&format!("/api/v1/webhooks/deliveries/{again}/redeliver"), &json!({})).await;
    assert_eq!(redelivered.status, 202, "{}", redelivered.json);
    let unknown = house.post("/api/v1/webhooks/deliveries/msg_none/redeliver", &json!({})).await;
    assert_eq!(unknown.status, 404, "{}", unknown.json);
}

#[tokio::test]
async fn a_keys_webhook_is_told_of_jobs_that_name_none() {
    let receiver = Receiver::start();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("keys.toml");
    let mut ring = Keyring::default();
    let new = |name: &str, scope| NewKey {
        name: name.into(),
        scope,
        models: vec![],
        valid_s: None,
        rate_per_s: 0.0,
        burst: 0,
        max_in_flight: 0,
        tokens_per_min: 0,
        max_priority: None,
    };
    let key = ring.add(new("caller", Scope::Predict), 1).expect("made");
    let mut records = ring.records().to_vec();
    records[0].webhook = Some(receiver.url.as_str().into());
    store(&file, &Keyring::new(records).expect("keys")).expect("stored");
    assert!(load(&file).expect("reads").records()[0].webhook.is_some());

    let auth = AuthConfig { keys: file.display().to_string(), ..AuthConfig::default() };
    let house = House::start_with(json!([]), GatewayConfig { auth, ..GatewayConfig::default() }).await;
    let send = |path: &str| {
        let request = house.request(Method::POST, path).bearer_auth(&key);
        house.send(request.body(row().to_string()))
    };
    let accepted = send("/api/v1/predict/one").await;
    assert_eq!(accepted.status, 202, "{}", accepted.json);
    receiver.message("job.succeeded", accepted.json["id"].as_str().expect("an id")).await;

    // What such a key may not do.
    let get = |path: &str| house.send(house.request(Method::GET, path).bearer_auth(&key));
    assert_eq!(get("/api/v1/webhooks/deliveries").await.status, 403);
    assert_eq!(get("/api/v1/routes").await.status, 200);
    let put = house.request(Method::PUT, "/api/v1/routes/r").bearer_auth(&key).body(r#"{"direct": "one"}"#);
    assert_eq!(house.send(put).await.status, 403);
    assert_eq!(send("/api/v1/periodic/t/run").await.status, 403);
}

#[tokio::test]
async fn a_success_whose_result_is_kept_shorter_than_a_look_takes_is_told_as_one() {
    let house = House::start(json!([])).await;
    let receiver = Receiver::start();
    let id = house.enqueue("one", &format!("?result_ttl=100ms&webhook={}", receiver.url)).await;
    let message = receiver.message("job.succeeded", &id).await;
    assert_eq!(message["data"]["state"], "succeeded", "{message}");
}

#[tokio::test]
async fn a_job_without_a_record_is_told_as_gone_and_not_as_something_it_may_not_be() {
    let house = House::start(json!([])).await;
    let receiver = Receiver::start();
    house.behave("two", Manner::Fails { again: false });
    let id = house.enqueue("two", &format!("?max_retries=0&webhook={}", receiver.url)).await;
    let job = loop {
        let job = house.get(&format!("/api/v1/jobs/{id}")).await.json;
        if job["state"] == "dead" {
            break id.parse().expect("an id");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(house.queue.purge("two", &[job], 1).await.expect("purged"), 1);
    let message = receiver.message("job.gone", &id).await;
    assert_eq!(
        (&message["data"]["state"], &message["data"]["error"]["code"]),
        (&json!(null), &json!("result_expired"))
    );
}
