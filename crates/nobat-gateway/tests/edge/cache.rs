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
