//! A chain of three models, served: over every protocol, in one process.

use std::process::Command;

use serde_json::{Value, json};

use crate::rig::process::{Service, binary, free_port};
use crate::rig::{chain, onnx};

/// Where a row that is highest at 5 is highest after the chain.
const MOVED: usize = (5 + chain::MOVES) % onnx::WIDTH;

fn row() -> Vec<f64> {
    (0..onnx::WIDTH).map(|at| if at == 5 { 1.0 } else { 0.0 }).collect()
}

fn highest(row: &Value) -> usize {
    let row = row.as_array().unwrap_or_else(|| panic!("no row: {row}"));
    row.iter().position(|value| value.as_f64() == Some(1.0)).expect("a one")
}

#[test]
fn a_chain_is_a_model_to_every_protocol() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = chain::three(folder.path());
    let grpc = format!("127.0.0.1:{}", free_port());
    let mut service = Service::serve(folder.path(), &models, &["--grpc", &grpc], &[]);
    service.wait_for_model("three");
    let mut http = service.http();
    let mut ask = |path: &str, body: Value| {
        let headers = [("Content-Type", "application/json"), ("Prefer", "wait=30")];
        let answer = http.send("POST", path, &headers, body.to_string().as_bytes()).expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer
    };

    let answer = ask("/v1/models/three:predict", json!({ "instances": [row(), row()] }));
    assert_eq!(
        answer.json()["predictions"].as_array().expect("rows").iter().map(highest).collect::<Vec<_>>(),
        [MOVED; 2]
    );
    let line = answer.header("server-timing").expect("where the time went").to_owned();
    for step in ["step-one;dur=", "step-two;dur=", "step-three;dur="] {
        assert!(line.contains(step), "{line}");
    }
    let answer = ask("/api/v1/predict/three", json!({ "inputs": { "x": [row()] } })).json();
    assert_eq!(highest(&answer["outputs"][0]), MOVED, "{answer}");
    let input = json!({ "name": "x", "shape": [1, onnx::WIDTH], "datatype": "FP32", "data": row() });
    let answer = ask("/v2/models/three/infer", json!({ "inputs": [input] })).json();
    assert_eq!(highest(&answer["outputs"][0]["data"]), MOVED);

    // Nobody waits: the job says where its time went, step by step.
    let accepted = http.post("/api/v1/predict/three", &json!({ "inputs": { "x": [row()] } }).to_string());
    let id = accepted.expect("an answer").json()["id"].as_str().expect("an id").to_owned();
    http.get(&format!("/api/v1/jobs/{id}/result?wait=30")).expect("an answer");
    let job = http.get(&format!("/api/v1/jobs/{id}")).expect("an answer").json();
    let steps: Vec<&str> =
        job["explain"]["steps"].as_array().expect("steps").iter().filter_map(|step| step["name"].as_str()).collect();
    assert_eq!(steps, ["one", "two", "three"], "{job}");

    // What a caller gets wrong is said of the chain, before any step.
    let wrong = http.post("/v1/models/three:predict", r#"{"instances": [[1, 2]]}"#).expect("an answer");
    assert!(wrong.status == 400 && wrong.text().contains("three"), "{}", wrong.text());

    let url = format!("http://{}", service.address);
    for protocol in ["grpc", "v2-binary", "job"] {
        let grpc = format!("http://{grpc}");
        let arguments = ["bench", "three", "--url", &url, "--protocol", protocol, "--grpc", &grpc, "--rate", "40"];
        let rest = ["--warm-up", "0.2", "--duration", "1", "--json"];
        let done = Command::new(binary("nobat")).args(arguments).args(rest).output().expect("it starts");
        let report: Value = serde_json::from_slice(&done.stdout)
            .unwrap_or_else(|_| panic!("{protocol}: {}", String::from_utf8_lossy(&done.stderr)));
        let findings = report["findings"].as_array().expect("findings");
        let answers = findings.iter().find(|finding| finding["id"] == "answers").expect("answers");
        assert_eq!(answers["verdict"], "passed", "{protocol}: {answers}");
    }
}
