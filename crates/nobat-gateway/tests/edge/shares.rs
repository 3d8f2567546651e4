//! What one caller may hold of what there is little of: streams of events, and operations
//! over many jobs.

use std::net::IpAddr;
use std::time::Duration;

use nobat_gateway::GatewayConfig;
use nobat_serving::auth::{self, Keyring, Scope};
use nobat_testkit::until_async;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::house::{House, send};
use crate::keys::{key, with_keys};

/// A stream of events, or a refusal.
async fn follow(house: &House, key: &str) -> Response {
    let request = Client::new().get(house.url("/api/v1/events")).header("authorization", format!("Bearer {key}"));
    request.send().await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_follows_events_all_it_can_leaves_streams_to_others() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut ring, now) = (Keyring::default(), auth::now_s());
    let greedy = ring.add(key("greedy", Scope::Read, &[], None), now).expect("made");
    let other = ring.add(key("other", Scope::Read, &[], None), now).expect("made");
    let house = House::start(with_keys(&dir.path().join("keys.toml"), &ring), json!({}), Duration::ZERO).await;

    let mut held = Vec::new();
    let refused = loop {
        let answer = follow(&house, &greedy).await;
        if answer.status() != 200 {
            break answer;
        }
        held.push(answer);
    };
    assert_eq!(held.len(), 128, "half of the 256");
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers().get("retry-after").map(|value| value.as_bytes()), Some(&b"30"[..]));
    let told: Value = serde_json::from_str(&refused.text().await.expect("a body")).expect("JSON");
    assert_eq!(told["code"], "quota_exceeded", "{told}");
    let detail = told["detail"].as_str().expect("words");
    assert!(detail.contains("128 of the 256") && detail.contains("close some"), "{detail}");
    // Ten tabs of somebody else are told as if nobody else were there.
    let mut tabs = Vec::new();
    for _ in 0..10 {
        let mut tab = follow(&house, &other).await;
        assert_eq!(tab.status(), 200);
        assert!(tab.chunk().await.expect("reads").is_some(), "it begins");
        tabs.push(tab);
    }
    // What is closed is free again.
    drop(held);
    until_async("a stream for who closed all of its own", async || follow(&house, &greedy).await.status() == 200).await;
    drop(tabs);
    house.stop().await;
}

#[tokio::test]
async fn a_caller_whose_operations_are_at_work_leaves_others_room_for_theirs() {
    let house = House::start(GatewayConfig::default(), json!({}), Duration::ZERO).await;
    // At work at another gateway, for as long as the test takes.
    let at_work = |id: &str| {
        json!({
            "id": id, "action": "cancel", "filter": "tag=x", "state": "running", "done": 0, "skipped": 0, "failed": 0,
            "error": null, "by": null, "owner": 0, "address": "127.0.0.1", "started_at_ms": 1,
            "updated_at_ms": u64::MAX, "finished_at_ms": null,
        })
    };
    let metadata = house.queue.metadata();
    for id in ["one", "two"] {
        metadata.put("operations", id, at_work(id).to_string().as_bytes()).await.expect("written");
    }
    let from = async |address: &str| {
        let address: IpAddr = address.parse().expect("an address");
        let client = Client::builder().local_address(address).build().expect("a client");
        send(client.post(house.url("/api/v1/jobs/operations?action=cancel&tag=x")), None, &[]).await
    };
    let refused = from("127.0.0.1").await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (429, Some("quota_exceeded")), "{}", refused.text);
    let detail = refused.json()["detail"].as_str().expect("words").to_owned();
    assert!(detail.contains("2 of the 4 operations") && detail.contains("stop one"), "{detail}");
    let begun = from("127.0.0.2").await;
    assert_eq!(begun.status, 202, "another address has a share of its own: {}", begun.text);
    // One that ended holds nothing.
    assert!(metadata.remove("operations", "two").await.expect("removed"));
    assert_eq!(from("127.0.0.1").await.status, 202);
    house.stop().await;
}
