//! `/v1/batches`.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::files::upload;
use crate::house::House;

fn line(id: &str, text: &str) -> String {
    json!({"custom_id": id, "method": "POST", "url": "/v1/embeddings", "body": {"input": text}}).to_string()
}

async fn create(house: &House, lines: &[String], window: &str) -> String {
    let file = upload(house, (lines.join("\n") + "\n").as_bytes()).await;
    let body = json!({"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": window, "metadata": {"a": "b"}});
    let batch = house.ask("/v1/batches", &body).await;
    assert_eq!(
        (&batch["object"], &batch["status"], &batch["metadata"]["a"]),
        (&json!("batch"), &json!("validating"), &json!("b"))
    );
    batch["id"].as_str().expect("an id").to_owned()
}

async fn until(house: &House, id: &str, statuses: &[&str]) -> Value {
    let started = Instant::now();
    loop {
        let batch = house.get(&format!("/v1/batches/{id}")).await.json();
        if statuses.iter().any(|status| batch["status"] == *status) {
            return batch;
        }
        assert!(started.elapsed() < Duration::from_secs(90), "{batch}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The lines of a file by custom id; each has one.
async fn lines(house: &House, id: &Value) -> BTreeMap<String, Value> {
    let text = house.get(&format!("/v1/files/{}/content", id.as_str().expect("a file"))).await.text;
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        let id = line["custom_id"].as_str().unwrap_or("").to_owned();
        assert!(found.insert(id.clone(), line).is_none() || id.is_empty(), "{id} is there twice");
    }
    found
}

#[tokio::test]
async fn every_line_is_answered_once_and_bad_ones_are_told() {
    let house = House::start().await;
    let mut sent: Vec<String> = (0..300).map(|at| line(&format!("id-{at}"), &"x".repeat(at % 40))).collect();
    sent[7] = "{\"custom_id\": \"broken".into();
    sent[9] = line("id-3", "again");
    sent[11] = sent[11].replace("\"input\"", "\"nothing\"");
    sent.insert(20, "  ".into());
    let id = create(&house, &sent, "24h").await;
    let batch = until(&house, &id, &["completed"]).await;
    assert_eq!(batch["request_counts"], json!({"total": 300, "completed": 297, "failed": 3}));
    let output = lines(&house, &batch["output_file_id"]).await;
    assert_eq!(output.len(), 297);
    for (id, line) in &output {
        let at: usize = id.strip_prefix("id-").and_then(|at| at.parse().ok()).expect("one of ours");
        let length = line["response"]["body"]["data"][0]["embedding"][0].as_f64().expect("a number");
        assert_eq!((line["response"]["status_code"].as_u64(), length), (Some(200), (at % 40) as f64), "{id}");
        assert!(line["error"].is_null());
    }
    let errors =
        house.get(&format!("/v1/files/{}/content", batch["error_file_id"].as_str().expect("a file"))).await.text;
    assert_eq!(errors.lines().count(), 3, "{errors}");
    assert!(errors.contains("invalid_json_line") && errors.contains("\"line\":8"), "{errors}");
    assert!(errors.contains("duplicate_custom_id") && errors.contains("stands in line 4 already"), "{errors}");
    assert!(errors.contains("\"status_code\":400") && errors.contains("`nothing`"), "{errors}");
    assert_eq!(house.jobs("embed"), 297, "no line ran twice");
    let list = house.get("/v1/batches").await.json();
    assert_eq!((&list["data"][0]["id"], &list["has_more"]), (&json!(id), &json!(false)));
    let output = batch["output_file_id"].as_str().expect("a file");
    assert_eq!(house.get(&format!("/v1/files/{output}")).await.json()["purpose"], "batch_output");
}

#[tokio::test]
async fn a_batch_goes_on_when_its_gateway_is_replaced() {
    let house = House::start().await;
    house.script.pause_ms.store(20, Ordering::Relaxed);
    let sent: Vec<String> = (0..400).map(|at| line(&format!("id-{at}"), "x")).collect();
    let id = create(&house, &sent, "24h").await;
    while house.jobs("embed") < 60 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let house = house.restart().await;
    let batch = until(&house, &id, &["completed"]).await;
    assert_eq!(batch["request_counts"], json!({"total": 400, "completed": 400, "failed": 0}));
    assert_eq!(lines(&house, &batch["output_file_id"]).await.len(), 400);
    assert!(batch["error_file_id"].is_null());
}

#[tokio::test]
async fn a_cancelled_batch_ends_with_what_is_answered_and_frees_its_file() {
    let house = House::start().await;
    house.script.pause_ms.store(50, Ordering::Relaxed);
    let sent: Vec<String> = (0..2_000).map(|at| line(&format!("id-{at}"), "x")).collect();
    let id = create(&house, &sent, "24h").await;
    while house.jobs("embed") < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let batch = house.get(&format!("/v1/batches/{id}")).await.json();
    let file = house.url(&format!("/v1/files/{}", batch["input_file_id"].as_str().expect("a file")));
    let refused = house.send(house.client.delete(&file)).await;
    assert!(refused.status == 409 && refused.text.contains(&id), "{}", refused.text);
    let cancelled = house.post(&format!("/v1/batches/{id}/cancel"), &json!({})).await.json();
    assert_eq!(cancelled["status"], "cancelling");
    let batch = until(&house, &id, &["cancelled"]).await;
    let completed = batch["request_counts"]["completed"].as_u64().expect("a count");
    assert!((1..2_000).contains(&completed), "{batch}");
    assert_eq!(lines(&house, &batch["output_file_id"]).await.len() as u64, completed);
    let again = house.post(&format!("/v1/batches/{id}/cancel"), &json!({})).await;
    assert_eq!(again.status, 409, "{}", again.text);
    assert_eq!(house.send(house.client.delete(&file)).await.status, 200);
}

#[tokio::test]
async fn what_cannot_be_a_batch_is_refused_or_fails() {
    let house = House::start().await;
    let file = upload(&house, b"\n \n").await["id"].clone();
    let body = |endpoint: &str, window: &str, file: &Value| json!({"input_file_id": file, "endpoint": endpoint, "completion_window": window});
    for (body, status, says) in [
        (body("/v1/chat/completions", "24h", &file), 400, "/v1/embeddings"),
        (body("/v1/embeddings", "soon", &file), 400, "completion_window is `soon`"),
        (body("/v1/embeddings", "24h", &json!("file-0")), 404, "file-0"),
        (json!({"input_file_id": file}), 400, "missing field"),
    ] {
        let reply = house.post("/v1/batches", &body).await;
        assert_eq!(reply.status, status, "{body}: {}", reply.text);
        assert!(reply.json()["error"]["message"].as_str().is_some_and(|text| text.contains(says)), "{}", reply.text);
    }
    let batch = house.ask("/v1/batches", &body("/v1/embeddings", "24h", &file)).await;
    let failed = until(&house, batch["id"].as_str().expect("an id"), &["failed"]).await;
    assert_eq!(failed["errors"]["data"][0]["code"], "empty_file");
    assert_eq!(house.get("/v1/batches/batch_0").await.status, 404);
}
