//! Limits over HTTP: refused early, told why, told when to come again.

use std::sync::Arc;
use std::time::Duration;

use nobat_gateway::GatewayConfig;
use nobat_gateway::limits::LimitsConfig;
use serde_json::json;

use crate::house::House;

#[tokio::test(flavor = "multi_thread")]
async fn too_many_in_flight_are_ours_to_refuse_and_the_rest_are_answered() {
    let limits = LimitsConfig { max_in_flight: 5, ..LimitsConfig::default() };
    let config = GatewayConfig { limits, ..GatewayConfig::default() };
    let house = Arc::new(House::start(config, json!({}), Duration::from_millis(200)).await);
    let asking: Vec<_> = (0..50)
        .map(|value| {
            let house = house.clone();
            tokio::spawn(async move { house.predict(value as f32, None, &[]).await })
        })
        .collect();
    let (mut answered, mut refused) = (0, 0);
    for one in asking {
        let reply = one.await.expect("asked");
        match reply.status {
            200 => answered += 1,
            503 => {
                refused += 1;
                assert_eq!(reply.json()["code"], "queue_full");
                assert!(reply.header("retry-after").parse::<u32>().expect("seconds") >= 1);
            }
            other => panic!("{other}: {}", reply.text),
        }
    }
    assert!(answered >= 5 && refused >= 1 && answered + refused == 50, "{answered} answered, {refused} refused");
    assert_eq!(house.gateway.shared().edge.limits.in_flight(), 0);
    Arc::into_inner(house).expect("nobody asks any more").stop().await;
}

#[tokio::test]
async fn a_rate_is_the_callers_and_headers_say_where_it_stands() {
    let limits = LimitsConfig { rate_per_s: 0.5, burst: 2, ..LimitsConfig::default() };
    let config = GatewayConfig { limits, ..GatewayConfig::default() };
    let house = House::start(config, json!({}), Duration::ZERO).await;
    let first = house.predict(1.0, None, &[]).await;
    assert_eq!(first.header("ratelimit-policy"), "\"default\";q=2;w=4");
    assert_eq!(first.header("ratelimit"), "\"default\";r=1;t=2");
    assert_eq!(house.predict(1.0, None, &[]).await.status, 200);
    let refused = house.predict(1.0, None, &[]).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (429, Some("rate_limited")));
    assert!(refused.header("retry-after").parse::<u32>().expect("seconds") >= 1);
    assert_eq!(house.get("/api/v1/models", None).await.status, 200, "reading is not limited");
    house.stop().await;
}
