//! kill -9 of workers, of gateways and of Redis while a file of lines is answered: each
//! line is in the output once.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::rig::http::{Answer, Http};
use crate::rig::process::{Bucket, Process, Redis, Service, free_port, root, worker};
use crate::rig::wait_for;
use crate::rounds;

/// Who is killed, in turn.
const VICTIMS: [Victim; 8] = [
    Victim::Worker(0),
    Victim::Gateway(0),
    Victim::Worker(1),
    Victim::Redis,
    Victim::Worker(0),
    Victim::Gateway(1),
    Victim::Worker(1),
    Victim::Worker(0),
];

#[derive(Clone, Copy, Debug)]
enum Victim {
    Worker(usize),
    Gateway(usize),
    Redis,
}

#[test]
fn every_line_of_a_batch_is_answered_once_whatever_is_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = folder.path().join("files").display().to_string();
    let env = [("NOBAT_GATEWAY__FILES__FOLDER", files.as_str())];
    let left = || std::fs::read_dir(&files).map_or(0, Iterator::count);
    answered_once(folder.path(), rounds(12_000, 50_000) as usize, &env, left);
}

#[test]
fn so_it_is_where_the_files_are_in_a_bucket() {
    let folder = tempfile::tempdir().expect("a folder");
    let bucket = Bucket::start(folder.path());
    let env = [
        ("NOBAT_GATEWAY__FILES__BUCKET", "s3://batches/of/one"),
        ("NOBAT_GATEWAY__FILES__ENDPOINT", bucket.endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let left = || bucket.http().get("/batches?list-type=2").expect("a list").text().matches("<Key>").count();
    answered_once(folder.path(), rounds(12_000, 50_000) as usize, &env, left);
    let missing = [&env[1..], &[("NOBAT_GATEWAY__FILES__BUCKET", "s3://nobodys")]].concat();
    let model = root().join("tests/text_models/embed").display().to_string();
    let serve = ["serve", &model, "--data", "data", "--listen", "127.0.0.1:0", "--grpc", "", "--metrics", ""];
    let mut refused = Process::start(folder.path(), "nobat", &serve, &missing);
    let status = refused.wait(Duration::from_secs(60)).expect("it does not start");
    let says = "gateway.files.bucket `s3://nobodys` is not there; make it, or name another";
    assert!(!status.success() && refused.output().contains(says), "{}", refused.output());
    // What is left is the input and the output.
    let listed = bucket.http().get("/batches?list-type=2").expect("a list").text();
    assert_eq!(listed.matches("<Key>of/one/file-").count(), 2, "{listed}");
    assert_eq!(listed.matches("<Key>").count(), 2, "{listed}");
}

/// A batch over all kills; `env` says where its files are, and `left` how many of them there are.
fn answered_once(folder: &Path, lines: usize, env: &[(&str, &str)], left: impl Fn() -> usize) {
    let models = root().join("tests/text_models/embed");
    let mut redis = Redis::start(folder, true);
    let url = redis.url();
    let env = [&[("NOBAT_QUEUE__LEASE_MS", "1500")], env].concat();
    let start_worker = || worker(folder, &url, &models, &env);
    let mut workers = [start_worker(), start_worker()];
    let ports = [free_port(), free_port()];
    let start_gateway = |at: usize| Service::gateway(folder, &url, ports[at], &env);
    let mut gateways = [start_gateway(0), start_gateway(1)];
    gateways.iter_mut().for_each(|gateway| gateway.wait_for_model("embed"));

    let started = Instant::now();
    let file = upload(&mut gateways[0].http(), lines);
    let body =
        format!("{{\"input_file_id\":\"{file}\",\"endpoint\":\"/v1/embeddings\",\"completion_window\":\"24h\"}}");
    let made = gateways[0].http().post("/v1/batches", &body).expect("an answer");
    assert_eq!(made.status, 200, "{}", made.text());
    let path = format!("/v1/batches/{}", made.json()["id"].as_str().expect("an id"));
    // Each fault when a further share of the lines is answered.
    for (at, victim) in VICTIMS.into_iter().enumerate() {
        let share = lines * (at + 1) / (VICTIMS.len() + 2);
        let batch = until(&gateways, &path, |batch| done(batch) >= share as u64 || batch["status"] == "completed");
        assert_ne!(batch["status"], "completed", "{victim:?} comes too late");
        match victim {
            Victim::Worker(at) => {
                workers[at].kill();
                workers[at] = start_worker();
            }
            Victim::Gateway(at) => {
                gateways[at].process.kill();
                gateways[at] = start_gateway(at);
            }
            Victim::Redis => redis.crash(Duration::from_millis(500)),
        }
    }
    let batch = until(&gateways, &path, |batch| batch["status"] == "completed");
    let counts = &batch["request_counts"];
    println!("{} kills over a batch of {lines} lines, {:?}: {counts}", VICTIMS.len(), started.elapsed());
    assert_eq!((counts["completed"].as_u64(), counts["failed"].as_u64()), (Some(lines as u64), Some(0)), "{batch}");
    let output = batch["output_file_id"].as_str().expect("a file");
    let text = ask(&gateways, &format!("/v1/files/{output}/content")).text();
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        let id: usize = line["custom_id"].as_str().and_then(|id| id.parse().ok()).expect("one of ours");
        assert!(line["response"]["body"]["data"][0]["embedding"].as_array().is_some_and(|vector| !vector.is_empty()));
        assert!(seen.insert(id), "line {id} is there twice");
    }
    assert!(seen.into_iter().eq(0..lines), "a line is missing");
    // Segments are deleted after the batch has ended.
    wait_for("the input and the output are all that is left", || left() == 2);
}

fn done(batch: &Value) -> u64 {
    ["completed", "failed"].iter().filter_map(|kind| batch["request_counts"][kind].as_u64()).sum()
}

fn upload(http: &mut Http, lines: usize) -> String {
    let mut body = String::from(
        "--x\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--x\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\r\n",
    );
    for at in 0..lines {
        let text = "word ".repeat(at % 12);
        let request = format!("{{\"model\":\"embed\",\"input\":\"{text}{at}\"}}");
        writeln!(body, "{{\"custom_id\":\"{at}\",\"method\":\"POST\",\"url\":\"/v1/embeddings\",\"body\":{request}}}")
            .expect("a string");
    }
    body.push_str("\r\n--x--\r\n");
    let headers = [("Content-Type", "multipart/form-data; boundary=x")];
    let answer = http.send("POST", "/v1/files", &headers, body.as_bytes()).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["id"].as_str().expect("an id").to_owned()
}

/// What any gateway answers; one of them may be down.
fn ask(gateways: &[Service; 2], path: &str) -> Answer {
    let mut found = None;
    wait_for("a gateway answers", || {
        found = gateways.iter().find_map(|gateway| gateway.http().get(path).ok().filter(|answer| answer.status == 200));
        found.is_some()
    });
    found.expect("an answer")
}

/// The batch, once it is as `enough` says; a batch that makes no headway for a minute fails.
fn until(gateways: &[Service; 2], path: &str, enough: impl Fn(&Value) -> bool) -> Value {
    let mut last = (0, Instant::now());
    loop {
        let batch = ask(gateways, path).json();
        if enough(&batch) {
            return batch;
        }
        if done(&batch) > last.0 {
            last = (done(&batch), Instant::now());
        }
        assert!(last.1.elapsed() < Duration::from_secs(90), "no headway: {batch}");
        assert!(batch["status"] != "failed", "{batch}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
