//! What an operator sees: metrics, health, alerts.

use std::time::{Duration, Instant};

use nobat_core::job::JobState;
use nobat_gateway::GatewayConfig;
use nobat_serving::auth::now_s;
use nobat_serving::monitor::MonitorConfig;
use nobat_serving::{Predictor, RequestContext};
use nobat_webhooks::outbound::{AddressPolicy, WebhookSecret};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use nobat_queue::{WorkerInfo, drained_workers};

use crate::house::{House, info};

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3";

/// One delivery at the operator's receiver: headers and body.
async fn receive(listener: &TcpListener) -> (String, String) {
    let (mut socket, _) = tokio::time::timeout(Duration::from_secs(20), listener.accept())
        .await
        .expect("an alert within 20 s")
        .expect("a connection");
    let mut text = String::new();
    let mut chunk = [0; 4096];
    let (head, body) = loop {
        let n = socket.read(&mut chunk).await.expect("a request");
        assert!(n > 0, "the request ended early: {text}");
        text.push_str(std::str::from_utf8(&chunk[..n]).expect("text"));
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length: usize = header(head, "content-length").parse().expect("a length");
            if body.len() == length {
                break (head.to_owned(), body.to_owned());
            }
        }
    };
    socket.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.expect("answered");
    (head, body)
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).expect(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_the_only_worker_and_its_return_are_told_and_signed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let monitor = MonitorConfig {
        every_s: 1,
        webhook: format!("http://{}/alerts", listener.local_addr().expect("bound")).into(),
        webhook_secret: SECRET.into(),
        addresses: AddressPolicy { allow_http: true, allow_private: true },
        ..MonitorConfig::default()
    };
    let config = GatewayConfig { monitor, ..GatewayConfig::default() };
    let mut house = House::start(config, json!({}), Duration::ZERO).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    house.kill_worker();
    let secret = WebhookSecret::parse(SECRET).expect("a secret");
    for (kind, state) in [("monitor.check.failing", "failing"), ("monitor.check.recovered", "ok")] {
        let (head, body) = receive(&listener).await;
        let event: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((event["type"].as_str(), event["data"]["check"].as_str()), (Some(kind), Some("workers")), "{body}");
        assert_eq!(event["data"]["state"], state);
        let stamp = header(&head, "webhook-timestamp").parse().expect("seconds");
        let signature = header(&head, "webhook-signature");
        assert!(secret.verify(header(&head, "webhook-id"), stamp, body.as_bytes(), signature, now_s()));
        if state == "failing" {
            let verbose = house.get("/readyz?verbose", None).await.json();
            let workers = verbose["checks"].as_array().expect("checks").iter().find(|check| check["name"] == "workers");
            assert_eq!(workers.expect("the check")["state"], "failing", "{verbose}");
            house.start_worker();
        }
    }
    assert_eq!(house.get("/api/v1/status", None).await.json()["ready"], true);
    house.stop().await;
}

#[tokio::test]
async fn a_webhook_to_a_private_address_is_refused_at_start_and_an_unreachable_one_is_survived() {
    let private = MonitorConfig { webhook: "https://169.254.169.254/".into(), ..MonitorConfig::default() };
    let queue_dir = tempfile::tempdir().expect("a folder");
    let queue = nobat_queue::sqlite::SqliteQueue::open(queue_dir.path(), Default::default()).expect("a queue");
    let config = GatewayConfig {
        listen: "127.0.0.1:0".into(),
        grpc: String::new(),
        metrics: String::new(),
        monitor: private,
        ..GatewayConfig::default()
    };
    let error = nobat_gateway::Gateway::start(config, queue).await.err().expect("refused");
    assert!(error.message.contains("monitor.webhook") && error.message.contains("private"), "{error}");

    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
    let monitor = MonitorConfig {
        every_s: 1,
        webhook: format!("http://{free}/").into(),
        addresses: AddressPolicy { allow_http: true, allow_private: true },
        ..MonitorConfig::default()
    };
    let mut house =
        House::start(GatewayConfig { monitor, ..GatewayConfig::default() }, json!({}), Duration::ZERO).await;
    house.kill_worker();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(house.get("/livez", None).await.status, 200);
    house.start_worker();
    // The registry hears of the worker within a heartbeat.
    let end = Instant::now() + Duration::from_secs(20);
    while house.predict(1.0, None, &[]).await.status != 200 {
        assert!(Instant::now() < end, "the service is not up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    house.stop().await;
}

/// Waits until the check `workers` says something that holds `what`.
async fn workers_say(house: &House, what: &str) -> serde_json::Value {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let status = house.get("/api/v1/status", None).await.json();
        let found =
            status["checks"].as_array().expect("checks").iter().find(|check| check["name"] == "workers").cloned();
        match found {
            Some(check) if check["detail"].as_str().is_some_and(|detail| detail.contains(what)) => return check,
            _ => assert!(Instant::now() < end, "not `{what}`: {status}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_worker_that_dies_beside_another_is_missed_and_one_that_leaves_is_not() {
    let monitor = MonitorConfig { every_s: 1, ..MonitorConfig::default() };
    let house = House::start(GatewayConfig { monitor, ..GatewayConfig::default() }, json!({}), Duration::ZERO).await;
    let worker = |id: &str| WorkerInfo { id: id.into(), host: format!("host-{id}"), ..info(&json!({}), "1") };
    let long = Duration::from_secs(600);
    house.queue.register_worker(&worker("leaves"), long).await.expect("registered");
    house.queue.register_worker(&worker("dies"), long).await.expect("registered");
    workers_say(&house, "3 live workers").await;
    drained_workers::record(&*house.queue.metadata(), "leaves", "host-leaves").await.expect("noted");
    house.queue.deregister_worker("leaves").await.expect("gone");
    assert_eq!(workers_say(&house, "2 live workers serve every").await["state"], "ok");
    // Its registration ends without a word.
    house.queue.deregister_worker("dies").await.expect("gone");
    let check = workers_say(&house, "host-dies").await;
    let detail = check["detail"].as_str().expect("text");
    assert!(detail.contains("1 of 2 workers live") && !detail.contains("leaves"), "{detail}");
    assert_eq!(check["state"], "failing");
    assert_eq!(house.get("/readyz", None).await.status, 200, "the other one serves");
    house.queue.register_worker(&worker("comes"), long).await.expect("registered");
    workers_say(&house, "2 live workers serve every").await;
    house.stop().await;
}

#[tokio::test]
async fn nobody_is_kept_waiting_for_a_job_by_a_gateway_that_drains() {
    let config = GatewayConfig { drain_s: 600, ..GatewayConfig::default() };
    let house = House::start(config, json!({}), Duration::ZERO).await;
    let id = house.enqueue_and("?delay=1h").await.json()["id"].as_str().expect("an id").to_owned();
    let mut events = reqwest::get(house.url(&format!("/api/v1/jobs/{id}/events"))).await.expect("an answer");
    let mut seen = events.chunk().await.expect("a stream").expect("an event").to_vec();
    let predictor = Predictor::new(house.gateway.serving().clone());
    let long = Duration::from_secs(300);
    let poll = async {
        let view = predictor.job(&RequestContext::anonymous(), &id, long).await.expect("as it stands");
        assert_eq!(view.state, JobState::Scheduled);
    };
    let follow = async {
        while let Some(more) = events.chunk().await.expect("the stream ends and is not cut") {
            seen.extend_from_slice(&more);
        }
    };
    let all = async { tokio::join!(poll, follow, house.stop()) };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("the drain ends long before its limit");
    assert!(String::from_utf8_lossy(&seen).contains("event: scheduled"));
}
