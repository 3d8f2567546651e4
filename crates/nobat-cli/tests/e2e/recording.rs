//! Recorded traffic: written beside the service, replayed to two versions.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::rig::golden::{Digit, body, digits};
use crate::rig::process::{Service, binary, root};
use crate::rig::wait_for;

fn compare(service: &Service, traffic: &Path) -> Output {
    let mut command = Command::new(binary("nobat"));
    let margins = ["--disagreement", "0.05", "--lost", "0.05", "--latency", "1000"];
    command.args(["compare", "digits/1", "digits", "--traffic"]).arg(traffic).args(margins);
    command.env("NOBAT_URL", format!("http://{}", service.address)).stdin(Stdio::null());
    command.output().expect("it runs")
}

fn recorded(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default()).collect()
}

#[test]
fn requests_are_recorded_one_row_each_and_replayed() {
    let folder = tempfile::tempdir().expect("a folder");
    let records = folder.path().join("recorded");
    let place = records.display().to_string();
    let env = [
        ("NOBAT_GATEWAY__RECORD__FOLDER", place.as_str()),
        ("NOBAT_GATEWAY__RECORD__SHARE", "1"),
        ("NOBAT_GATEWAY__RECORD__RATE_PER_S", "1000000"),
    ];
    let mut service = Service::serve(folder.path(), &root().join("models"), &[], &env);
    service.wait_for_model("digits");
    let (mut http, all) = (service.http(), digits());
    for digit in all.iter().cycle().take(200) {
        assert_eq!(http.post("/v1/models/digits:predict", &body([digit])).expect("an answer").status, 200);
    }
    let batch: Vec<&Digit> = all.iter().take(5).collect();
    assert_eq!(http.post("/v1/models/digits:predict", &body(batch)).expect("an answer").status, 200);
    assert_eq!(http.post("/v1/models/digits:predict", "{\"instances\": [[1]]}").expect("an answer").status, 400);
    wait_for("the rows are on disk", || recorded(&records.join("digits")).lines().count() == 201);
    let text = recorded(&records.join("digits"));
    let first: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    assert_eq!((first["model"].as_str(), first["inputs"][0]["datatype"].as_str()), (Some("digits"), Some("FP32")));
    assert!(first.get("owner").is_none(), "{first}");
    let done = compare(&service, &records.join("digits"));
    let report: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert!(done.status.success() && report["verdict"] == "safe" && report["requests"] == 201, "{report:#}");
}

#[test]
fn what_is_redacted_is_not_written_and_a_folder_that_cannot_be_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let records = folder.path().join("recorded");
    let place = records.display().to_string();
    let env = [
        ("NOBAT_GATEWAY__RECORD__FOLDER", place.as_str()),
        ("NOBAT_GATEWAY__RECORD__SHARE", "1"),
        ("NOBAT_GATEWAY__RECORD__REDACT", "[input]"),
        ("NOBAT_GATEWAY__RECORD__OWNER", "true"),
    ];
    let mut service = Service::serve(folder.path(), &root().join("models"), &[], &env);
    service.wait_for_model("digits");
    let digit = &digits()[0];
    assert_eq!(service.http().post("/v1/models/digits:predict", &body([digit])).expect("an answer").status, 200);
    wait_for("the row is on disk", || recorded(&records.join("digits")).lines().count() == 1);
    let line: Value = serde_json::from_str(&recorded(&records.join("digits"))).expect("JSON");
    assert!(line["inputs"][0]["redacted"] == true && line["inputs"][0].get("data").is_none(), "{line}");
    assert!(line["owner"].is_string(), "{line}");
    let done = compare(&service, &records.join("digits"));
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && errors.contains("was redacted when it was recorded"), "{errors}");

    std::fs::write(folder.path().join("file"), "in its place").expect("written");
    let place = folder.path().join("file").display().to_string();
    let env = [("NOBAT_GATEWAY__RECORD__FOLDER", place.as_str()), env[1]];
    let again = tempfile::tempdir().expect("a folder");
    let mut service = Service::serve(again.path(), &root().join("models"), &[], &env);
    service.wait_for_model("digits");
    assert_eq!(service.http().post("/v1/models/digits:predict", &body([digit])).expect("an answer").status, 200);
    wait_for("it is told", || service.process.output().contains("cannot be written under"));
    assert_eq!(service.http().post("/v1/models/digits:predict", &body([digit])).expect("an answer").status, 200);
}
