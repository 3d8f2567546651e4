//! A scikit-learn pipeline over mixed columns, as skl2onnx exports it: what goes in is a table,
//! what comes out is what scikit-learn says of it. And what `nobat inspect` says of the file.

use std::process::Command;

use serde_json::{Value, json};

use crate::rig::http::Http;
use crate::rig::process::{Service, binary, root};

fn expected() -> Value {
    let text = std::fs::read_to_string(root().join("tests/table_models/churn.json")).expect("the rows");
    serde_json::from_str(&text).expect("JSON")
}

fn csv(records: &Value) -> String {
    let mut lines = vec!["age,city,monthly_fee,plan".to_owned()];
    for record in records.as_array().expect("rows") {
        let text = |name: &str| record[name].as_str().map_or_else(|| record[name].to_string(), str::to_owned);
        lines.push(["age", "city", "monthly_fee", "plan"].map(text).join(","));
    }
    lines.join("\n") + "\n"
}

/// Each row's label, and its probabilities to five digits.
fn same(answer: &Value, expected: &Value) {
    let (answer, expected) = (answer.as_array().expect("rows"), expected.as_array().expect("rows"));
    assert_eq!(answer.len(), expected.len());
    for (row, wanted) in answer.iter().zip(expected) {
        assert_eq!(row["label"], wanted["label"], "{row}");
        for class in ["stays", "leaves"] {
            let [found, wanted] = [row, wanted].map(|row| row["probabilities"][class].as_f64().expect("a number"));
            assert!((found - wanted).abs() < 1e-5, "{class}: {found}, scikit-learn says {wanted}");
        }
    }
}

fn predict(http: &mut Http, path: &str, kind: &str, body: &str) -> Value {
    let answer = http.send("POST", path, &[("Content-Type", kind)], body.as_bytes()).expect("an answer");
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

#[test]
fn a_pipeline_of_mixed_columns_answers_as_scikit_learn_does() {
    let data = tempfile::tempdir().expect("a folder");
    let mut service = Service::serve(data.path(), &root().join("tests/table_models/churn.onnx"), &[], &[]);
    service.wait_for_model("churn");
    let mut http = service.http();
    let expected = expected();
    let records = json!({ "records": expected["records"] }).to_string();
    for path in ["/api/v1/predict/churn?wait=30", "/v1/models/churn:predict", "/invocations"] {
        same(&predict(&mut http, path, "application/json", &records)["predictions"], &expected["predictions"]);
        let csv = csv(&expected["records"]);
        same(&predict(&mut http, path, "text/csv", &csv)["predictions"], &expected["predictions"]);
    }
    for (body, named) in [
        (json!({ "records": [{ "age": 1 }] }), "the table lacks columns `city`, `monthly_fee`, `plan`"),
        (
            json!({ "records": [{ "age": "old", "city": "Rome", "monthly_fee": 1, "plan": "plus" }] }),
            "records[0], column `age` is the text `old`, not a value of FP32",
        ),
    ] {
        let answer = http.post("/api/v1/predict/churn?wait=30", &body.to_string()).expect("an answer");
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(answer.text().contains(named), "{}", answer.text());
    }
    // This build reads columnar tables: what is wrong with one is said, rather than that it does not.
    let kind = [("Content-Type", "application/vnd.apache.parquet")];
    let answer = http.send("POST", "/api/v1/predict/churn?wait=30", &kind, b"PAR1 and no more").expect("an answer");
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("the Parquet data cannot be read"), "{}", answer.text());
}

#[test]
fn inspect_shows_a_model_and_writes_settings_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("churn.onnx");
    std::fs::copy(root().join("tests/table_models/churn.onnx"), &model).expect("a copy");
    let inspect = |more: &[&str]| {
        let output = Command::new(binary("nobat")).arg("inspect").arg(&model).args(more).output().expect("it runs");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("text"));
        (output.status.code(), text)
    };
    let (code, [shown, _]) = inspect(&[]);
    assert_eq!(code, Some(0), "{shown}");
    for said in ["city", "BYTES", "ai.onnx.ml", "takes rows of a table", "names its classes (a ZipMap)", "churn.toml"] {
        assert!(shown.contains(said), "no `{said}` in {shown}");
    }
    let (code, [json, _]) = inspect(&["--json", "--write"]);
    let json: Value = serde_json::from_str(&json).expect("JSON alone");
    assert_eq!((code, &json["kind"], &json["inputs"][0]["name"]), (Some(0), &json!("table"), &json!("age")));
    let written = std::fs::read_to_string(folder.path().join("churn.toml")).expect("settings");
    assert_eq!(json["model_toml"], json!(written));
    let (code, [_, said]) = inspect(&["--write"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is there already"), "{said}");
    // They are settings that the server reads.
    let data = tempfile::tempdir().expect("a folder");
    Service::serve(data.path(), &model, &[], &[]).wait_for_model("churn");
}
