//! What Prometheus scrapes from a running stack, against what the rules and the
//! dashboard ask for and what the documentation explains.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;

use crate::rig::http::Http;
use crate::rig::onnx;
use crate::rig::process::{Process, Redis, Service, free_port, root, worker};
use crate::rig::wait_for;

/// Where a process shows its metrics, by its own word.
fn metrics_of(process: &Process) -> SocketAddr {
    let address = |output: &str| {
        let (_, rest) = output.split_once("metrics: listening on http://")?;
        rest.split('/').next()?.parse().ok()
    };
    wait_for("the metrics listener", || address(&process.output()).is_some());
    address(&process.output()).expect("seen above")
}

fn names(text: &str) -> BTreeSet<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
}

fn deployed(file: &str) -> String {
    let path = root().join("deploy").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Series of ours or Triton's in a file's expressions.
fn used(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("nobat_") || word.starts_with("nv_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_series_of_the_rules_and_the_dashboard_exists_on_a_running_stack() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 1);
    std::fs::write(models.join("echo/model.toml"), "[settings]\ncache = true\n").expect("written");
    let profile = r#"{"model": "echo", "version": "1", "rows": 100, "inputs": [],
        "answers": [{"output": "y", "reading": "argmax", "classes": {"0": 100}, "rows": 100}]}"#;
    std::fs::write(models.join("echo/profile.json"), profile).expect("written");
    let redis = Redis::start(folder.path(), false);
    let worker = worker(folder.path(), &redis.url(), &models, &[("NOBAT_METRICS", "127.0.0.1:0")]);
    let mut gateway = Service::gateway(folder.path(), &redis.url(), free_port(), &[]);
    gateway.wait_for_model("echo");
    for value in [1, 1, 2] {
        let answer = gateway.http().post("/v1/models/echo:predict", &onnx::body(value, 1)).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let (of_worker, of_gateway) = (metrics_of(&worker), metrics_of(&gateway.process));
    let scrape = |address: SocketAddr| {
        let answer = Http::new(address).get("/metrics").expect("an answer");
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain; version=0.0.4")));
        answer.text()
    };
    // Heartbeats bring a worker's counters to the gateway; the monitor looks at queues.
    wait_for("the gateway shows what the worker counted", || {
        let shown = names(&scrape(of_gateway));
        shown.contains("nobat_batches_total") && shown.contains("nobat_queue_oldest_seconds")
    });
    let own = names(&scrape(of_worker));
    for name in [
        "nv_inference_count",
        "nv_inference_exec_count",
        "nobat_batches_total",
        "nobat_batch_wait_seconds_total",
        "nobat_batch_cap_rows",
        "nobat_jobs_expired_total",
        "nobat_jobs_ended_total",
        "nobat_job_seconds_bucket",
        "nobat_build_info",
    ] {
        assert!(own.contains(name), "the worker shows no {name}: {own:?}");
    }
    assert_eq!(Http::new(of_worker).get("/livez").expect("an answer").status, 200);

    let shown: BTreeSet<String> = names(&scrape(of_gateway)).union(&own).cloned().collect();
    for file in ["prometheus/rules.yml", "grafana/dashboard.json"] {
        let used = used(&deployed(file));
        assert!(used.len() >= 8, "{file} uses {used:?}");
        let missing: Vec<_> = used.difference(&shown).collect();
        assert!(missing.is_empty(), "{file} uses series that do not exist: {missing:?}\n{shown:?}");
    }
}

#[test]
fn every_alert_has_its_paragraph_and_every_paragraph_its_alert() {
    let rules = deployed("prometheus/rules.yml");
    let alerts: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::trim).collect();
    assert!(alerts.len() >= 8, "{alerts:?}");
    let path = root().join("docs/OPERATIONS.md");
    let text = std::fs::read_to_string(&path).expect("the operations page");
    let (_, section) = text.split_once("\n## Alerts\n").expect("a section on alerts");
    let section = section.split("\n## ").next().expect("its text");
    let explained: BTreeSet<&str> =
        section.split("\n### ").skip(1).filter_map(|part| part.lines().next()).map(str::trim).collect();
    assert_eq!(alerts, explained);
    for part in section.split("\n### ").skip(1) {
        let name = part.lines().next().unwrap_or_default();
        assert!(part.split_whitespace().count() > 25, "{name} says what it means and what to do: {part}");
    }
}

#[test]
fn the_dashboard_is_complete() {
    let dashboard: Value = serde_json::from_str(&deployed("grafana/dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "an id twice: {panel}");
        assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{panel}");
        let place = &panel["gridPos"];
        let at = |name: &str| place[name].as_u64().unwrap_or_else(|| panic!("{name} of {panel}"));
        assert!(at("x") + at("w") <= 24, "{panel}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "panels lie over each other at {x},{y}: {panel}");
            }
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression");
            let balanced = |open, close| expression.matches(open).count() == expression.matches(close).count();
            assert!(balanced('(', ')') && balanced('{', '}') && balanced('[', ']'), "{expression}");
        }
    }
    assert!(panels.len() >= 8);
}

#[test]
fn nobat_serve_shows_the_batching_of_its_own_worker() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 0);
    let mut service = Service::serve(folder.path(), &models, &[], &[("NOBAT_METRICS", "127.0.0.1:0")]);
    service.wait_for_model("echo");
    assert_eq!(service.http().post("/v1/models/echo:predict", &onnx::body(7, 1)).expect("an answer").status, 200);
    let mut http = Http::new(metrics_of(&service.process));
    let shown = http.get("/metrics").expect("metrics").text();
    for line in ["nobat_batch_cap_rows{model=\"echo\",version=\"1\"} ", "nobat_batch_wait_seconds_total{model=\"echo\""]
    {
        assert_eq!(shown.matches(line).count(), 1, "{line} in\n{shown}");
    }
    assert_eq!(shown.matches("# TYPE nv_inference_count ").count(), 1, "{shown}");
}
