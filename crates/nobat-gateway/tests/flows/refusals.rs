//! What is wrong is refused when it is declared, with the value and the remedy.

use nobat_gateway::GatewayConfig;
use nobat_webhooks::WebhookSettings;
use nobat_webhooks::outbound::AddressPolicy;
use serde_json::{Value, json};

use crate::house::{House, row};

#[tokio::test]
async fn a_route_that_cannot_be_is_refused_when_it_is_declared() {
    let house = House::start(json!([{"name": "a", "direct": "b"}, {"name": "b", "direct": "one"}])).await;
    let shares = |one, two| json!({"weighted": [{"target": "one", "percent": one}, {"target": "two", "percent": two}]});
    let differing = json!({"fanout": {"targets": ["one", "other"]}});
    for (name, rule, said) in [
        ("b", json!({"direct": "a"}), &["part of the cycle", "let one of them name a model"][..]),
        ("r", json!({"topic": {"pattern": "audio.#"}}), &["`audio.#` matches no model", "routing keys: math."]),
        ("r", json!({"topic": {"pattern": "vis*on.#"}}), &["`vis*on`"]),
        ("r", shares(90.0, 5.0), &["add up to 95; make them 100"]),
        ("r", shares(110.0, -10.0), &["gives `one` 110 percent; take 0 to 100"]),
        ("r", differing, &["`one` with inputs (x FP32", "`other` with (x FP64", "group models of one signature"]),
        ("r", json!({"direct": "nope"}), &["names `nope`, which no worker serves; ready: "]),
        ("r", json!({"fanout": {"targets": ["one", "two"], "join": "median"}}), &["`median`", "`majority`"]),
        ("r", json!({"fanout": {"targets": ["int-a", "int-b"], "join": "mean"}}), &["`n` (INT64) by mean", "FP32"]),
        ("r", json!({}), &["give it one of direct, topic, fanout, weighted, shadow"]),
        ("r", json!({"name": "s", "direct": "one"}), &["the body names route `s` and the path `r`"]),
    ] {
        let refused = house.put(&format!("/api/v1/routes/{name}"), rule.clone()).await;
        assert_eq!(refused.status, 400, "{rule}: {}", refused.json);
        for part in said {
            assert!(refused.message().contains(part), "{rule}: {}", refused.message());
        }
    }
    assert_eq!(house.get("/api/v1/routes").await.json["routes"].as_array().map(Vec::len), Some(2), "nothing changed");
    let unknown = house.get("/api/v1/routes/nope").await;
    assert_eq!((unknown.status, &unknown.json["code"]), (404, &json!("route_not_found")));
}

#[test]
fn a_configuration_with_a_cycle_or_wrong_weights_does_not_start() {
    let refused = |routes: Value| {
        let config =
            GatewayConfig { routes: serde_json::from_value(routes).expect("routes"), ..GatewayConfig::default() };
        config.validate().expect_err("refused").message
    };
    let cycle = refused(json!([{"name": "a", "direct": "b"}, {"name": "b", "direct": "a"}]));
    assert!(cycle.contains("part of the cycle") && cycle.contains("let one of them name a model"), "{cycle}");
    let weights = refused(json!([{"name": "a", "weighted": [{"target": "m", "percent": 99}]}]));
    assert!(weights.contains("add up to 99; make them 100"), "{weights}");
    let secret = WebhookSettings { secrets: vec!["whsec_??".into()], ..WebhookSettings::default() };
    let secret = GatewayConfig { webhooks: secret, ..GatewayConfig::default() }.validate().expect_err("refused");
    assert!(secret.message.contains("webhooks.secrets") && !secret.message.contains("??"), "{secret}");
}

#[test]
fn a_periodic_task_whose_webhook_is_private_is_refused_when_it_is_declared() {
    let scheduler = serde_json::from_value(json!({"periodic": [{
        "name": "p", "schedule": "@daily",
        "predict": {"model": "m", "webhook": "https://192.168.0.1/hook", "request": {"inputs": []}},
    }]}))
    .expect("settings");
    let refused = GatewayConfig::default().check_tasks(&scheduler).expect_err("refused").message;
    assert!(refused.contains("task `p`") && refused.contains("192.168.0.1"), "{refused}");
}

#[tokio::test]
async fn a_webhook_to_a_private_address_is_refused_when_a_job_names_it() {
    let strict = WebhookSettings { addresses: AddressPolicy::default(), ..WebhookSettings::default() };
    let house = House::start_strict(strict).await;
    for url in ["http://example.com/", "https://10.0.0.1/", "https://[::1]/", "https://user@example.com/", "ftp://x/"] {
        let refused = house.post(&format!("/api/v1/predict/one?webhook={url}"), &row()).await;
        assert_eq!((refused.status, &refused.json["code"]), (400, &json!("invalid_parameter")), "{url}");
        assert!(refused.message().starts_with("webhook: "), "{url}: {}", refused.message());
        let many = house.post(&format!("/api/v1/predict/one/many?webhook={url}"), &json!({"requests": [row()]})).await;
        assert_eq!((many.status, &many.json["code"]), (400, &json!("invalid_parameter")), "{url}: the call as a whole");
    }
    let counts = house.get("/api/v1/queues/one").await.json;
    assert_eq!(counts["queued"], 0, "nothing was enqueued: {counts}");
}
