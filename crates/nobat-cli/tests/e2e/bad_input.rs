//! Bad input through real HTTP: a 4xx that names value and remedy, the process
//! alive, the neighbours served.

use std::path::Path;
use std::time::Duration;

use crate::rig::golden;
use crate::rig::onnx;
use crate::rig::process::{Process, Service, free_port, root};

#[test]
fn bad_requests_are_refused_by_name_and_neighbours_are_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let limit = [("NOBAT_GATEWAY__MAX_BODY_BYTES", "100000")];
    let mut service = Service::serve(folder.path(), &root().join("models"), &[], &limit);
    service.wait_for_model("digits");
    let digits = golden::digits();

    let predict = "/v1/models/digits:predict";
    let long = format!("{{\"instances\":[[{}]]}}", "0.123456789,".repeat(20_000));
    let nan = format!("{{\"instances\":[[{}NaN]]}}", "0,".repeat(63));
    let text = format!("{{\"instances\":[[{}\"x\"]]}}", "0,".repeat(63));
    let short = format!("{{\"instances\":[[{}0]]}}", "0,".repeat(62));
    let ragged = format!("{{\"instances\":[[{}0],[0]]}}", "0,".repeat(63));
    let made_up = format!("/api/v1/jobs/{}", "1".repeat(34));
    let cases: &[(&str, &str, &str, &[u16], &str)] = &[
        ("not JSON", predict, "no json", &[400], ""),
        ("a wrong field", predict, "{\"rows\":[[0]]}", &[400], "instances"),
        ("a wrong length", predict, &short, &[400], "64"),
        ("a wrong datatype", predict, &text, &[400], ""),
        ("ragged rows", predict, &ragged, &[400], ""),
        ("NaN", predict, &nan, &[400], ""),
        ("an empty batch", predict, "{\"instances\":[]}", &[400], ""),
        ("a body over the limit", predict, &long, &[413], "100000"),
        ("an unknown model", "/v1/models/nobody:predict", "{\"instances\":[[0]]}", &[404], "nobody"),
        ("an unknown parameter", "/api/v1/predict/digits?priorty=3", "{\"instances\":[[0]]}", &[400], "priorty"),
        ("a priority out of range", "/api/v1/predict/digits?priority=300", "{\"instances\":[[0]]}", &[400], "300"),
    ];
    let mut http = service.http();
    for (what, path, body, statuses, names) in cases {
        let answer = http.post(path, body).expect(what);
        assert!(statuses.contains(&answer.status), "{what}: {} {}", answer.status, answer.text());
        assert!(answer.text().contains(names), "{what} names `{names}`: {}", answer.text());
        assert!(answer.text().len() < 2000, "{what}: the body is not echoed");
        let neighbour = service.http().post(predict, &golden::body([&digits[3]])).expect("an answer");
        assert_eq!(neighbour.status, 200, "after {what}: {}", neighbour.text());
    }
    for path in [made_up.as_str(), "/api/v1/jobs/nonsense", "/api/v1/jobs/%2e%2e"] {
        let answer = http.get(path).expect("an answer");
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
    }
    assert!(service.process.is_running());
}

#[test]
fn a_model_file_that_is_corrupt_is_one_clear_error_at_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("broken.onnx");
    std::fs::write(&file, b"this is no model").expect("writes");
    let output = fails_to_start(folder.path(), &["serve", &file.display().to_string()], &[]);
    assert!(output.contains("broken.onnx"), "{output}");
}

#[test]
fn a_corrupt_model_beside_a_good_one_does_not_keep_it_from_serving() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1);
    std::fs::create_dir_all(models.join("broken/1")).expect("a folder");
    std::fs::write(models.join("broken/1/model.onnx"), b"this is no model").expect("writes");
    let mut service = Service::serve(folder.path(), &models, &[], &[]);
    service.wait_for_model("echo");
    let answer = service.http().post("/v1/models/echo:predict", &onnx::body(7, 1)).expect("an answer");
    assert_eq!(answer.json()["predictions"][0][5].as_f64(), Some(7.0), "{}", answer.text());
    let broken = service.http().post("/v1/models/broken:predict", &onnx::body(7, 1)).expect("an answer");
    assert!((400..600).contains(&broken.status) && broken.status != 500, "{} {}", broken.status, broken.text());
}

#[test]
fn a_missing_or_foreign_onnx_runtime_is_one_clear_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1).display().to_string();
    let output = fails_to_start(folder.path(), &["serve", &models], &[("NOBAT_ORT_LIB", "/nowhere/libonnxruntime.so")]);
    assert!(output.contains("/nowhere/libonnxruntime.so") && output.contains("scripts/setup"), "{output}");
    let foreign = folder.path().join("libonnxruntime.so");
    std::fs::write(&foreign, b"no library").expect("writes");
    let foreign = foreign.display().to_string();
    let output = fails_to_start(folder.path(), &["serve", &models], &[("NOBAT_ORT_LIB", &foreign)]);
    assert!(output.contains(&foreign), "{output}");
}

#[test]
fn settings_that_are_unknown_or_contradict_are_refused_at_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1).display().to_string();
    let output = fails_to_start(folder.path(), &["serve", &models], &[("NOBAT_QUEUE__LEESE_MS", "1")]);
    assert!(output.contains("leese_ms") && output.contains("`lease_ms`"), "{output}");
    let output = fails_to_start(
        folder.path(),
        &["serve", &models, "--listen", "127.0.0.1:7777", "--metrics", "127.0.0.1:7777"],
        &[],
    );
    assert!(output.contains("gateway.listen") && output.contains("gateway.metrics"), "{output}");
}

#[test]
fn a_second_process_on_the_same_data_folder_is_refused_and_the_first_serves_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1);
    let mut first = Service::serve(folder.path(), &models, &[], &[]);
    first.wait_for_model("echo");
    let data = folder.path().join("data").display().to_string();
    let output = fails_to_start(folder.path(), &["serve", &models.display().to_string(), "--data", &data], &[]);
    assert!(output.contains("data"), "{output}");
    let answer = first.http().post("/v1/models/echo:predict", &onnx::body(3, 1)).expect("an answer");
    assert_eq!(answer.status, 200);
}

/// Starts `nobat`, expects it to end with exit code 1, and returns what it said.
fn fails_to_start(folder: &Path, args: &[&str], env: &[(&str, &str)]) -> String {
    let listen = format!("127.0.0.1:{}", free_port());
    let extra: &[&str] = if args.contains(&"--listen") { &[] } else { &["--listen", &listen] };
    let data = folder.join("own-data").display().to_string();
    let env = [&[("NOBAT_GRPC", "127.0.0.1:0"), ("NOBAT_DATA", data.as_str())], env].concat();
    let env: Vec<(&str, &str)> = match args.contains(&"--metrics") {
        true => env,
        false => [env.as_slice(), &[("NOBAT_METRICS", "127.0.0.1:0")]].concat(),
    };
    let mut process = Process::start(folder, "nobat", &[args, extra].concat(), &env);
    let status = process.wait(Duration::from_secs(60));
    let output = process.output();
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{output}");
    assert!(!output.contains("panicked"), "{output}");
    output
}
