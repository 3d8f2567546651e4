//! `nobat demo`: from an empty folder to answers by what it prints.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::rig::process::Process;
use crate::rig::wait_for;

/// Starts it with a temporary folder of the test's own.
fn demo(folder: &Path, args: &[&str]) -> (Process, PathBuf) {
    let temporary = folder.join("tmp");
    std::fs::create_dir_all(&temporary).expect("a folder");
    let all = [&["demo", "--port", "0", "--grpc", "", "--metrics", ""], args].concat();
    let process = Process::start(folder, "nobat", &all, &[("TMPDIR", &temporary.display().to_string())]);
    (process, temporary)
}

/// All that it prints once it serves.
fn printed(process: &mut Process) -> String {
    wait_for("the demo has printed all", || {
        assert!(process.is_running(), "it ended: {}", process.output());
        process.output().contains("Model, queue and log are in")
    });
    process.output()
}

fn shell(command: &str) -> Value {
    let output = Command::new("sh").args(["-c", command]).output().expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"))
}

/// How many folders of demos are in it.
fn demos(temporary: &Path) -> usize {
    let names = std::fs::read_dir(temporary).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    names.filter(|name| name.to_string_lossy().starts_with("nobat-demo-")).count()
}

#[test]
fn what_the_demo_prints_answers_a_seven_and_nothing_stays_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut process, temporary) = demo(folder.path(), &[]);
    let text = printed(&mut process);
    assert_eq!(demos(&temporary), 1, "{text}");
    assert!(text.contains(&temporary.display().to_string()) && text.contains("removed at the end"), "{text}");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let at_once = lines.iter().find_map(|line| line.strip_prefix("try ")).expect("a line to try");
    assert_eq!(shell(at_once)["predictions"][0]["label"], 7, "{at_once}");

    let job = lines.iter().find(|line| line.contains("/api/v1/predict/")).expect("a line that submits");
    let job = shell(job)["id"].as_str().expect("an id").to_owned();
    let result = lines.iter().find(|line| line.contains("/api/v1/jobs/ID/result")).expect("a line that fetches");
    assert_eq!(shell(&result.replace("ID", &job))["predictions"][0]["label"], 7, "{result}");
    let docs = lines.iter().find_map(|line| line.strip_prefix("docs ")).expect("the documentation").trim();
    let page = Command::new("curl").args(["-sfL", docs]).output().expect("curl runs");
    assert!(page.status.success() && page.stdout.starts_with(b"<!"), "{docs}");

    process.signal("-TERM");
    let status = process.wait(Duration::from_secs(60)).expect("it ends");
    assert!(status.success(), "{}", process.output());
    assert_eq!(demos(&temporary), 0);
}

#[test]
fn a_named_folder_of_the_demo_stays_and_serves_again() {
    let folder = tempfile::tempdir().expect("a folder");
    for _ in 0..2 {
        let (mut process, temporary) = demo(folder.path(), &["--data", "kept"]);
        let text = printed(&mut process);
        assert!(text.contains(&format!("{}/kept, and stay there", folder.path().display())), "{text}");
        assert_eq!(demos(&temporary), 0);
        process.signal("-INT");
        assert!(process.wait(Duration::from_secs(60)).expect("it ends").success(), "{}", process.output());
    }
    assert!(folder.path().join("kept/models/digits/1/model.onnx").is_file());
    assert!(folder.path().join("kept/queue").is_dir());
}

#[test]
fn a_folder_that_cannot_be_made_is_named_with_the_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let none = folder.path().join("none").display().to_string();
    let mut process = Process::start(folder.path(), "nobat", &["demo", "--port", "0"], &[("TMPDIR", &none)]);
    assert_eq!(process.wait(Duration::from_secs(60)).expect("it ends").code(), Some(1));
    let said = process.output();
    assert!(said.contains(&none) && said.contains("--data") && said.lines().count() == 1, "{said}");
}
