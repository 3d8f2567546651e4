//! `Server-Timing`: how an answer came about, said in every protocol.

use std::time::Duration;

use futures::StreamExt;
use nobat_core::oip::ModelInferRequest;
use nobat_core::oip::infer_parameter::ParameterChoice;
use nobat_core::oip::model_infer_request::InferInputTensor;
use nobat_gateway::GatewayConfig;
use serde_json::json;

use crate::house::{House, MODEL, Reply, send};

const ROWS: &str = r#"{"instances": [[1.0, 2.0]]}"#;
const EXAMPLES: &str = r#"{"examples": [{"in": [1.0, 2.0]}]}"#;
const V2: &str = r#"{"inputs": [{"name": "in", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}"#;
const V2_BINARY: &str = r#"{"parameters": {"binary_data_output": true},
    "inputs": [{"name": "in", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}"#;

/// Every route that answers a prediction to who waits for it.
const ROUTES: [(&str, &str); 9] = [
    ("/api/v1/predict/echo?wait=10s", ROWS),
    ("/v1/models/echo:predict", ROWS),
    ("/v1/models/echo/versions/1:predict", ROWS),
    ("/v1/models/echo:classify", EXAMPLES),
    ("/predict", ROWS),
    ("/invocations", ROWS),
    ("/v2/models/echo/infer", V2),
    ("/v2/models/echo/versions/1/infer", V2),
    ("/v2/models/echo/infer", V2_BINARY),
];

async fn ask(house: &House, path: &str, body: &'static str) -> Reply {
    let reply = send(reqwest::Client::new().post(house.url(path)).body(body), None, &[]).await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.text);
    reply
}

fn message() -> ModelInferRequest {
    let input =
        InferInputTensor { name: "in".into(), datatype: "FP32".into(), shape: vec![1, 2], ..Default::default() };
    ModelInferRequest {
        model_name: MODEL.into(),
        inputs: vec![input],
        raw_input_contents: vec![vec![0; 8].into()],
        ..Default::default()
    }
}

/// `name -> parameters` of a line in the grammar of the header.
fn metrics(line: &str) -> Vec<(&str, &str)> {
    line.split(", ").map(|metric| metric.split_once(';').unwrap_or_else(|| panic!("`{metric}` in `{line}`"))).collect()
}

/// Whether a line tells of a run: its phases, batch, attempts and worker.
fn assert_tells_a_run(line: &str, what: &str) {
    let told = metrics(line);
    let names: Vec<&str> = told.iter().map(|(name, _)| *name).collect();
    assert_eq!(names[..7], ["queue", "batch", "input", "infer", "output", "attempts", "worker"], "{what}: {line}");
    let durations = told.iter().filter_map(|(_, parameters)| parameters.strip_prefix("dur="));
    let ms = |text: &str| text.split(';').next().and_then(|number| number.parse::<f64>().ok());
    assert!(durations.map(ms).all(|ms| ms.is_some_and(|ms| ms >= 0.0)), "{what}: {line}");
    assert!(told[1].1.ends_with(";desc=1"), "one row ran: {what}: {line}");
    assert_eq!((told[5].1, told[6].1), ("desc=1", "desc=scripted"), "{what}: {line}");
}

#[tokio::test]
async fn every_blocking_answer_tells_queue_batch_run_attempts_and_worker() {
    let house = House::start(GatewayConfig::default(), json!({}), Duration::ZERO).await;
    for (path, body) in ROUTES {
        let reply = ask(&house, path, body).await;
        let line = reply.header("server-timing");
        assert_tells_a_run(line, path);
        assert!(!line.contains("cache"), "{path}: {line}");
    }
    let mut client = house.grpc().await;
    let answer = client.model_infer(message()).await.expect("answers");
    assert_tells_a_run(answer.metadata().get("server-timing").expect("told").to_str().expect("text"), "gRPC");
    let answers = client.model_stream_infer(futures::stream::iter([message(), message()])).await.expect("a stream");
    let answers: Vec<_> = answers.into_inner().map(|answer| answer.expect("no status")).collect().await;
    assert_eq!(answers.len(), 2);
    for answer in answers {
        let response = answer.infer_response.expect("always present");
        let told = response.parameters["server-timing"].parameter_choice.clone();
        let Some(ParameterChoice::StringParam(line)) = told else { panic!("a line, not {told:?}") };
        assert_tells_a_run(&line, "stream");
    }
    house.stop().await;
}

#[tokio::test]
async fn an_answer_tells_what_the_cache_did() {
    let house = House::start(GatewayConfig::default(), json!({ "cache": true }), Duration::ZERO).await;
    let first = ask(&house, ROUTES[0].0, ROWS).await;
    assert_tells_a_run(first.header("server-timing"), "a miss ran");
    assert!(first.header("server-timing").ends_with(", cache;desc=miss"), "{:?}", first.headers);
    assert_eq!(first.json()["explain"]["cache"], "miss");
    for (path, body) in ROUTES {
        // What is asked for besides the inputs may make another key.
        ask(&house, path, body).await;
        let reply = ask(&house, path, body).await;
        assert_eq!(reply.header("server-timing"), "cache;desc=hit", "{path}");
    }
    assert_eq!(ask(&house, ROUTES[0].0, ROWS).await.json()["explain"]["cache"], "hit");
    let mut client = house.grpc().await;
    client.model_infer(message()).await.expect("answers");
    let answer = client.model_infer(message()).await.expect("answers");
    assert_eq!(answer.metadata().get("server-timing").expect("told"), "cache;desc=hit");
    house.stop().await;
}
