//! A Hugging Face folder, served: texts in and its task's answer out over every protocol, on
//! both stores, and through kills of workers.

use serde_json::{Value, json};

use crate::rig::http::Http;
use crate::rig::process::{Redis, Service, free_port, root, worker};

fn folder_of(task: &str) -> std::path::PathBuf {
    root().join("tests/text_models").join(task)
}

const TEXTS: [&str; 6] =
    ["hi", "a somewhat longer text, with words", "", "سلام دنيا", "ok", "one two three four five six"];

/// The vectors that texts get one by one, over the native protocol.
fn vectors(http: &mut Http, texts: &[&str]) -> Vec<Vec<f64>> {
    let one = |text: &&str| {
        let answer = predict(http, "/api/v1/predict/embed", &json!({ "inputs": { "text": [text] } }));
        numbers(&answer["outputs"]["embedding"][0])
    };
    texts.iter().map(one).collect()
}

fn predict(http: &mut Http, path: &str, body: &Value) -> Value {
    let headers = [("Content-Type", "application/json"), ("Prefer", "wait=30")];
    let answer = http.send("POST", path, &headers, body.to_string().as_bytes()).expect("an answer");
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number")).collect()
}

fn same(one: &[f64], other: &[f64]) {
    assert_eq!(one.len(), other.len());
    let off = one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max);
    assert!(off < 1e-5, "off by {off}");
}

/// Every protocol gives the texts the vectors that they get one by one.
fn every_protocol_answers(http: &mut Http) {
    let wanted = vectors(http, &TEXTS);
    let width = wanted[0].len();
    let length = wanted[0].iter().map(|value| value * value).sum::<f64>().sqrt();
    assert!((length - 1.0).abs() < 1e-4, "the folder says that vectors have length 1: {length}");
    let check = |got: Vec<f64>| {
        let whole: Vec<f64> = wanted.concat();
        same(&got, &whole);
    };
    let rows = |answer: &Value| answer.as_array().expect("rows").iter().flat_map(numbers).collect();

    let answer = predict(http, "/v1/models/embed:predict", &json!({ "inputs": { "text": TEXTS } }));
    check(rows(&answer["outputs"]["embedding"]));
    let instances: Vec<Value> = TEXTS.iter().map(|text| json!({ "text": text })).collect();
    let answer = predict(http, "/v1/models/embed:predict", &json!({ "instances": instances }));
    check(answer["predictions"].as_array().expect("rows").iter().flat_map(|row| numbers(&row["embedding"])).collect());

    let input = json!({ "name": "text", "shape": [TEXTS.len()], "datatype": "BYTES", "data": TEXTS });
    let answer = predict(http, "/v2/models/embed/infer", &json!({ "inputs": [input] }));
    let output = answer["outputs"].as_array().expect("outputs").iter().find(|one| one["name"] == "embedding");
    assert_eq!(output.expect("the vectors")["shape"], json!([TEXTS.len(), width]));
    check(numbers(&output.expect("the vectors")["data"]));
    check(binary(http));

    // Nobody waits: the job's result is asked for later.
    let accepted = http.post("/api/v1/predict/embed", &json!({ "inputs": { "text": TEXTS } }).to_string());
    let accepted = accepted.expect("an answer");
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let id = accepted.json()["id"].as_str().expect("an id").to_owned();
    let result = http.get(&format!("/api/v1/jobs/{id}/result?wait=30&form=column")).expect("an answer").json();
    check(rows(&result["outputs"]["embedding"]));
}

/// The texts as a binary tensor, the vectors as one.
fn binary(http: &mut Http) -> Vec<f64> {
    let mut tensor = Vec::new();
    for text in TEXTS {
        tensor.extend((text.len() as u32).to_le_bytes());
        tensor.extend(text.as_bytes());
    }
    let document = json!({
        "inputs": [{ "name": "text", "shape": [TEXTS.len()], "datatype": "BYTES", "parameters": { "binary_data_size": tensor.len() } }],
        "outputs": [{ "name": "embedding", "parameters": { "binary_data": true } }],
    })
    .to_string();
    let length = document.len().to_string();
    let headers = [("Inference-Header-Content-Length", length.as_str()), ("Content-Type", "application/octet-stream")];
    let body = [document.as_bytes(), &tensor].concat();
    let answer = http.send("POST", "/v2/models/embed/infer", &headers, &body).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let begins: usize = answer.header("inference-header-content-length").expect("a length").parse().expect("a number");
    answer.body[begins..].as_chunks().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect()
}

#[test]
fn a_folder_is_served_over_every_protocol_on_the_embedded_queue() {
    let data = tempfile::tempdir().expect("a folder");
    let mut service = Service::serve(data.path(), &folder_of("embed"), &[], &[]);
    service.wait_for_model("embed");
    let mut http = service.http();
    every_protocol_answers(&mut http);

    // What callers set changes the answer, and no cached one of other parameters comes back.
    let set = |parameters: Value| json!({ "inputs": { "text": ["hi"] }, "parameters": parameters });
    let plain = predict(&mut http, "/v1/models/embed:predict", &set(json!({})));
    let raw = predict(&mut http, "/v1/models/embed:predict", &set(json!({ "normalize": false })));
    assert_ne!(plain["outputs"]["embedding"], raw["outputs"]["embedding"]);
    let refused =
        http.post("/v1/models/embed:predict", &set(json!({ "normalise": false })).to_string()).expect("an answer");
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("`normalise`") && refused.text().contains("normalize"), "{}", refused.text());
    let long = "word ".repeat(10_000);
    let refused = json!({ "inputs": { "text": ["hi", long] }, "parameters": { "truncate": false } }).to_string();
    let refused = http.post("/v1/models/embed:predict", &refused).expect("an answer");
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("tokens"), "{}", refused.text());
    // Its neighbours are unharmed.
    every_protocol_answers(&mut http);
}

#[test]
fn texts_are_answered_through_kills_of_workers_on_redis() {
    let data = tempfile::tempdir().expect("a folder");
    let redis = Redis::start(data.path(), false);
    let env = [("NOBAT_QUEUE__LEASE_MS", "1500")];
    let start = || worker(data.path(), &redis.url(), &folder_of("embed"), &env);
    let mut workers = [start(), start()];
    let mut gateway = Service::gateway(data.path(), &redis.url(), free_port(), &env);
    gateway.wait_for_model("embed");
    let mut http = gateway.http();
    every_protocol_answers(&mut http);
    let wanted = vectors(&mut http, &TEXTS);

    let many: Vec<&str> = TEXTS.iter().copied().cycle().take(600).collect();
    let mut ids = Vec::new();
    for round in 0..60 {
        let body = json!({ "inputs": { "text": many } }).to_string();
        let accepted = http.post("/api/v1/predict/embed?max_retries=10&result_ttl=600s", &body).expect("an answer");
        assert_eq!(accepted.status, 202, "{}", accepted.text());
        ids.push(accepted.json()["id"].as_str().expect("an id").to_owned());
        if round % 20 == 10 {
            let victim = round / 20 % 2;
            workers[victim].kill();
            workers[victim] = start();
        }
    }
    for id in ids {
        let result = http.get(&format!("/api/v1/jobs/{id}/result?wait=60&form=column")).expect("an answer");
        assert_eq!(result.status, 200, "{}", result.text());
        let rows = result.json()["outputs"]["embedding"].as_array().expect("rows").clone();
        assert_eq!(rows.len(), many.len(), "each text once");
        rows.iter().zip(wanted.iter().cycle()).for_each(|(row, wanted)| same(&numbers(row), wanted));
    }
}
