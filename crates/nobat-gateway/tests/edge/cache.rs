//! The result cache as callers see it.

use std::sync::Arc;
use std::time::Duration;

use nobat_gateway::GatewayConfig;
use serde_json::json;

use crate::house::House;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_identical_requests_at_once_cost_one_run() {
    let run_time = Duration::from_millis(300);
    let house = Arc::new(House::start(GatewayConfig::default(), json!({ "cache": true }), run_time).await);
    let asking: Vec<_> = (0..1_000)
        .map(|_| {
            let house = house.clone();
            tokio::spawn(async move { house.predict(7.0, None, &[]).await })
        })
        .collect();
    for one in asking {
        let reply = one.await.expect("asked");
        assert_eq!((reply.status, reply.json()["predictions"][0][0].as_f64()), (200, Some(7.0)), "{}", reply.text);
        assert!(reply.header("cache-status").starts_with("nobat; "), "{:?}", reply.headers);
    }
    assert_eq!(house.run_count(), 1);
    Arc::into_inner(house).expect("nobody asks any more").stop().await;
}

#[tokio::test]
async fn the_answer_says_what_the_cache_did() {
    let house = House::start(GatewayConfig::default(), json!({ "cache": { "policy": "lfu" } }), Duration::ZERO).await;
    let status = async |headers: &[(&str, &str)]| {
        let reply = house.predict(1.0, None, headers).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.header("cache-status").to_owned()
    };
    assert_eq!(status(&[]).await, "nobat; fwd=miss; stored");
    assert_eq!(status(&[]).await, "nobat; hit");
    assert_eq!(status(&[("cache-control", "no-cache")]).await, "nobat; fwd=request; stored");
    assert_eq!(house.run_count(), 2);
    assert!(house.scrape().await.contains("nobat_cache_requests_total{model=\"echo\",outcome=\"hit\"} 1"));
    house.stop().await;
}

#[tokio::test]
async fn a_model_that_does_not_ask_has_no_cache() {
    let house = House::start(GatewayConfig::default(), json!({}), Duration::ZERO).await;
    for _ in 0..2 {
        assert_eq!(house.predict(1.0, None, &[]).await.header("cache-status"), "");
    }
    assert_eq!(house.run_count(), 2);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hit_answers_for_a_version_that_is_gone() {
    let house = House::start(GatewayConfig::default(), json!({ "cache": true }), Duration::from_millis(5)).await;
    let mut house = Arc::new(house);
    let newer = house.start_worker_of("2");
    until_served(&house, &["2", "1"]).await;
    let mut of_older = 0;
    for turn in 0..40 {
        let asking: Vec<_> = (0..8)
            .map(|n| {
                let house = house.clone();
                tokio::spawn(async move { house.ask(n as f32 + turn as f32 * 8.0, "").await })
            })
            .collect();
        for one in asking {
            let reply = one.await.expect("asked");
            assert_eq!(reply.status, 200, "{}", reply.text);
            of_older += u32::from(reply.json()["version"] == "1");
        }
        if turn > 5 && of_older > 20 {
            break;
        }
    }
    assert!(of_older > 0, "the worker with version 1 took its share");
    Arc::get_mut(&mut house).expect("nobody asks").kill_worker();
    until_served(&house, &["2"]).await;
    let mut hits = 0;
    for n in 0..48 {
        let reply = house.ask(n as f32, "").await;
        assert_eq!((reply.status, reply.json()["version"].as_str()), (200, Some("2")), "{}", reply.text);
        hits += u32::from(reply.header("cache-status") == "nobat; hit" || reply.json()["explain"]["cache"] == "hit");
    }
    assert!(hits > 0, "what version 2 answered is kept");
    newer.iter().for_each(|task| task.abort());
    Arc::into_inner(house).expect("nobody asks any more").stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_request_does_not_follow_a_run_of_another_version() {
    let house = House::start(GatewayConfig::default(), json!({ "cache": true }), Duration::from_millis(200)).await;
    let house = Arc::new(house);
    let newer = house.start_worker_of("2");
    until_served(&house, &["2", "1"]).await;
    for n in 0..12 {
        let (free, pinned) = (house.clone(), house.clone());
        let free = tokio::spawn(async move { free.ask(n as f32, "").await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let pinned = pinned.ask(n as f32, "&version=2").await;
        assert_eq!(free.await.expect("asked").status, 200);
        // The scripted workers do not heed the pin; the gateway asks anew rather than repeat
        // what another version said.
        assert!(pinned.json()["version"] == "2" || pinned.json()["explain"]["cache"] != "coalesced", "{}", pinned.text);
    }
    newer.iter().for_each(|task| task.abort());
    Arc::into_inner(house).expect("nobody asks any more").stop().await;
}

/// Waits until the gateway sees live workers for exactly these versions.
async fn until_served(house: &House, versions: &[&str]) {
    for _ in 0..200 {
        let shown = house.get("/api/v1/models/echo", None).await.json();
        let live = |version: &&serde_json::Value| !version["workers"].as_array().is_none_or(Vec::is_empty);
        let live = shown["versions"].as_array().into_iter().flatten().filter(live);
        if live.map(|version| version["version"].as_str().unwrap_or_default()).eq(versions.iter().copied()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the gateway never saw versions {versions:?} served");
}
