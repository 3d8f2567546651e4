//! The console's files: for browsers, the same for everybody, left out when told to.

use std::time::Duration;

use nobat_gateway::GatewayConfig;
use nobat_serving::monitor::MonitorConfig;
use serde_json::Value;

use crate::harness::{House, Reply, instance, poll};

async fn page(house: &House, path: &str, tag: &str) -> Reply {
    let request = house.client.get(house.url(path)).header("accept", "text/html,*/*;q=0.8");
    house.send(request.header("if-none-match", tag)).await
}

/// The addresses that a page or a module names, relative to the page.
fn named(text: &str, before: &str, folder: &str) -> Vec<String> {
    let after = text.split(before).skip(1).filter_map(|rest| rest.split_once('"'));
    after.map(|(name, _)| format!("{folder}{}", name.trim_start_matches("./"))).collect()
}

#[tokio::test]
async fn a_browser_gets_the_console_and_everything_it_names() {
    let house = House::start().await;
    let index = page(&house, "/", "").await;
    assert!(index.header("content-type").starts_with("text/html"), "{}", index.header("content-type"));
    assert_eq!(index.header("vary"), "accept");
    let policy = index.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");

    let mut wanted = named(&index.text, "src=\"", "/");
    wanted.extend(named(&index.text, "href=\"console", "/console"));
    let mut seen = Vec::new();
    while let Some(path) = wanted.pop() {
        if seen.contains(&path) {
            continue;
        }
        let file = page(&house, &path, "").await;
        assert_eq!(file.status, 200, "{path}");
        assert_eq!(file.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(file.header("cache-control"), "no-cache", "{path}");
        let kept = page(&house, &path, file.header("etag")).await;
        assert_eq!((kept.status, kept.text.as_str()), (304, ""), "{path}");
        let other = page(&house, &path, "W/\"another\"").await;
        assert_eq!((other.status, other.text == file.text), (200, true), "{path}");
        if !path.contains("/vendor/") {
            wanted.extend(named(&file.text, "from \"./", "/console/"));
        }
        seen.push(path);
    }
    assert!(seen.len() > 15, "{seen:?}");
    assert_eq!(house.get("/").await.text, r#"{"status":"alive"}"#, "what is no browser asks whether it lives");
    for absent in ["/console/", "/console/absent.js", "/console/../Cargo.toml", "/console/%2e%2e/root.rs"] {
        assert_eq!(page(&house, absent, "").await.status, 404, "{absent}");
    }
    house.stop().await;
}

#[tokio::test]
async fn a_gateway_without_the_console_says_that_it_lives() {
    let house = House::start_with(GatewayConfig { console: false, ..GatewayConfig::default() }).await;
    assert_eq!(page(&house, "/", "").await.text, r#"{"status":"alive"}"#);
    assert_eq!(page(&house, "/console/app.js", "").await.status, 404);
    house.stop().await;
}

#[tokio::test]
async fn the_last_minutes_are_told_point_by_point() {
    let monitor = MonitorConfig { every_s: 1, ..MonitorConfig::default() };
    let house = House::start_with(GatewayConfig { monitor, ..GatewayConfig::default() }).await;
    let is_some = |points: &[Value], name: &str| points.iter().any(|point| point[name].as_f64() > Some(0.0));
    let points = poll(Duration::from_secs(30), async || {
        assert_eq!(house.post("/v1/models/digits:predict", instance([1.0; 4])).await.status, 200);
        let points = house.get("/api/v1/timeseries").await.json()["points"].as_array().expect("points").clone();
        (is_some(&points, "finished_per_s") && is_some(&points, "p99_ms")).then_some(points)
    });
    let points = points.await;
    let last = points.last().expect("one");
    assert_eq!(last["workers"], 1, "{last}");
    let last = last["time_ms"].as_u64().expect("a time");
    let next = house.get(&format!("/api/v1/timeseries?since_ms={last}")).await.json();
    let later = next["points"].as_array().expect("points").iter().all(|point| point["time_ms"].as_u64() > Some(last));
    assert!(later, "{next}");
    assert_eq!(house.get("/api/v1/timeseries?since_ms=-1").await.refusal(), (400, "invalid_parameter".to_owned()));
    house.stop().await;
}

#[tokio::test]
async fn workers_are_listed_with_what_they_have() {
    let house = House::start().await;
    let list = house.get("/api/v1/workers").await.json();
    let worker = &list["workers"][0];
    assert_eq!((worker["id"].as_str(), worker["sessions"].as_u64()), (Some("scripted"), Some(1)), "{list}");
    let names: Vec<_> = worker["models"].as_array().expect("models").iter().map(|model| &model["name"]).collect();
    assert_eq!(names, ["digits", "pair", "text"]);
    assert_eq!(house.get("/api/v1/workers?all=1").await.refusal(), (400, "invalid_parameter".to_owned()));
    house.stop().await;
}

#[tokio::test]
async fn dead_letters_are_grouped_and_a_group_is_moved_whole() {
    let house = House::start().await;
    let mut ids = Vec::new();
    for _ in 0..12 {
        ids.push(house.enqueue("?max_retries=0", [666.0; 4]).await);
    }
    let groups = poll(Duration::from_secs(30), async || {
        let groups = house.get("/api/v1/queues/digits/dead/groups").await.json();
        (groups["looked_through"] == 12).then_some(groups)
    });
    let groups = groups.await;
    let group = &groups["groups"][0];
    assert_eq!(
        (group["count"].as_u64(), group["code"].as_str(), &groups["more"]),
        (Some(12), Some("inference_failed"), &false.into()),
        "{groups}"
    );
    assert_eq!(group["samples"].as_array().map(Vec::len), Some(10));
    assert!(ids.iter().any(|id| group["samples"][0] == id.as_str()), "{groups}");
    let id = group["id"].as_str().expect("an id");
    for (query, refusal) in [
        ("group=ffff", (404, "job_not_found")),
        (&*format!("group={id}&limit=3"), (400, "invalid_parameter")),
        (&*format!("group={id}&ids={}", ids[0]), (400, "invalid_parameter")),
    ] {
        let refused = house.post(&format!("/api/v1/queues/digits/dead/redrive?{query}"), "").await.refusal();
        assert_eq!((refused.0, refused.1.as_str()), refusal, "{query}");
    }
    let moved = house.post(&format!("/api/v1/queues/digits/dead/redrive?group={id}"), "").await;
    assert_eq!(moved.json()["count"], 12, "{}", moved.text);
    poll(Duration::from_secs(30), async || {
        let groups = house.get("/api/v1/queues/digits/dead/groups").await.json();
        (groups["groups"][0]["count"] == 12 && groups["groups"][0]["id"] == id).then_some(())
    })
    .await;
    let purge = house.client.delete(house.url(&format!("/api/v1/queues/digits/dead?group={id}")));
    assert_eq!(house.send(purge).await.json()["count"], 12);
    assert_eq!(house.get("/api/v1/queues/digits/dead/groups").await.json()["groups"], serde_json::json!([]));
    house.stop().await;
}
