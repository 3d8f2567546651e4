//! SIGTERM under load, again and again, of gateways and workers: whatever was
//! accepted is answered, and nothing is answered 5xx but `draining`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::amount;
use crate::rig::http::Http;
use crate::rig::onnx;
use crate::rig::process::{Process, Redis, Service, free_port, worker};

const DRAIN: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    draining: AtomicU64,
    /// Connections that ended before a byte of an answer: a listener that was
    /// just closed, or an idle connection that was. Nothing was accepted.
    cut: AtomicU64,
    stop: AtomicBool,
}

/// Predicts and enqueues in turns, at the next gateway when one is away, until
/// told to stop; returns the jobs that were accepted, id -> value.
fn client(gateways: &[SocketAddr], first: u32, seen: &Seen) -> HashMap<String, u32> {
    let mut accepted = HashMap::new();
    let mut at = first as usize;
    let mut http = Http::new(gateways[at % gateways.len()]);
    for turn in 0.. {
        if seen.stop.load(SeqCst) {
            break;
        }
        let value = first * 1_000_000 + turn % 1_000_000;
        let path = if turn % 2 == 0 { "/v1/models/echo:predict" } else { "/api/v1/predict/echo" };
        let answer = http.post(path, &onnx::body(value, 1));
        match answer {
            Ok(answer) if answer.status == 200 => {
                let echoed = answer.json()["predictions"][0][9].as_f64();
                assert_eq!(echoed, Some(f64::from(value as f32)), "its own answer: {}", answer.text());
                seen.answered.fetch_add(1, SeqCst);
            }
            Ok(answer) if answer.status == 202 => {
                accepted.insert(answer.json()["id"].as_str().expect("an id").to_owned(), value);
            }
            Ok(answer) => {
                assert_eq!(
                    (answer.status, answer.json()["code"].as_str()),
                    (503, Some("draining")),
                    "{}",
                    answer.text()
                );
                assert!(answer.header("retry-after").is_some());
                seen.draining.fetch_add(1, SeqCst);
                at += 1;
                http = Http::new(gateways[at % gateways.len()]);
            }
            Err(_) => {
                seen.cut.fetch_add(1, SeqCst);
                at += 1;
                http = Http::new(gateways[at % gateways.len()]);
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    accepted
}

fn end_well(process: &mut Process) {
    process.signal("-TERM");
    let status = process.wait(DRAIN).expect("it ends within the grace period");
    assert!(status.success(), "{status}: {}", process.output());
}

#[test]
fn sigterm_of_gateways_and_workers_under_load_loses_nothing_that_was_accepted() {
    let rounds = amount(3, 50);
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 128, 2);
    let redis = Redis::start(folder.path(), false);
    let start_worker = || worker(folder.path(), &redis.url(), &models, &[]);
    let mut workers = [start_worker(), start_worker()];
    let ports = [free_port(), free_port()];
    let start_gateway = |port: u16| {
        let mut gateway = Service::gateway(folder.path(), &redis.url(), port, &[]);
        gateway.wait_for_model("echo");
        gateway
    };
    let mut gateways = ports.map(start_gateway);
    // Both workers serve before one of them goes.
    let ready = |worker: &Process| worker.output().contains(" ready");
    workers.iter().for_each(|one| crate::rig::wait_for("a worker is ready", || ready(one)));

    let seen = Arc::new(Seen::default());
    let addresses = gateways.each_ref().map(|gateway| gateway.address);
    let next = AtomicU32::new(0);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (seen, first) = (seen.clone(), next.fetch_add(1, SeqCst));
            std::thread::spawn(move || client(&addresses, first, &seen))
        })
        .collect();
    for round in 0..rounds {
        std::thread::sleep(Duration::from_millis(300));
        let at = round % 2;
        end_well(&mut gateways[at].process);
        gateways[at] = start_gateway(ports[at]);
        end_well(&mut workers[at]);
        workers[at] = start_worker();
        crate::rig::wait_for("the new worker is ready", || ready(&workers[at]));
    }
    seen.stop.store(true, SeqCst);
    let mut accepted = HashMap::new();
    clients.into_iter().for_each(|client| accepted.extend(client.join().expect("a client")));

    let mut http = gateways[0].http();
    for (id, value) in &accepted {
        let answer = http.get(&format!("/api/v1/jobs/{id}/result?wait=60")).expect("an answer");
        assert_eq!(answer.status, 200, "{id}: {}", answer.text());
        let echoed = answer.json()["predictions"][0][9].as_f64();
        assert_eq!(echoed, Some(f64::from(*value as f32)), "{id}");
    }
    let [answered, draining, cut] = [&seen.answered, &seen.draining, &seen.cut].map(|count| count.load(SeqCst));
    println!(
        "{rounds} gateways and {rounds} workers drained: {answered} predictions answered, {} jobs accepted and all \
         answered, {draining} refused as draining, {cut} connections ended unanswered, no other 5xx",
        accepted.len()
    );
    assert!(answered > 0 && !accepted.is_empty());
}
