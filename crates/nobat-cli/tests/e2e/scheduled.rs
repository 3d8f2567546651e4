//! Periodic tasks in real processes: `nobat serve` on the embedded queue and
//! `nobat scheduler` on Redis, steered with `nobat cron`.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::rig::process::{Process, Redis, Service, binary, free_port, root, worker};
use crate::rig::wait_for;

/// A configuration with one task that leaves a file and one that predicts.
fn declare(folder: &Path) -> String {
    let example = std::fs::read_to_string(root().join("models/digits/example.json")).expect("the example");
    let example: Value = serde_json::from_str(&example).expect("JSON");
    let pixels: Vec<f64> = flat(&example["instances"][0]);
    let file = folder.join("nobat.toml");
    let text = format!(
        "[scheduler]\nperiodic_exec = true\n\
         [[scheduler.periodic]]\nname = \"mark\"\nschedule = \"0 */3 * * *\"\ntimezone = \"Europe/Berlin\"\n\
         exec = {{ command = [\"sh\", \"-c\", \"echo done; touch {}/mark\"] }}\n\
         [[scheduler.periodic]]\nname = \"nightly\"\nschedule = \"@daily\"\n\
         [scheduler.periodic.predict]\nmodel = \"number\"\npriority = 3\nwrite_to = \"{}/answer.json\"\n\
         request = {{ inputs = [{{ name = \"input\", datatype = \"FP32\", shape = [1, {}], data = {pixels:?} }}] }}\n",
        folder.display(),
        folder.display(),
        pixels.len(),
    );
    std::fs::write(&file, text).expect("written");
    file.display().to_string()
}

fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(flat).collect(),
        value => value.as_f64().into_iter().collect(),
    }
}

/// Runs `nobat cron …` and reads what it prints.
fn cron(service: &Service, args: &[&str]) -> Value {
    let url = format!("http://{}", service.address);
    let output = Command::new(binary("nobat")).arg("cron").args(args).args(["--url", &url]).output().expect("runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn steer(service: &Service, folder: &Path) {
    // What a gateway alone knows: a scheduler enqueues on it all the same.
    let put = service.http().send("PUT", "/api/v1/routes/number", &[], br#"{"direct": "digits"}"#).expect("an answer");
    assert_eq!(put.status, 200, "{}", put.text());
    let listed = cron(service, &["list"]);
    let tasks = listed["tasks"].as_array().expect("a list");
    assert_eq!(tasks.len(), 2, "{listed}");
    assert!(tasks[0]["next"].is_i64(), "{listed}");
    cron(service, &["pause", "mark"]);
    assert_eq!(cron(service, &["show", "mark"])["is_paused"], true);
    cron(service, &["resume", "mark"]);
    for task in ["mark", "nightly"] {
        cron(service, &["run", task]);
        let ended = || cron(service, &["show", task, "--limit", "1"])["runs"][0].is_object();
        wait_for(&format!("{task} has run"), ended);
        let shown = cron(service, &["show", task]);
        assert_eq!(shown["runs"][0]["outcome"], "succeeded", "{shown}");
    }
    assert!(folder.join("mark").is_file());
    assert_eq!(cron(service, &["show", "mark"])["runs"][0]["output"], "done\n");
    let answer = std::fs::read_to_string(folder.join("answer.json")).expect("the answer");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["model_name"], "number", "{answer}");
    let url = format!("http://{}", service.address);
    let unknown = Command::new(binary("nobat")).args(["cron", "run", "nope", "--url", &url]).output().expect("runs");
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(!unknown.status.success() && said.contains("no periodic task `nope`; tasks: mark, nightly"), "{said}");
}

#[test]
fn serve_schedules_on_the_embedded_queue() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = declare(folder.path());
    let mut service = Service::serve(folder.path(), &root().join("models"), &["--config", &config], &[]);
    service.wait_for_model("digits");
    steer(&service, folder.path());
}

#[test]
fn a_scheduler_of_its_own_serves_gateways_that_schedule_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = declare(folder.path());
    let redis = Redis::start(folder.path(), false);
    let _worker = worker(folder.path(), &redis.url(), &root().join("models"), &[]);
    let mut gateway = Service::gateway(folder.path(), &redis.url(), free_port(), &[]);
    gateway.wait_for_model("digits");
    let scheduler = ["scheduler", "--redis", &redis.url(), "--config", &config];
    let _scheduler = Process::start(folder.path(), "nobat", &scheduler, &[]);
    wait_for("the tasks are declared", || cron(&gateway, &["list"])["tasks"].as_array().is_some_and(|t| t.len() == 2));
    steer(&gateway, folder.path());
}

#[test]
fn a_task_that_is_wrong_stops_the_start_with_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |task: &str| {
        let file = folder.path().join("wrong.toml");
        std::fs::write(&file, format!("[[scheduler.periodic]]\nname = \"t\"\n{task}\n")).expect("written");
        let output = Command::new(binary("nobat")).arg("config").arg("--config").arg(&file).output().expect("runs");
        assert!(!output.status.success(), "{task}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused("schedule = \"61 * * * *\"\nvacuum = {}");
    assert!(said.contains("task `t`") && said.contains("minute `61`; take 0-59"), "{said}");
    let said = refused("schedule = \"@daily\"\ntimezone = \"Mars/Olympus\"\nvacuum = {}");
    assert!(said.contains("`Mars/Olympus`"), "{said}");
    let said = refused("schedule = \"@daily\"\nexec = { command = [\"true\"] }");
    assert!(said.contains("set periodic_exec = true"), "{said}");
}
