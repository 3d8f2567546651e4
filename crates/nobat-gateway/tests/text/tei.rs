//! text-embeddings-inference's API.

use serde_json::{Value, json};

use crate::house::House;

#[tokio::test]
async fn every_route_answers_in_its_form() {
    let house = House::start().await;
    for (path, body, answer) in [
        ("/embed", json!({"inputs": "abc"}), json!([[3.0, 97.0, 1.0]])),
        (
            "/embed",
            json!({"inputs": ["a", "bb"], "normalize": false, "truncate": true}),
            json!([[1.0, 97.0, 1.0], [2.0, 98.0, 1.0]]),
        ),
        ("/embed_all", json!({"inputs": ["ab"]}), json!([[[2.0]]])),
        (
            "/embed_sparse",
            json!({"inputs": ["ab", "c"]}),
            json!([[{"index": 2, "value": 0.5}], [{"index": 1, "value": 0.5}]]),
        ),
        ("/similarity", json!({"inputs": {"source_sentence": "ab", "sentences": ["ab"]}}), json!([1.0])),
        ("/decode", json!({"ids": [5, 6]}), json!(["decoded [5,6]"])),
        ("/decode", json!({"ids": [[5], [6]], "model": "embed"}), json!(["decoded [5]", "decoded [6]"])),
    ] {
        let body = if path == "/decode" { with(body, "model", "embed") } else { body };
        assert_eq!(house.ask(path, &body).await, answer, "{path}");
    }
    let tokens = house.ask("/tokenize", &json!({"inputs": ["abc"], "model": "rerank"})).await;
    assert_eq!(tokens[0][0]["id"], 3);
    let info = house.get("/info?model=embed").await.json();
    assert_eq!((&info["model_id"], &info["max_input_length"]), (&json!("embed"), &json!(16)));
}

fn with(mut body: Value, name: &str, value: &str) -> Value {
    body[name] = value.into();
    body
}

#[tokio::test]
async fn texts_are_ranked_best_first() {
    let house = House::start().await;
    let ranked = house.ask("/rerank", &json!({"query": "abc", "texts": ["x", "abc", "a"], "return_text": true})).await;
    assert_eq!(
        ranked,
        json!([
            {"index": 1, "score": 3.0, "text": "abc"},
            {"index": 2, "score": 1.0, "text": "a"},
            {"index": 0, "score": 0.0, "text": "x"},
        ])
    );
}

#[tokio::test]
async fn predict_labels_texts_and_still_speaks_tensorflow_serving() {
    let house = House::start_with(&["classify"], nobat_gateway::GatewayConfig::default()).await;
    let alone = house.ask("/predict", &json!({"inputs": "ab"})).await;
    let labels: Vec<_> = alone.as_array().expect("a list").iter().map(|entry| entry["label"].clone()).collect();
    assert_eq!(labels, ["short", "long"]);
    let pair = house.ask("/predict", &json!({"inputs": ["0123456789", "b"]})).await;
    assert_eq!(pair[0]["label"], "long", "one pair, its first text is long");
    let batch = house.ask("/predict", &json!({"inputs": [["a"], ["0123456789"]]})).await;
    assert_eq!((&batch[0][0]["label"], &batch[1][0]["label"]), (&json!("short"), &json!("long")));
    let rows = house.ask("/predict", &json!({"instances": [{"text": "ab"}]})).await;
    assert!(rows["predictions"][0]["scores"].is_array(), "{rows}");
    let mixed = house.post("/predict", &json!({"inputs": [["a"], ["a", "b"]]})).await;
    assert_eq!(mixed.status, 400, "{}", mixed.text);
}

#[tokio::test]
async fn refusals_have_this_api_s_shape() {
    let house = House::start().await;
    let long = "word ".repeat(20);
    for (path, body, status, kind) in [
        ("/embed", json!({"inputs": []}), 400, "Validation"),
        ("/embed", json!({}), 400, "Validation"),
        ("/embed", json!({"inputs": "a", "nonsense": 1}), 422, "Validation"),
        ("/embed", json!({"inputs": [long], "truncate": false}), 422, "Validation"),
        ("/embed", json!({"inputs": "a", "model": "rerank"}), 424, "Backend"),
        ("/rerank", json!({"query": "a", "texts": "b"}), 400, "Validation"),
        ("/tokenize", json!({"inputs": [1]}), 422, "Validation"),
        ("/similarity", json!({"inputs": {"source_sentence": "a"}}), 400, "Validation"),
    ] {
        let reply = house.post(path, &body).await;
        let json = reply.json();
        assert_eq!((reply.status, json["error_type"].as_str()), (status, Some(kind)), "{path} {body}: {}", reply.text);
        assert!(json["error"].is_string() && json["code"].is_string(), "{}", reply.text);
    }
}
