//! `POST /v1/embeddings` and the list of models.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nobat_gateway::GatewayConfig;
use serde_json::json;

use crate::house::House;

const PATH: &str = "/v1/embeddings";

#[tokio::test]
async fn every_form_of_input_is_answered_in_its_order_with_its_tokens() {
    let house = House::start().await;
    let one = house.ask(PATH, &json!({"input": "two words"})).await;
    assert_eq!(one["data"], json!([{"object": "embedding", "index": 0, "embedding": [9.0, 116.0, 1.0]}]));
    assert_eq!((&one["object"], &one["model"]), (&json!("list"), &json!("embed")));
    assert_eq!(one["usage"], json!({"prompt_tokens": 2, "total_tokens": 2}));
    let many = house.ask(PATH, &json!({"model": "embed", "input": ["a", "bb bb", ""], "user": "me"})).await;
    let lengths: Vec<_> = (0..3).map(|at| many["data"][at]["embedding"][0].as_f64().expect("a number")).collect();
    assert_eq!((lengths, &many["usage"]["total_tokens"]), (vec![1.0, 5.0, 0.0], &json!(3)));
    let ids = house.ask(PATH, &json!({"input": [1, 20]})).await;
    assert_eq!(ids["data"][0]["embedding"][0], 6.0, "the ids travel as their JSON");
    let lists = house.ask(PATH, &json!({"input": [[1], [2, 3]]})).await;
    assert_eq!(lists["data"].as_array().expect("a list").len(), 2);
}

#[tokio::test]
async fn base64_is_little_endian_floats_and_dimensions_are_the_models_to_cut() {
    let house = House::start().await;
    let answer = house.ask(PATH, &json!({"input": "abc", "encoding_format": "base64", "dimensions": 2})).await;
    let bytes = STANDARD.decode(answer["data"][0]["embedding"].as_str().expect("a text")).expect("base64");
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    assert_eq!(values, [3.0, 97.0]);
}

#[tokio::test]
async fn refusals_have_openai_s_shape() {
    let house = House::start().await;
    let long = "word ".repeat(20);
    for (body, status, kind, says) in [
        (json!({"input": []}), 400, "invalid_request_error", "input is empty"),
        (json!({"input": 5}), 400, "invalid_request_error", "input"),
        (json!({}), 400, "invalid_request_error", "input is missing"),
        (json!({"input": "a", "nonsense": 1}), 400, "invalid_request_error", "`nonsense`"),
        (json!({"input": "a", "dimensions": 9}), 400, "invalid_request_error", "has 3"),
        (json!({"input": ["a", long], "truncate": false}), 400, "invalid_request_error", "text 1 has 20 tokens"),
        (json!({"input": "a", "model": "nobody"}), 404, "invalid_request_error", "nobody"),
        (json!({"input": "a", "model": "rerank"}), 400, "invalid_request_error", "task rerank"),
    ] {
        let reply = house.post(PATH, &body).await;
        let error = &reply.json()["error"];
        assert_eq!((reply.status, error["type"].as_str()), (status, Some(kind)), "{body}: {}", reply.text);
        assert!(error["message"].as_str().is_some_and(|message| message.contains(says)), "{body}: {}", reply.text);
        assert!(error["code"].is_string() && error["param"].is_null(), "{body}: {}", reply.text);
    }
    let wrong = house.get(PATH).await;
    assert_eq!((wrong.status, wrong.json()["error"]["code"].as_str()), (405, Some("method_not_allowed")));
}

#[tokio::test]
async fn where_several_models_would_do_one_has_to_be_named_or_set() {
    let house = House::start_with(&["embed", "other"], GatewayConfig::default()).await;
    let reply = house.post(PATH, &json!({"input": "a"})).await;
    assert_eq!(reply.status, 400, "{}", reply.text);
    let message = reply.json()["error"]["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("embed, other") && message.contains("gateway.default_model"), "{message}");
    assert_eq!(house.ask(PATH, &json!({"input": "a", "model": "other"})).await["model"], "other");

    let config = GatewayConfig { default_model: "other".into(), ..GatewayConfig::default() };
    let house = House::start_with(&["embed", "other"], config).await;
    assert_eq!(house.ask(PATH, &json!({"input": "a"})).await["model"], "other");
}

#[tokio::test]
async fn models_are_listed_as_openai_s_clients_look_for_them() {
    let house = House::start().await;
    let list = house.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let names: Vec<_> = list["data"].as_array().expect("a list").iter().map(|model| model["id"].clone()).collect();
    assert_eq!(names, ["classify", "embed", "rerank", "sparse"]);
    assert_eq!(house.get("/v1/models/embed").await.json()["object"], "model");
}
