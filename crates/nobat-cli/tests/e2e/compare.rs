//! `nobat test` and `nobat compare` against a real service.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::rig::golden::digits;
use crate::rig::process::{Service, binary, root};

fn nobat(folder: &Path, service: &Service, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("nobat"));
    command.args(arguments).current_dir(folder).env("NOBAT_URL", format!("http://{}", service.address));
    command.stdin(Stdio::null()).output().expect("it runs")
}

fn json(done: &Output) -> Value {
    let errors = String::from_utf8_lossy(&done.stderr);
    serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("no JSON: {errors}"))
}

#[test]
fn the_digits_model_holds_its_profile_and_is_as_safe_as_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut service = Service::serve(folder.path(), &root().join("models"), &[], &[]);
    service.wait_for_model("digits");
    let nobat = |arguments: &[&str]| nobat(folder.path(), &service, arguments);
    // The golden digits over and over: a few hundred rows of a known distribution.
    let rows: Vec<String> = digits().iter().cycle().take(512).map(|digit| digit.row.clone()).collect();
    std::fs::write(folder.path().join("rows.jsonl"), rows.join("\n")).expect("writes");

    let made = nobat(&["test", "init", "digits", "--data", "rows.jsonl"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!((&json(&made)["rows"], &json(&made)["answers"][0]["classes"]), (&512.into(), &10.into()));
    for data in [&["--data", "rows.jsonl"][..], &[]] {
        let held = nobat(&[&["test", "statistical", "digits", "--rows", "500"][..], data].concat());
        let report = json(&held);
        assert!(held.status.success() && report["verdict"] == "passed" && report["rows"] == 500, "{report:#}");
    }
    let asked = nobat(&["test", "statistical", "digits", "--rows", "20", "--shift", "0.02"]);
    assert!(!asked.status.success() && json(&asked)["verdict"] == "not_judged");

    // Only three of the ten digits: their shares are others.
    let three: Vec<String> = digits().iter().take(3).cycle().take(300).map(|digit| digit.row.clone()).collect();
    std::fs::write(folder.path().join("three.jsonl"), three.join("\n")).expect("writes");
    let shifted = nobat(&["test", "statistical", "digits", "--data", "three.jsonl"]);
    assert!(!shifted.status.success() && json(&shifted)["verdict"] == "failed");
    assert!(String::from_utf8_lossy(&shifted.stderr).contains("does not answer as its profile"));

    let compared = nobat(&["compare", "digits/1", "digits", "--traffic", "rows.jsonl", "--latency", "1000"]);
    let report = json(&compared);
    assert!(compared.status.success() && report["verdict"] == "safe" && report["requests"] == 512, "{report:#}");
    let few = nobat(&["compare", "digits/1", "digits", "--traffic", "rows.jsonl", "--latency", "1000", "--most", "50"]);
    assert!(!few.status.success() && json(&few)["verdict"] == "more_needed");
    for (arguments, why) in [
        (&["compare", "digits", "nobody", "--traffic", "rows.jsonl"][..], "nobody"),
        (&["compare", "digits", "digits", "--traffic", "none.jsonl"], "none.jsonl"),
        (&["compare", "digits", "digits", "--traffic", "rows.jsonl", "--lost", "0"], "--lost must be over 0"),
        (&["test", "statistical", "digits", "--profile", "none.json"], "nobat test init"),
    ] {
        let refused = nobat(arguments);
        let errors = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && errors.contains(why), "{arguments:?}: {errors}");
    }
}
