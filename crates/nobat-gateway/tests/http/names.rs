//! One rule for the names of models, on every path, and what a body may be.

use std::time::Duration;

use nobat_core::model_name;
use nobat_queue::WorkerInfo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::harness::{House, digits, instance};

const NAMES: [&str; 6] = ["a+b", "per%cent", "a%2Fb", "naïve-模型", "tilde~1", "a b"];

#[tokio::test]
async fn a_slash_at_the_end_of_a_path_changes_nothing() {
    let house = House::start().await;
    for path in
        ["/v1/models", "/v1/models/digits", "/v2", "/v2/models/digits", "/v2/health/ready", "/api/v1/models", "/livez"]
    {
        let (plain, slash) = (house.get(path).await, house.get(&format!("{path}/")).await);
        assert_eq!((slash.status, &slash.text), (plain.status, &plain.text), "{path}/");
        assert_ne!(plain.status, 404, "{path}");
    }
    let queried = house.get("/api/v1/jobs/?limit=1").await;
    assert_eq!(queried.status, 200, "{}", queried.text);
    let refused = house.get("/api/v1/jobs/?limit=x").await;
    assert_eq!(refused.refusal(), (400, "invalid_parameter".into()), "its query is read: {}", refused.text);
    for path in ["/v1/models/digits:predict/", "/api/v1/predict/digits/?wait=10"] {
        let reply = house.post(path, instance([1.0, 0.0, 0.0, 0.0])).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text);
    }
    assert_eq!(house.get("/api/v1/models//").await.refusal(), (404, "route_not_found".into()));
    assert_eq!(house.get("/docs/").await.status, 200, "a folder of its own");
    house.stop().await;
}

#[tokio::test]
async fn a_name_is_the_same_model_on_every_path() {
    let house = House::start().await;
    let shared = house.gateway.serving();
    let models = NAMES.iter().map(|&name| nobat_core::signature::ModelSignature { name: name.into(), ..digits() });
    let info = WorkerInfo {
        id: "names".into(),
        host: "here:2".into(),
        started_at_ms: 1,
        sessions: 1,
        models: models.collect(),
        report: serde_json::json!({}),
    };
    shared.queue.register_worker(&info, Duration::from_secs(600)).await.expect("registers");
    shared.registry.refresh(&*shared.queue).await.expect("refreshes");
    for name in NAMES {
        assert_eq!(model_name::objection(name), None, "{name}");
        let encoded = utf8_percent_encode(name, NON_ALPHANUMERIC).to_string();
        for path in [
            "/v1/models/{}",
            "/v1/models/{}/versions/1",
            "/v1/models/{}/metadata",
            "/v2/models/{}",
            "/v2/models/{}/versions/1",
            "/v2/models/{}/ready",
            "/v2/models/{}/config",
            "/v2/models/{}/versions/1/config",
            "/v2/models/{}/stats",
            "/api/v1/models/{}",
            "/api/v1/queues/{}",
        ] {
            let reply = house.get(&path.replace("{}", &encoded)).await;
            assert_eq!(reply.status, 200, "{name} at {path}: {}", reply.text);
            assert!(reply.json().to_string().contains(name), "{name} at {path}: {}", reply.text);
        }
        // Accepted for the queue: nobody runs it here.
        let reply = house.post(&format!("/api/v1/predict/{encoded}"), instance([1.0; 4])).await;
        assert_eq!(reply.status, 202, "{name}: {}", reply.text);
    }
    // Nobody takes the command up here; that it is a name is what counts.
    let load = house.post("/v2/repository/models/na%C3%AFve-%E6%A8%A1%E5%9E%8B/load", "{}").await;
    assert_ne!(load.refusal().1, "invalid_parameter", "{}", load.text);
    let path = house.post("/v2/repository/models/..%2Fa/load", "{}").await;
    assert_eq!(path.refusal(), (400, "invalid_parameter".into()), "{}", path.text);
    house.stop().await;
}

#[tokio::test]
async fn a_body_that_is_no_json_is_told_by_its_type() {
    let house = House::start().await;
    let predict = async |path: &str, kind: Option<&str>, body: &'static str| {
        let mut request = house.client.post(house.url(path)).body(body);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        house.send(request).await
    };
    let rows = r#"{"instances":[[1,2,3,4]]}"#;
    for path in ["/v1/models/digits:predict", "/api/v1/predict/digits?wait=10", "/v2/models/digits/infer"] {
        for kind in [None, Some("text/html"), Some("application/x-www-form-urlencoded"), Some("image/png")] {
            let reply = predict(path, kind, "1,2,3,4").await;
            assert_eq!(reply.refusal(), (415, "unsupported_media_type".into()), "{path} {kind:?}");
            assert!(reply.text.contains("application/json"), "{}", reply.text);
            assert!(kind.is_none_or(|kind| reply.text.contains(kind)), "{}", reply.text);
        }
        for kind in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"] {
            let reply = predict(path, Some(kind), "1,2,3,4").await;
            assert_eq!(reply.refusal(), (400, "invalid_json".into()), "{path} {kind}: it says that it is");
        }
    }
    // What begins as JSON is read: many clients send a form's type, or none.
    for kind in [None, Some("application/x-www-form-urlencoded"), Some("text/plain")] {
        let reply = predict("/v1/models/digits:predict", kind, rows).await;
        assert_eq!(reply.status, 200, "{kind:?}: {}", reply.text);
    }
    house.stop().await;
}

#[tokio::test]
async fn the_document_says_that_keys_are_a_way_in() {
    let house = House::start().await;
    let document = house.get("/api/openapi.json").await.json();
    let scheme = &document["components"]["securitySchemes"]["api_key"];
    assert_eq!((scheme["type"].as_str(), scheme["scheme"].as_str()), (Some("http"), Some("bearer")), "{scheme}");
    assert_eq!(document["security"], serde_json::json!([{ "api_key": [] }, {}]));
    assert_eq!(document["paths"]["/livez"]["get"]["security"], serde_json::json!([]));
    assert!(document["paths"]["/api/v1/jobs"]["get"]["security"].is_null());
    house.stop().await;
}

#[tokio::test]
async fn what_takes_far_more_memory_than_its_text_is_read_up_to_a_bound() {
    let house = House::start().await;
    let many = format!("{{\"a\":[{}0]}}", "{},".repeat(200_000));
    let rows = format!("{{\"instances\":[[1,2,3,4]],\"parameters\":{many}}}");
    let tensors = format!("{{\"inputs\":[],\"parameters\":{many}}}");
    for (path, body) in [
        ("/api/v1/predict/digits?wait=10", &rows),
        ("/v1/models/digits:predict", &rows),
        ("/v2/models/digits/infer", &tensors),
    ] {
        let reply = house.post(path, body.clone()).await;
        assert_eq!(reply.status, 400, "{path}: {}", reply.text);
        assert!(
            reply.text.contains("`parameters` is 600009 bytes of JSON; at most 262144 are read there"),
            "{}",
            reply.text
        );
    }
    house.stop().await;
}
