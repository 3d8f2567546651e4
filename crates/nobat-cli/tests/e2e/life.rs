//! Start-up, drain, and a worker killed under load.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::rig::golden;
use crate::rig::http::Http;
use crate::rig::onnx;
use crate::rig::process::{Redis, Service, free_port, root, worker};
use crate::rig::wait_for;

#[test]
fn the_first_answer_comes_soon_after_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Service::serve(folder.path(), &root().join("models"), &[], &[]);
    let body = golden::body(&golden::digits()[..1]);
    loop {
        let answer = service.http().post("/v1/models/digits:predict", &body);
        if answer.is_ok_and(|answer| answer.status == 200) {
            break;
        }
        assert!(service.process.started.elapsed() < Duration::from_secs(60), "{}", service.process.output());
        std::thread::sleep(Duration::from_millis(2));
    }
    println!("start to first answer: {:?}", service.process.started.elapsed());
}

#[test]
fn sigterm_drains_what_was_accepted_survives_and_the_process_ends_well() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 256, 4);
    let mut service = Service::serve(folder.path(), &models, &[], &[]);
    service.wait_for_model("echo");
    let address = service.address;

    let clients: Vec<_> = (0..8u32)
        .map(|client| std::thread::spawn(move || accepted_until_refused(Http::new(address), client * 1_000_000)))
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    service.process.signal("-TERM");
    let status = service.process.wait(Duration::from_secs(60)).expect("it ends within the grace period");
    assert!(status.success(), "{status}: {}", service.process.output());
    let mut accepted = HashMap::new();
    clients.into_iter().for_each(|client| accepted.extend(client.join().expect("a client")));
    assert!(!accepted.is_empty());

    let mut service = Service::serve(folder.path(), &models, &[], &[]);
    service.wait_for_model("echo");
    every_job_has_its_own_answer(service.http(), &accepted);
}

#[test]
fn a_worker_killed_under_load_loses_no_accepted_job() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 256, 4);
    let redis = Redis::start(folder.path(), false);
    let env = [("NOBAT_QUEUE__LEASE_MS", "1500")];
    let mut doomed = worker(folder.path(), &redis.url(), &models, &env);
    let _stays = worker(folder.path(), &redis.url(), &models, &env);
    let mut gateway = Service::gateway(folder.path(), &redis.url(), free_port(), &env);
    gateway.wait_for_model("echo");

    let mut http = gateway.http();
    let mut accepted = HashMap::new();
    for value in 0..2000u32 {
        let answer = http.post("/api/v1/predict/echo", &onnx::body(value, 1)).expect("an answer");
        assert_eq!(answer.status, 202, "{}", answer.text());
        accepted.insert(answer.json()["id"].as_str().expect("an id").to_owned(), value);
        if value == 1000 {
            doomed.kill();
        }
    }
    every_job_has_its_own_answer(http, &accepted);
}

#[test]
fn a_load_by_api_answers_when_it_is_done_and_with_the_reason_when_it_failed() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 0);
    let mut service = Service::serve(folder.path(), &models, &[], &[]);
    service.wait_for_model("echo");
    let mut http = service.http();
    let mut load = |model: &str| http.post(&format!("/v2/repository/models/{model}/load"), "").expect("an answer");
    assert_eq!(load("echo").status, 200, "nothing changed");
    let file = models.join("echo/1/model.onnx");
    let whole = std::fs::read(&file).expect("the model");
    std::fs::write(&file, &whole[..whole.len() / 2]).expect("half of it");
    let refused = load("echo");
    assert_eq!(refused.status, 503, "{}", refused.text());
    let message = refused.text();
    assert!(message.contains("model.onnx") && message.contains("goes on serving"), "{message}");
    let mut own = service.http();
    assert_eq!(own.post("/v1/models/echo:predict", &onnx::body(7, 1)).expect("an answer").status, 200);
    // Another model in the file's place: served as soon as the answer is there.
    onnx::echo(folder.path(), 128, 1);
    let digest =
        |http: &mut Http| http.get("/api/v1/models/echo").expect("an answer").json()["versions"][0]["digest"].clone();
    let before = digest(&mut own);
    assert_eq!(load("echo").status, 200);
    assert_ne!(digest(&mut own), before);
    assert_eq!(load("nobody").status, 404);
}

#[test]
fn sighup_serves_what_is_new_and_forgets_what_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 64, 0);
    let mut service = Service::serve(folder.path(), &models, &[], &[]);
    service.wait_for_model("echo");
    std::fs::rename(models.join("echo"), models.join("parrot")).expect("renamed");
    service.process.signal("-HUP");
    service.wait_for_model("parrot");
    let mut http = service.http();
    let answer = http.post("/v1/models/parrot:predict", &onnx::body(7, 1)).expect("an answer");
    assert_eq!((answer.status, answer.json()["predictions"][0][63].as_f64()), (200, Some(7.0)), "{}", answer.text());
    wait_for("echo is forgotten", || http.get("/v1/models/echo").is_ok_and(|answer| answer.status == 404));
}

/// Fires jobs until the service refuses or goes, and returns id -> value.
fn accepted_until_refused(mut http: Http, first: u32) -> HashMap<String, u32> {
    let mut accepted = HashMap::new();
    let end = Instant::now() + Duration::from_secs(30);
    for value in first.. {
        assert!(Instant::now() < end, "the service neither refuses nor goes");
        match http.post("/api/v1/predict/echo", &onnx::body(value, 1)) {
            Ok(answer) if answer.status == 202 => {
                accepted.insert(answer.json()["id"].as_str().expect("an id").to_owned(), value);
            }
            Ok(answer) => {
                assert_eq!(answer.status, 503, "{}", answer.text());
                assert!(answer.text().contains("draining"), "{}", answer.text());
                break;
            }
            Err(_) => break,
        }
    }
    accepted
}

fn every_job_has_its_own_answer(mut http: Http, accepted: &HashMap<String, u32>) {
    for (id, value) in accepted {
        let answer = http.get(&format!("/api/v1/jobs/{id}/result?wait=60")).expect("an answer");
        assert_eq!(answer.status, 200, "{id}: {}", answer.text());
        assert_eq!(answer.json()["predictions"][0][63].as_f64(), Some(f64::from(*value)), "{id}");
    }
}
