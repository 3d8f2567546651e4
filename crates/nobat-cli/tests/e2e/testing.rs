//! `nobat test` and `nobat compare` against real services, on either store.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::rig::golden::digits;
use crate::rig::process::{Process, Redis, Service, binary, free_port, root, worker};
use crate::rig::wait_for;

fn nobat(folder: &Path, url: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("nobat"));
    command.args(arguments).current_dir(folder).env("NOBAT_URL", url);
    command.stdin(Stdio::null()).output().expect("it runs")
}

fn json(done: &Output) -> Value {
    let errors = String::from_utf8_lossy(&done.stderr);
    serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("no JSON: {errors}"))
}

/// Every finding as `stage id` and its verdict.
fn verdicts(report: &Value) -> Vec<(String, String)> {
    let stages = report["stages"].as_array().expect("stages");
    let findings = stages.iter().flat_map(|stage| {
        let name = stage["stage"].as_str().expect("a name");
        let findings = stage["findings"].as_array().expect("findings");
        findings.iter().map(move |finding| {
            let text = |key: &str| finding[key].as_str().expect(key).to_owned();
            (format!("{name} {}", text("id")), text("verdict"))
        })
    });
    findings.collect()
}

/// What the gateway of these tests may do besides, and where its gRPC is.
fn settings(grpc: &str) -> Vec<(&str, &str)> {
    vec![
        ("NOBAT_GRPC", grpc),
        ("NOBAT_GATEWAY__WEBHOOKS__ADDRESSES__ALLOW_HTTP", "true"),
        ("NOBAT_GATEWAY__WEBHOOKS__ADDRESSES__ALLOW_PRIVATE", "true"),
    ]
}

/// The demo model passes all stages over all protocols.
fn passes_everything(folder: &Path, service: &Service, grpc: &str) {
    let url = format!("http://{}", service.address);
    let golden = root().join("models/digits/golden.json").display().to_string();
    // The golden digits over and over: a few hundred rows of a known distribution.
    let rows: Vec<String> = digits().iter().cycle().take(512).map(|digit| digit.row.clone()).collect();
    std::fs::write(folder.join("rows.jsonl"), rows.join("\n")).expect("writes");
    let made = nobat(folder, &url, &["test", "init", "digits", "--data", "rows.jsonl"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!((&json(&made)["rows"], &json(&made)["golden_rows"]), (&512.into(), &16.into()));

    for golden in [&["--golden", &golden][..], &[]] {
        let flags = ["test", "digits", "--only", "functional,statistical,errors", "--grpc", grpc, "--latency", "10000"];
        let files = ["--report", "r.html", "--junit", "j.xml"];
        let done = nobat(folder, &url, &[&flags[..], &files, golden].concat());
        let report = json(&done);
        let found = verdicts(&report);
        assert!(done.status.success(), "{report:#}");
        let not_passed: Vec<_> = found.iter().filter(|(_, verdict)| verdict != "passed").collect();
        // This server asks for no key.
        assert!(not_passed.iter().all(|(id, _)| id == "errors wrong_key"), "{not_passed:?}: {report:#}");
        for id in
            ["protocol.v2", "protocol.grpc", "protocol.tfserving", "protocol.native", "protocol.job", "webhook", "jobs"]
        {
            assert!(found.iter().any(|(found, _)| *found == format!("functional {id}")), "{id}: {found:?}");
        }
    }
    let page = std::fs::read_to_string(folder.join("r.html")).expect("a page");
    assert!(page.contains("Test of digits/1") && page.contains("<svg"), "{page}");
    assert!(std::fs::read_to_string(folder.join("j.xml")).expect("XML").contains("<testsuite name=\"errors\""));
}

#[test]
fn the_demo_model_passes_everything_on_the_embedded_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let grpc = format!("127.0.0.1:{}", free_port());
    let mut service = Service::serve(folder.path(), &root().join("models"), &[], &settings(&grpc));
    service.wait_for_model("digits");
    passes_everything(folder.path(), &service, &grpc);
    let url = format!("http://{}", service.address);
    let nobat = |arguments: &[&str]| nobat(folder.path(), &url, arguments);

    let asked = nobat(&["test", "digits", "--only", "statistical", "--rows", "20", "--shift", "0.02"]);
    assert_eq!(asked.status.code(), Some(2), "too few rows to judge");
    // Only three of the ten digits: their shares are others.
    let three: Vec<String> = digits().iter().take(3).cycle().take(300).map(|digit| digit.row.clone()).collect();
    std::fs::write(folder.path().join("three.jsonl"), three.join("\n")).expect("writes");
    let shifted = nobat(&["test", "digits", "--only", "statistical", "--data", "three.jsonl"]);
    assert_eq!(shifted.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&shifted.stderr).contains("statistical label.class"));
    let load =
        ["test", "digits", "--only", "load", "--rate", "20", "--duration", "1", "--runs", "2", "--warm-up", "0.2"];
    let loaded = nobat(&[&load[..], &["--save-baseline", "baseline.json", "--fail-on", "never"]].concat());
    let report = json(&loaded);
    assert!(loaded.status.success() && report["stages"][0]["stage"] == "load", "{report:#}");
    let told = verdicts(&report);
    assert!(told.iter().all(|(id, _)| id != "load memory.workers"), "the worker is the process that listens: {told:?}");
    assert!(folder.path().join("baseline.json").is_file(), "{report:#}");
    let alone = nobat(&["test", "digits", "--only", "functional", "--fail-on", "not-judged"]);
    assert_eq!(alone.status.code(), Some(1), "the gRPC port is another, and there is no limit");

    let golden = std::fs::read_to_string(folder.path().join("tests/digits.golden.json")).expect("golden");
    let wrong = golden.replacen(
        "\"outputs\":[{\"name\":\"label\",\"datatype\":\"INT64\",\"shape\":[16],\"data\":[",
        "\"outputs\":[{\"name\":\"label\",\"datatype\":\"INT64\",\"shape\":[16],\"data\":[9",
        1,
    );
    assert_ne!(golden, wrong, "{golden}");
    std::fs::write(folder.path().join("wrong.json"), wrong).expect("writes");
    let failed = nobat(&["test", "digits", "--only", "functional", "--golden", "wrong.json"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("functional golden"));
    assert_eq!(
        nobat(&["test", "digits", "--only", "functional", "--golden", "wrong.json", "--fail-on", "never"])
            .status
            .code(),
        Some(0)
    );

    let profile = std::fs::read_to_string(folder.path().join("tests/digits.profile.json")).expect("a profile");
    let other = profile.replacen("\"model\": \"digits\"", "\"model\": \"letters\"", 1);
    std::fs::write(folder.path().join("letters.json"), other).expect("writes");
    std::fs::write(folder.path().join("empty.jsonl"), "").expect("writes");

    let compared = nobat(&["compare", "digits/1", "digits", "--traffic", "rows.jsonl", "--latency", "1000"]);
    let report = json(&compared);
    assert!(compared.status.success() && report["verdict"] == "safe" && report["requests"] == 512, "{report:#}");
    let few = nobat(&["compare", "digits/1", "digits", "--traffic", "rows.jsonl", "--latency", "1000", "--most", "50"]);
    assert!(few.status.code() == Some(1) && json(&few)["verdict"] == "more_needed");
    for (arguments, why) in [
        (&["compare", "digits", "nobody", "--traffic", "rows.jsonl"][..], "nobody"),
        (&["compare", "digits", "digits", "--traffic", "none.jsonl"], "none.jsonl"),
        (&["compare", "digits", "digits", "--traffic", "rows.jsonl", "--lost", "0"], "--lost must be over 0"),
        (&["test", "digits", "--profile", "none.json"], "nobat test init"),
        (&["test", "digits", "--profile", "letters.json"], "is the profile of model `letters`, not of `digits`"),
        (&["test", "digits", "--data", "empty.jsonl"], "`empty.jsonl` holds no row"),
        (&["test", "digits", "--only", "load", "--server-pid", "4294967295"], "no process 4294967295"),
        (&["test", "digits", "--report", "no/folder/r.html"], "nothing was asked"),
        (&["test", "digits", "--only", "functionl"], "stages: functional"),
        (&["test", "digits", "--protocol", "v3"], "protocols: v2-binary"),
        (&["test", "digits", "--protocol", "json"], "--request-template"),
        (&["test", "digits", "--rows", "0"], "rows is 0"),
        (&["test", "digits", "--data", "none.jsonl"], "none.jsonl"),
        (&["test", "digits", "--baseline", "none.json"], "none.json"),
        (&["test", "digits", "--only", "load", "--rate", "7", "--baseline", "baseline.json"], "another load"),
        (&["test", "digits", "--only", "load", "--rate", "7", "--save-baseline", "baseline.json"], "another load"),
        (&["test", "digits", "--only", "load", "--users", "2", "--save-baseline", "baseline.json"], "another load"),
        (&["test", "nobody"], "nobody"),
        (&["test", "digits", "--url", "http://127.0.0.1:9", "--junit", "never.xml"], "is the server running"),
        (&["test", "init", "digits", "--data", "rows.jsonl"], "--force replaces it"),
        (&["test", "init", "digits", "--data", "none.jsonl", "--force"], "none.jsonl"),
    ] {
        let refused = nobat(arguments);
        let errors = String::from_utf8_lossy(&refused.stderr);
        assert!(
            refused.status.code() == Some(2) && errors.contains(why),
            "{arguments:?}: {:?} {errors}",
            refused.status
        );
    }
    assert!(!folder.path().join("never.xml").exists(), "an empty file would be read as a report");
    let piped = nobat(&["test", "digits", "--only", "functional", "--grpc", &grpc, "--report", "/dev/stderr"]);
    let page = String::from_utf8_lossy(&piped.stderr);
    assert!(piped.status.success() && page.contains("<!doctype html>"), "{:?}: {page}", piped.status);
}

#[test]
fn the_demo_model_passes_everything_on_redis() {
    let folder = tempfile::tempdir().expect("a folder");
    let redis = Redis::start(folder.path(), false);
    let grpc = format!("127.0.0.1:{}", free_port());
    let mut service = Service::gateway(folder.path(), &redis.url(), free_port(), &settings(&grpc));
    let _worker = worker(folder.path(), &redis.url(), &root().join("models"), &[]);
    service.wait_for_model("digits");
    passes_everything(folder.path(), &service, &grpc);
}

/// What the load stage says of the workers' memory, after 1,000 requests.
fn memory_of_workers(folder: &Path, service: &Service) -> Value {
    let url = format!("http://{}", service.address);
    let load = ["--only", "load", "--rate", "200", "--evenly", "--duration", "5", "--warm-up", "0.5"];
    let report = json(&nobat(folder, &url, &[&["test", "digits", "--fail-on", "never"], &load[..]].concat()));
    let findings = report["stages"][0]["findings"].as_array().expect("findings");
    findings.iter().find(|finding| finding["id"] == "memory.workers").unwrap_or(&Value::Null).clone()
}

#[test]
fn a_worker_apart_from_the_gateway_that_leaks_is_found_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let redis = Redis::start(folder.path(), false);
    let mut service = Service::gateway(folder.path(), &redis.url(), free_port(), &[]);
    let steady = worker(folder.path(), &redis.url(), &root().join("models"), &[]);
    service.wait_for_model("digits");
    let found = memory_of_workers(folder.path(), &service);
    assert_eq!(found["verdict"], "passed", "{found:#}");
    let words = found["words"].to_string();
    assert!(words.contains(&format!(":{}`", steady.id())), "{words}");

    // It answers some of the requests; the stage says that it does not see less than 819 KiB a run.
    let models = root().join("models").display().to_string();
    let leaking = Process::start(folder.path(), "examples/leaking_worker", &[&redis.url(), &models, "131072"], &[]);
    wait_for("both workers have loaded it", || {
        let workers = service.http().get("/api/v1/workers").expect("an answer").text();
        workers.matches(r#""name":"digits","version":"1","state":"ready""#).count() == 2
    });
    let found = memory_of_workers(folder.path(), &service);
    assert_eq!(found["verdict"], "failed", "{found:#}");
    let grew: Vec<&str> = found["words"].as_array().expect("words").iter().filter_map(Value::as_str).collect();
    let grew: Vec<&&str> = grew.iter().filter(|words| words.contains(" grew from ")).collect();
    assert!(grew.len() == 1 && grew[0].contains(&format!(":{}` grew", leaking.id())), "{found:#}");
}

#[test]
fn a_wrong_key_is_refused_over_every_protocol() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = nobat(folder.path(), "", &["keys", "--keys", "keys.toml", "new", "ops", "--scope", "admin"]);
    let key = String::from_utf8(made.stdout).expect("text").trim().to_owned();
    let grpc = format!("127.0.0.1:{}", free_port());
    let service = Service::serve(folder.path(), &root().join("models"), &["--keys", "keys.toml"], &settings(&grpc));
    let authorization = format!("Bearer {key}");
    wait_for("digits is ready", || {
        let headers = [("authorization", authorization.as_str())];
        service.http().send("GET", "/v2/models/digits/ready", &headers, b"").is_ok_and(|answer| answer.status == 200)
    });
    let url = format!("http://{}", service.address);
    let asked = ["test", "digits", "--only", "errors", "--grpc", &grpc];
    let done = nobat(folder.path(), &url, &[&asked[..], &["--api-key", &key]].concat());
    let report = json(&done);
    assert!(done.status.success(), "{report:#}");
    let wrong_key = verdicts(&report).into_iter().find(|(id, _)| id == "errors wrong_key").expect("asked");
    assert_eq!(wrong_key.1, "passed", "{report:#}");
    let without = nobat(folder.path(), &url, &asked);
    let errors = String::from_utf8_lossy(&without.stderr);
    assert!(without.status.code() == Some(2) && errors.contains("unauthenticated"), "{errors}");
}
