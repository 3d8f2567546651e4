//! kill -9 of the gateway, under clients that repeat with an idempotency key.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::rig::http::Http;
use crate::rig::onnx;
use crate::rig::process::{Redis, Service, free_port, worker};
use crate::rounds;

#[test]
fn every_accepted_id_is_readable_and_a_key_makes_one_job_whatever_happens_to_the_gateway() {
    let kills = rounds(5, 50);
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 256, 2);
    let redis = Redis::start(folder.path(), false);
    let _worker = worker(folder.path(), &redis.url(), &models, &[]);
    let port = free_port();
    let mut gateway = Service::gateway(folder.path(), &redis.url(), port, &[]);
    gateway.wait_for_model("echo");
    let address = gateway.address;

    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4u32)
        .map(|client| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut http = Http::new(address);
                let mut jobs = HashMap::new();
                for value in client * 1_000_000.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    jobs.insert(value, until_accepted(&mut http, value));
                    std::thread::sleep(Duration::from_millis(2));
                }
                jobs
            })
        })
        .collect();
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(300));
        gateway.process.kill();
        gateway = Service::gateway(folder.path(), &redis.url(), port, &[]);
        gateway.wait_for_model("echo");
    }
    stop.store(true, Ordering::SeqCst);
    let mut jobs = HashMap::new();
    clients.into_iter().for_each(|client| jobs.extend(client.join().expect("a client")));

    let mut http = gateway.http();
    let mut ids = HashMap::new();
    for (value, id) in &jobs {
        let answer = http.get(&format!("/api/v1/jobs/{id}/result?wait=60")).expect("an answer");
        assert_eq!(answer.status, 200, "{id}: {}", answer.text());
        assert_eq!(answer.json()["predictions"][0][0].as_f64(), Some(f64::from(*value)), "{id}");
        // The key again: the same job, not a second one.
        assert_eq!(&until_accepted(&mut http, *value), id);
        assert_eq!(ids.insert(id.clone(), *value), None, "two keys share a job");
    }
    println!("gateway kills {kills}: {} keys, {} jobs, all readable", jobs.len(), ids.len());
    assert!(!jobs.is_empty());
    let counts = http.get("/api/v1/queues/echo").expect("an answer").json();
    assert_eq!(counts["enqueued_total"].as_u64(), Some(jobs.len() as u64), "one job per key: {counts}");
}

/// Posts with the value's own key until a gateway says 202.
fn until_accepted(http: &mut Http, value: u32) -> String {
    let key = format!("key-{value}");
    let headers = [("Idempotency-Key", key.as_str()), ("Content-Type", "application/json")];
    for _ in 0..10_000 {
        match http.send("POST", "/api/v1/predict/echo", &headers, onnx::body(value, 1).as_bytes()) {
            Ok(answer) if answer.status == 202 => {
                return answer.json()["id"].as_str().expect("an id").to_owned();
            }
            Ok(answer) => {
                assert!([503, 409, 404].contains(&answer.status), "{} {}", answer.status, answer.text());
            }
            Err(_) => {}
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("key {key} is never accepted");
}
