//! TensorFlow Serving, kserve v1, SageMaker, the documents.

use serde_json::json;

use crate::harness::{House, instance};
use nobat_gateway::GatewayConfig;

#[tokio::test]
async fn predict_takes_rows_and_columns_and_answers_in_kind() {
    let house = House::start().await;
    for (path, body, expected) in [
        (
            "/v1/models/digits:predict",
            r#"{"instances": [[1, 1, 0, 0]]}"#,
            r#"{"predictions":[{"label":2,"probabilities":[0.5,0.5,0.0,0.0]}]}"#,
        ),
        (
            "/v1/models/digits/versions/1:predict",
            r#"{"signature_name":"serving_default","inputs": {"input":[[1, 1, 0, 0]]}}"#,
            r#"{"outputs":{"label":[2],"probabilities":[[0.5,0.5,0.0,0.0]]}}"#,
        ),
        (
            "/v1/models/pair/labels/stable:predict",
            r#"{"instances": [{"a":1,"b":2},{"b":3,"a":4}]}"#,
            r#"{"predictions":[[3.0],[7.0]]}"#,
        ),
        ("/v1/models/pair:predict?version=1", r#"{"inputs": {"a":[1],"b":[2]}}"#, r#"{"outputs":[[3.0]]}"#),
        (
            "/v1/models/text:predict",
            r#"{"instances": ["hé", {"b64":"/w=="}]}"#,
            r#"{"predictions":["hé",{"b64":"/w=="}]}"#,
        ),
        ("/v1/models/pair:regress", r#"{"examples": [{"a":1,"b":2},{"a":3,"b":4}]}"#, r#"{"result":[3.0,7.0]}"#),
        (
            "/v1/models/digits:classify",
            r#"{"examples": [{"input":[1, 1, 0, 0]}]}"#,
            r#"{"result":[[["0",0.5],["1",0.5],["2",0.0],["3",0.0]]]}"#,
        ),
    ] {
        let request = house.client.post(house.url(path)).header("content-type", "application/x-www-form-urlencoded");
        let reply = house.send(request.body(body)).await;
        assert_eq!((reply.status, reply.text.as_str()), (200, expected), "{path}");
        assert_eq!(reply.header("content-type"), "application/json");
    }
    assert_eq!(house.post("/v1/models/text:regress", r#"{"examples":[]}"#).await.status, 400);
    house.stop().await;
}

#[tokio::test]
async fn status_metadata_and_lists_have_the_shapes_of_their_clients() {
    let house = House::start().await;
    let status = house.get("/v1/models/digits").await.json();
    assert_eq!(
        status["model_version_status"],
        json!([{"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}])
    );
    assert_eq!((&status["ready"], &status["object"]), (&json!(true), &json!("model")));
    assert_eq!(house.get("/v1/models/digits/versions/1").await.json()["ready"], true);
    let metadata = house.get("/v1/models/digits/metadata").await.json();
    let signature = &metadata["metadata"]["signature_def"]["signature_def"]["serving_default"];
    assert_eq!(signature["inputs"]["input"]["dtype"], "DT_FLOAT");
    assert_eq!(signature["inputs"]["input"]["tensor_shape"]["dim"][0]["size"], "-1");
    let list = house.get("/v1/models").await.json();
    assert_eq!((&list["object"], &list["models"]), (&json!("list"), &json!(["digits", "pair", "text"])));
    assert_eq!(house.get("/").await.json(), json!({"status": "alive"}));
    house.stop().await;
}

#[tokio::test]
async fn the_default_model_answers_where_none_is_named() {
    let house = House::start_with(GatewayConfig { default_model: "digits".into(), ..GatewayConfig::default() }).await;
    for path in ["/predict", "/invocations"] {
        assert_eq!(
            house.post(path, instance([1.0, 0.0, 0.0, 0.0])).await.json()["predictions"][0]["label"],
            1,
            "{path}"
        );
    }
    assert_eq!(house.get("/ping").await.status, 200);
    house.stop().await;
    let house = House::start().await;
    assert_eq!(house.post("/predict", instance([1.0; 4])).await.refusal(), (404, "model_not_found".into()));
    assert_eq!(house.get("/ping").await.refusal(), (503, "model_not_ready".into()));
    house.stop().await;
}

#[tokio::test]
async fn a_synchronous_call_that_is_late_is_a_504_with_its_job_cancelled() {
    let house = House::start().await;
    house.post("/api/v1/queues/digits/pause", "").await;
    let late = house.post("/v1/models/digits:predict?deadline=50ms", instance([1.0; 4])).await;
    assert_eq!(late.refusal(), (504, "deadline_exceeded".into()), "{}", late.text);
    assert!(late.json()["error"].as_str().expect("TensorFlow Serving's shape").contains("50 ms"), "{}", late.text);
    let id = late.json()["job"].as_str().expect("the job").to_owned();
    let state = house.get(&format!("/api/v1/jobs/{id}")).await.json()["state"].clone();
    assert!(state == "cancelled" || state == "expired", "{state}");
    house.stop().await;
}

#[tokio::test]
async fn the_documents_are_served() {
    let house = House::start().await;
    let document = house.get("/api/openapi.json").await.json();
    assert!(document["openapi"].as_str().expect("a version").starts_with("3.1"));
    let page = house.get("/docs").await;
    assert_eq!(page.status, 200, "follows the redirect");
    assert!(page.text.contains("swagger-ui"), "{}", page.text);
    house.stop().await;
}
