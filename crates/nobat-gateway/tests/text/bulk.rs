//! Requests of more texts than one job may have.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::house::House;

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|at| "x".repeat(at % 17) + &format!("{at}")).collect()
}

#[tokio::test]
async fn thousands_of_texts_are_answered_as_one_with_few_jobs_in_flight() {
    let house = House::start().await;
    let texts = texts(5_000);
    house.script.pause_ms.store(1, Ordering::Relaxed);
    let answer = house.ask("/v1/embeddings", &json!({"input": texts})).await;
    let data = answer["data"].as_array().expect("a list");
    assert_eq!(data.len(), texts.len());
    for (at, (entry, text)) in data.iter().zip(&texts).enumerate() {
        assert_eq!(
            (entry["index"].as_u64(), entry["embedding"][0].as_f64()),
            (Some(at as u64), Some(text.len() as f64))
        );
    }
    assert_eq!(answer["usage"]["total_tokens"], 5_000);
    assert_eq!(house.jobs("embed"), 5_000usize.div_ceil(16), "parts of the model's batch size");
    let most = house.script.most_waiting.load(Ordering::Relaxed);
    assert!((2..=64).contains(&most), "{most} jobs waited at once");
    let vectors = house.ask("/embed", &json!({"inputs": texts})).await;
    assert_eq!(vectors.as_array().map(Vec::len), Some(5_000));
    let ranked = house.ask("/rerank", &json!({"query": "7", "texts": texts})).await;
    assert_eq!(ranked.as_array().map(Vec::len), Some(5_000));
}

#[tokio::test]
async fn a_part_that_fails_is_tried_again_alone() {
    let house = House::start().await;
    let texts = texts(320);
    house.script.failures.store(3, Ordering::Relaxed);
    let answer = house.ask("/v1/embeddings", &json!({"input": texts})).await;
    assert_eq!(answer["data"].as_array().map(Vec::len), Some(320));
    assert_eq!(house.jobs("embed"), 20 + 3);
}

#[tokio::test]
async fn an_interactive_request_goes_before_what_waits_of_a_large_one() {
    let house = House::start().await;
    house.script.pause_ms.store(40, Ordering::Relaxed);
    let (url, client) = (house.url("/v1/embeddings"), house.client.clone());
    let large = tokio::spawn(async move {
        let body = json!({"input": texts(1_600)}).to_string();
        client.post(url).body(body).send().await.expect("an answer").text().await.expect("a body")
    });
    while house.jobs("embed") < 8 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    house.ask("/v1/embeddings", &json!({"input": "interactive"})).await;
    let ran = house.script.ran.lock().clone();
    let place = ran.iter().position(|text| text == "interactive").expect("it ran");
    assert!(place < 1_000, "it ran after {place} of 1,600 texts");
    let answer: Value = serde_json::from_str(&large.await.expect("ends")).expect("whole");
    assert_eq!(answer["data"].as_array().map(Vec::len), Some(1_600));
}

#[tokio::test]
async fn a_text_that_is_too_long_is_named_by_its_place_in_the_request() {
    let house = House::start().await;
    let mut texts = texts(200);
    texts[3] = "word ".repeat(20);
    let reply = house.post("/v1/embeddings", &json!({"input": texts, "truncate": false})).await;
    assert_eq!(reply.status, 400, "{}", reply.text);
    assert!(reply.text.contains("text 3 has 20 tokens, and 16 is the most"), "{}", reply.text);
    // Later, the answer has begun: it is broken off.
    let mut texts = self::texts(200);
    texts[150] = "word ".repeat(20);
    let request = house.client.post(house.url("/v1/embeddings"));
    let is_whole = match request.body(json!({"input": texts, "truncate": false}).to_string()).send().await {
        Ok(answer) => answer.text().await.is_ok(),
        // Nothing of it was on its way yet.
        Err(_) => false,
    };
    assert!(!is_whole, "no whole answer");
}

#[tokio::test]
async fn native_and_tensorflow_servings_calls_take_any_number_of_rows_where_they_are_answered_row_by_row() {
    let house = House::start().await;
    let texts = texts(1_600);
    for path in ["/api/v1/predict/embed?wait=30s", "/v1/models/embed:predict"] {
        let before = house.jobs("embed");
        let answer = house.ask(path, &json!({"instances": texts})).await;
        assert_eq!(house.jobs("embed") - before, 100, "{path}");
        let rows = answer["predictions"].as_array().expect("a list");
        assert_eq!(rows.len(), 1_600);
        for (row, text) in rows.iter().zip(&texts) {
            assert_eq!((row["embedding"][0].as_f64(), &row["tokens"]), (Some(text.len() as f64), &json!(1)));
        }
        let records = json!({"records": texts.iter().map(|text| json!({"text": text})).collect::<Vec<_>>()});
        assert_eq!(house.ask(path, &records).await["predictions"].as_array().map(Vec::len), Some(1_600), "{path}");
        let columns = house.post(path, &json!({"inputs": {"text": texts}})).await;
        assert_eq!(columns.status, 413, "{}", columns.text);
        assert!(
            columns.text.contains("over the limit of 64 in column form") && columns.text.contains("`instances`"),
            "{}",
            columns.text
        );
        let bad = house.post(path, &json!({"instances": texts, "parameters": {"dimension": 2}})).await;
        assert!(bad.status == 400 && bad.text.contains("`dimension`"), "{}", bad.text);
    }
    let native = house.ask("/api/v1/predict/embed?wait=30s", &json!({"instances": texts})).await;
    assert_eq!(
        (&native["id"], &native["model"], &native["state"]),
        (&json!(null), &json!("embed"), &json!("succeeded"))
    );
    // Nobody waits, so there is one job, and it has a limit.
    let left = house.post("/api/v1/predict/embed", &json!({"instances": texts})).await;
    assert!(left.status == 413 && left.text.contains("over the limit of 64"), "{}", left.text);
    house.script.pause_ms.store(50, Ordering::Relaxed);
    let late = house.client.post(house.url("/v1/models/embed:predict?deadline=300ms"));
    let is_whole = match late.body(json!({"instances": texts}).to_string()).send().await {
        Ok(answer) => answer.status() == 200 && answer.text().await.is_ok(),
        Err(_) => false,
    };
    assert!(!is_whole, "a deadline ends it");
}
