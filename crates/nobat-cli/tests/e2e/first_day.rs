//! A person's first day: what `nobat serve` prints can be pasted, a table's records
//! are taken as they are written, and what is wrong with a folder is said.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::process::{Process, Service, free_port, root};
use crate::rig::wait_for;

fn test_model(name: &str) -> PathBuf {
    root().join("crates/nobat-worker/tests/models").join(format!("{name}.onnx"))
}

/// A folder of these models, each beneath `folder`.
fn models(folder: &Path, names: &[&str]) -> PathBuf {
    let models = folder.join("models");
    std::fs::create_dir(&models).expect("a folder");
    for name in names {
        std::fs::copy(test_model(name), models.join(format!("{name}.onnx"))).expect("a test model");
    }
    models
}

/// The banner's line that begins with this word.
fn line(service: &mut Service, word: &str) -> Option<String> {
    wait_for("the banner is printed", || {
        assert!(service.process.is_running(), "it ended: {}", service.process.output());
        service.process.output().contains("nobat is ready after")
    });
    // The line follows in the same print.
    std::thread::sleep(Duration::from_millis(50));
    let output = service.process.output();
    output.lines().find_map(|line| line.trim_start().strip_prefix(word)).map(|line| line.trim().to_owned())
}

#[test]
fn the_line_to_try_works_for_every_model_as_it_is_printed() {
    let names = [
        "identity_bool",
        "identity_bytes",
        "identity_fp16",
        "two_by_two",
        "optional_input",
        "fixed_batch",
        "scalar_output",
        "mixing",
        "slow",
        "fails_on_marked_row",
        "table",
        "classifier",
        "linear_bytes",
    ];
    for name in names {
        let folder = tempfile::tempdir().expect("a folder");
        let models = models(folder.path(), &[name]);
        let mut service = Service::serve(folder.path(), &models, &[], &[("NOBAT_WORKER__LOADING__PROBE_MS", "20")]);
        service.wait_for_model(name);
        if name == "linear_bytes" {
            // It reads numbers in its texts: nothing that was tried ran.
            assert_eq!(line(&mut service, "try"), None);
            let look = line(&mut service, "look").expect("a pointer to the signature");
            let command = look.split_once(" (").expect("what it shows").0;
            assert_eq!(shell(command)["name"], "linear_bytes", "{look}");
            continue;
        }
        let command = line(&mut service, "try").expect("a line to try");
        let answer = shell(&command);
        assert!(answer.get("predictions").or(answer.get("outputs")).is_some(), "{name}: {command}: {answer}");
    }
}

/// What a shell prints for `command`, as JSON.
fn shell(command: &str) -> Value {
    let output = Command::new("sh").args(["-c", command]).output().expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"))
}

#[test]
fn records_and_classes_are_taken_and_given_as_people_write_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = models(folder.path(), &["table", "classifier"]);
    let mut service = Service::serve(folder.path(), &models, &[], &[("NOBAT_WORKER__LOADING__PROBE_MS", "20")]);
    service.wait_for_model("table");
    service.wait_for_model("classifier");
    let mut http = service.http();
    let records = json!({ "instances": [{ "age": 70, "city": "Paris" }, { "age": [7], "city": "Rome" }] }).to_string();
    let rows = json!([{ "y": [140.0], "where": ["Paris"] }, { "y": [14.0], "where": ["Rome"] }]);
    for path in ["/v1/models/table:predict", "/api/v1/predict/table?wait=30"] {
        let answer = http.post(path, &records).expect("an answer");
        assert_eq!((answer.status, &answer.json()["predictions"]), (200, &rows), "{path}: {}", answer.text());
    }

    let body = r#"{"examples": [{"x": [1, 5, 2]}]}"#;
    let ranked = http.post("/v1/models/classifier:classify", body).expect("an answer").json();
    let best = ranked["result"][0].as_array().expect("classes").iter().max_by(|a, b| {
        let score = |class: &Value| class[1].as_f64().expect("a score");
        score(a).total_cmp(&score(b))
    });
    assert_eq!(best.expect("a class")[0], "setosa", "{ranked}");
    let body = r#"{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 5, 2]}],
        "outputs": [{"name": "output_probability", "parameters": {"classification": 1}}]}"#;
    let ranked = http.post("/v2/models/classifier/infer", body).expect("an answer").json();
    let best = ranked["outputs"][0]["data"][0].as_str().expect("a class");
    assert!(best.ends_with(":1:setosa"), "{best}");
    let described = http.get("/api/v1/models/classifier").expect("an answer").json();
    let labels = &described["versions"][0]["settings"]["class_labels"]["output_probability"];
    assert_eq!(*labels, json!(["versicolor", "setosa", "virginica"]));
}

#[test]
fn a_folder_without_models_ends_the_start_and_one_bad_file_pages_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = models(folder.path(), &[]);
    let (path, data) = (empty.display().to_string(), folder.path().join("none").display().to_string());
    let listen = format!("127.0.0.1:{}", free_port());
    let args = ["serve", "--models", &path, "--data", &data, "--listen", &listen, "--grpc", "", "--metrics", ""];
    let mut process = Process::start(folder.path(), "nobat", &args, &[]);
    let status = process.wait(Duration::from_secs(60)).expect("it ends by itself");
    assert_eq!(status.code(), Some(1), "{}", process.output());
    assert!(process.output().contains("looked for NAME.onnx"), "{}", process.output());

    std::fs::copy(test_model("identity_fp32"), empty.join("good.onnx")).expect("a test model");
    std::fs::write(empty.join("corrupt.onnx"), "no model").expect("a file");
    let env = [("NOBAT_GATEWAY__MONITOR__EVERY_S", "1"), ("NOBAT_WORKER__LOADING__PROBE_MS", "20")];
    let mut service = Service::serve(folder.path(), &empty, &[], &env);
    service.wait_for_model("good");
    assert_eq!(line(&mut service, "nobat is ready after").map(|line| line.ends_with("serving good")), Some(true));
    let mut check = Value::Null;
    wait_for("the monitor has looked at the models", || {
        let verbose = service.http().get("/readyz?verbose").expect("an answer").json();
        let checks = verbose["checks"].as_array().cloned().unwrap_or_default();
        check = checks.into_iter().find(|check| check["name"] == "workers").unwrap_or_default();
        check["detail"].as_str().is_some_and(|detail| detail.contains("corrupt"))
    });
    assert_eq!(check["state"], "ok", "{check}");
    assert!(service.process.output().contains("model `good` is loaded: version 1"), "{}", service.process.output());
}
