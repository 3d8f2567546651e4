//! Finding jobs, changing many of them, following what changes, and who changed what.

use std::slice::from_ref;
use std::time::Duration;

use nobat_gateway::GatewayConfig;
use nobat_serving::monitor::MonitorConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{House, instance, poll};

const SOON: Duration = Duration::from_secs(20);
const VALUES: [f32; 4] = [1.0, 0.0, 0.0, 0.0];

/// Ids of a list, the newest first.
async fn found(house: &House, query: &str) -> Vec<String> {
    let reply = house.get(&format!("/api/v1/jobs?{query}")).await;
    assert_eq!(reply.status, 200, "{query}: {}", reply.text);
    let jobs = reply.json()["jobs"].as_array().expect("a list").clone();
    jobs.iter().map(|job| job["id"].as_str().expect("an id").to_owned()).collect()
}

/// The operation once it is over.
async fn over(house: &House, begun: &Value) -> Value {
    let path = format!("/api/v1/jobs/operations/{}", begun["id"].as_str().expect("an id"));
    let mut last = Value::Null;
    for _ in 0..200 {
        last = house.get(&path).await.json();
        if last["state"] != "running" {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it does not end: {last}");
}

#[tokio::test]
async fn a_job_is_found_by_its_tags_its_ids_and_what_it_is() {
    let house = House::start().await;
    let tagged = house.enqueue("?tag=team%3Da&tag=nightly&delay=1h&priority=7", VALUES).await;
    let other = house.enqueue("?tag=team%3Db&delay=1h", VALUES).await;
    let request = house.client.post(house.url("/api/v1/predict/digits?delay=1h"));
    let request = request
        .header("idempotency-key", "order-1")
        .header("x-request-id", "call-1")
        .header("nobat-tags", "by header, two");
    let named = house.send(request.body(instance(VALUES))).await.json();
    assert_eq!(named["tags"], json!(["by header", "two"]));
    let named = named["id"].as_str().expect("an id").to_owned();

    assert_eq!(house.get(&format!("/api/v1/jobs/{tagged}")).await.json()["tags"], json!(["team=a", "nightly"]));
    assert_eq!(found(&house, "tag=team%3Da").await, from_ref(&tagged));
    assert_eq!(found(&house, "tag=two").await, from_ref(&named));
    assert_eq!(found(&house, "q=nightly").await, from_ref(&tagged));
    assert_eq!(found(&house, &format!("q={other}")).await, from_ref(&other));
    for text in ["order-1", "call-1", "by%20header", "%20call-1%20"] {
        assert_eq!(found(&house, &format!("q={text}")).await, from_ref(&named), "{text}");
    }
    assert_eq!(found(&house, "priority=7").await, from_ref(&tagged));
    assert_eq!(found(&house, "since=1h").await, [named.clone(), other.clone(), tagged.clone()], "the newest first");
    for none in [
        "until=1h",
        "tag=team",
        "tag=team%3Da&state=queued",
        "q=order-1&state=dead",
        &format!("q={other}&priority=7"),
        "q=nothing",
        "error=inference_failed",
        "since=2999-01-01T00:00:00Z",
    ] {
        assert!(found(&house, none).await.is_empty(), "{none}");
    }
    for (bad, code) in [
        ("tag=", "invalid_parameter"),
        ("tag=a&tag=b", "invalid_parameter"),
        ("priority=256", "invalid_parameter"),
        ("error=nonsense", "invalid_parameter"),
        ("since=yesterday", "invalid_parameter"),
        ("owner=abc", "permission_denied"),
        ("cursor=nonsense", "invalid_parameter"),
    ] {
        assert_eq!(house.get(&format!("/api/v1/jobs?{bad}")).await.json()["code"], code, "{bad}");
    }
    for bad in ["?tag=", "?tag=a%0Ab", &format!("?tag={}", "x".repeat(65))] {
        let refused = house.post(&format!("/api/v1/predict/digits{bad}"), instance(VALUES)).await;
        assert_eq!(refused.refusal(), (400, "invalid_parameter".into()), "{bad}");
    }
    house.stop().await;
}

#[tokio::test]
async fn many_jobs_are_counted_then_cancelled_and_later_ones_left_alone() {
    let house = House::start().await;
    for _ in 0..30 {
        house.enqueue("?tag=old&delay=1h", VALUES).await;
    }
    house.enqueue("?tag=other&delay=1h", VALUES).await;
    let path = "/api/v1/jobs/operations?action=cancel&tag=old";
    let counted = house.post(&format!("{path}&dry_run=true"), "").await;
    assert_eq!((counted.status, counted.json()), (200, json!({"count": 30, "more": false})));
    assert_eq!(found(&house, "tag=old&state=scheduled&limit=1000").await.len(), 30, "counting changes nothing");

    let begun = house.post(path, "").await;
    assert_eq!(begun.status, 202, "{}", begun.text);
    let ended = over(&house, &begun.json()).await;
    assert_eq!(
        (&ended["state"], &ended["done"], &ended["skipped"], &ended["failed"]),
        (&json!("finished"), &json!(30), &json!(0), &json!(0)),
        "{ended}"
    );
    assert_eq!(ended["filter"], "tag=old");
    let late = house.enqueue("?tag=old&delay=1h", VALUES).await;
    assert_eq!(found(&house, "tag=old&state=scheduled").await, [late]);
    assert_eq!(found(&house, "tag=old&state=cancelled&limit=1000").await.len(), 30);
    assert_eq!(found(&house, "tag=other&state=scheduled").await.len(), 1);
    let again = house.post(path, "").await.json();
    let again = over(&house, &again).await;
    assert_eq!((&again["done"], &again["skipped"]), (&json!(1), &json!(30)), "those of before had ended: {again}");

    let request = house.client.post(house.url("/api/v1/predict/digits?delay=1h")).header("idempotency-key", "order-7");
    let named = house.send(request.body(instance(VALUES))).await.json()["id"].as_str().expect("an id").to_owned();
    let by_key = "/api/v1/jobs/operations?action=cancel&q=order-7";
    assert_eq!(house.post(&format!("{by_key}&state=queued&dry_run=true"), "").await.json()["count"], 0);
    assert_eq!(house.post(&format!("{by_key}&dry_run=true"), "").await.json()["count"], 1);
    let begun_by_key = house.post(by_key, "").await.json();
    assert_eq!(over(&house, &begun_by_key).await["done"], 1);
    assert_eq!(found(&house, "state=cancelled&q=order-7").await, [named]);

    // More than one page: the first have died anew before the last is looked at.
    let one: Value = serde_json::from_str(&instance([666.0, 0.0, 0.0, 0.0])).expect("JSON");
    let many = json!({ "requests": vec![one; 300] }).to_string();
    let accepted = house.post("/api/v1/predict/digits/many?tag=bad&max_retries=0", many).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text);
    let all_dead = async || (found(&house, "tag=bad&state=dead&limit=1000").await.len() == 300).then_some(());
    poll(SOON, all_dead).await;
    assert_eq!(found(&house, "error=inference_failed&limit=1000").await.len(), 300);
    let retried = house.post("/api/v1/jobs/operations?action=retry&tag=bad", "").await.json();
    assert_eq!(over(&house, &retried).await["done"], 300, "each once");
    poll(SOON, all_dead).await;
    let deleted = house.post("/api/v1/jobs/operations?action=delete&tag=bad", "").await.json();
    assert_eq!(over(&house, &deleted).await["done"], 300);
    assert!(found(&house, "tag=bad").await.is_empty());

    let listed = house.get("/api/v1/jobs/operations").await.json();
    let actions: Vec<_> =
        listed["operations"].as_array().expect("a list").iter().map(|one| one["action"].clone()).collect();
    assert_eq!(actions, ["delete", "retry", "cancel", "cancel", "cancel"], "the newest first");
    let id = begun.json()["id"].as_str().expect("an id").to_owned();
    let stopped = house.send(house.client.delete(house.url(&format!("/api/v1/jobs/operations/{id}")))).await;
    assert_eq!(stopped.refusal(), (409, "job_already_finished".into()));
    for (bad, code) in [
        ("action=cancel", "invalid_parameter"),
        ("action=cancel&q=", "invalid_parameter"),
        ("action=cancel&all=true&q=%20", "invalid_parameter"),
        ("tag=a", "invalid_parameter"),
        ("action=explode&tag=a", "invalid_parameter"),
        ("action=cancel&all=maybe", "invalid_parameter"),
        ("action=cancel&tag=a&limit=1", "invalid_parameter"),
    ] {
        assert_eq!(house.post(&format!("/api/v1/jobs/operations?{bad}"), "").await.json()["code"], code, "{bad}");
    }
    assert_eq!(house.get("/api/v1/jobs/operations/nonsense").await.refusal(), (404, "job_not_found".into()));
    house.stop().await;
}

#[tokio::test]
async fn what_was_changed_is_written_down_and_predictions_are_not() {
    let house = House::start().await;
    let id = house.enqueue("?delay=1h", VALUES).await;
    house.post("/api/v1/queues/digits/pause", "").await;
    let request = house.client.post(house.url("/api/v1/queues/digits/resume")).header("nobat-console", "1");
    house.send(request.header("x-request-id", "click-1")).await;
    let request = house.client.delete(house.url(&format!("/api/v1/jobs/{id}"))).header("user-agent", "nobat-cli/1");
    house.send(request).await;
    house.post("/api/v1/queues/nonsense/pause", "").await;
    // To count changes nothing; what is changed of many is said.
    house.post("/api/v1/jobs/operations?action=cancel&tag=a&dry_run=true", "").await;
    house.post("/api/v1/jobs/operations?action=cancel&tag=a%20b", "").await;
    house.post("/api/v1/jobs/operations?action=nonsense&tag=a", "").await;
    let entries = async || house.get("/api/v1/audit").await.json()["entries"].as_array().expect("a list").clone();
    poll(SOON, async || (entries().await.len() == 6).then_some(())).await;
    let shown: Vec<_> = entries()
        .await
        .iter()
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            (text("by"), text("action"), entry["status"].as_u64().expect("a status"))
        })
        .collect();
    let entry = |by: &str, action: &str, status| (by.to_owned(), action.to_owned(), status);
    assert_eq!(
        shown,
        [
            entry("api", "POST /api/v1/jobs/operations", 400),
            entry("api", "POST /api/v1/jobs/operations", 202),
            entry("api", "POST /api/v1/queues/{model}/pause", 404),
            entry("cli", "DELETE /api/v1/jobs/{id}", 200),
            entry("console", "POST /api/v1/queues/{model}/resume", 200),
            entry("api", "POST /api/v1/queues/{model}/pause", 200),
        ]
    );
    assert_eq!(entries().await[4]["request_id"], "click-1");
    assert_eq!(entries().await[3]["target"], format!("/api/v1/jobs/{id}"));
    assert_eq!(entries().await[1]["target"], "/api/v1/jobs/operations?action=cancel&tag=a%20b");
    assert_eq!(entries().await[0]["target"], "/api/v1/jobs/operations", "what is refused may hold anything");
    assert_eq!(house.get("/api/v1/audit?limit=1").await.json()["entries"].as_array().map(Vec::len), Some(1));
    assert_eq!(house.get("/api/v1/audit?limit=0").await.refusal(), (400, "invalid_parameter".into()));
    house.stop().await;
}

#[tokio::test]
async fn events_tell_the_status_and_the_queues_and_what_changes_of_them() {
    let monitor = MonitorConfig { every_s: 1, ..MonitorConfig::default() };
    let house = House::start_with(GatewayConfig { monitor, ..GatewayConfig::default() }).await;
    let mut socket = TcpStream::connect(house.addr()).await.expect("connects");
    // It comes from a gateway whose clock is ahead: what is new here is told all the same.
    let request = "GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\nlast-event-id: 99999999999999\r\n\r\n";
    socket.write_all(request.as_bytes()).await.expect("sends");
    let mut text = String::new();
    let mut until = async |what: &str| {
        let read = async {
            while !text.contains(what) {
                let mut chunk = [0; 65_536];
                let n = socket.read(&mut chunk).await.expect("reads");
                assert!(n > 0, "the stream ended before {what}: {text}");
                text.push_str(&String::from_utf8_lossy(&chunk[..n]));
            }
        };
        tokio::time::timeout(Duration::from_secs(30), read).await.unwrap_or_else(|_| panic!("no {what}"));
        text.clone()
    };
    let begun = until("event: queues").await;
    assert!(begun.contains("content-type: text/event-stream") && begun.contains("x-accel-buffering: no"), "{begun}");
    assert!(begun.contains("retry: 2000\n\n") && begun.contains("event: status\ndata: {"), "{begun}");
    until("event: timeseries\ndata: {\"points\":[{").await;
    house.post("/api/v1/queues/digits/pause", "").await;
    until("\"paused\":true").await;
    house.stop().await;
}

#[tokio::test]
async fn keys_are_none_where_none_are_asked_for() {
    let house = House::start().await;
    assert_eq!(house.get("/api/v1/keys").await.json(), json!({"on": false, "keys": []}));
    let refused = house.post("/api/v1/keys", json!({"name": "a", "scope": "read"}).to_string()).await;
    assert_eq!(refused.refusal(), (501, "unsupported".into()), "{}", refused.text);
    house.stop().await;
}
