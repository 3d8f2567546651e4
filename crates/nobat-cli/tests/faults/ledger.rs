//! The clients' own book: what was accepted, and what came of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::rig::http::Http;
use crate::rig::onnx;

/// Accepted jobs: id -> the value that its answer must hold.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) accepted: HashMap<String, u32>,
    /// Requests without a clear answer: they may or may not have become jobs.
    pub(crate) unclear: u32,
}

/// What the ledger's jobs came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) succeeded: u32,
    /// Dead letters: a job whose worker died three times under it.
    pub(crate) quarantined: u32,
    /// Attempts beyond each job's first.
    pub(crate) repeated: u32,
    /// The longest time of a repeated job from enqueue to its last attempt, for
    /// each time it was repeated; by the store's clock.
    pub(crate) slowest_repeat: Duration,
}

/// Clients that fire jobs until they are told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Ledger>>,
}

impl Load {
    /// `clients` clients, each firing a job every `pause`.
    pub(crate) fn start(address: SocketAddr, clients: u32, pause: Duration) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..clients)
            .map(|client| {
                let stop = stop.clone();
                std::thread::spawn(move || fire(address, client * 1_000_000, pause, &stop))
            })
            .collect();
        Load { stop, clients }
    }

    pub(crate) fn finish(self) -> Ledger {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Ledger::default();
        for client in self.clients {
            let ledger = client.join().expect("a client");
            all.accepted.extend(ledger.accepted);
            all.unclear += ledger.unclear;
        }
        all
    }
}

fn fire(address: SocketAddr, first: u32, pause: Duration, stop: &AtomicBool) -> Ledger {
    let mut http = Http::new(address);
    let mut ledger = Ledger::default();
    for value in first.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        // Two rows now and then: batches of mixed sizes.
        let rows = 1 + (value as usize % 7) / 6;
        match http.post("/api/v1/predict/echo?max_retries=200&retry_delay=100ms", &onnx::body(value, rows)) {
            Ok(answer) if answer.status == 202 => {
                ledger.accepted.insert(answer.json()["id"].as_str().expect("an id").to_owned(), value);
            }
            Ok(answer) => {
                assert!([503, 429].contains(&answer.status), "{} {}", answer.status, answer.text());
                ledger.unclear += 1;
            }
            Err(_) => ledger.unclear += 1,
        }
        std::thread::sleep(pause);
    }
    ledger
}

impl Ledger {
    /// Waits for every accepted job's end and checks its answer. A job that is
    /// lost fails the test here: its id would answer 404, or nothing within `limit`.
    pub(crate) fn settle(&self, address: SocketAddr, limit: Duration) -> Outcome {
        let mut http = Http::new(address);
        let mut outcome = Outcome::default();
        let end = Instant::now() + limit;
        for (id, value) in &self.accepted {
            let answer = loop {
                let answer = http.get(&format!("/api/v1/jobs/{id}/result?wait=5"));
                match answer {
                    Ok(answer) if ![202, 503].contains(&answer.status) => break answer,
                    other => {
                        let last = other.map(|answer| answer.text()).unwrap_or_else(|error| error.to_string());
                        assert!(Instant::now() < end, "job {id} has no end after {limit:?}: {last}");
                    }
                }
            };
            if answer.status == 200 {
                let body = answer.json();
                assert_eq!(body["predictions"][0][63].as_f64(), Some(f64::from(*value)), "job {id}");
                outcome.succeeded += 1;
                let repeats = body["explain"]["attempts"].as_u64().unwrap_or(1) as u32 - 1;
                outcome.repeated += repeats;
                if repeats > 0 {
                    let queued_us = body["explain"]["queue_us"].as_u64().expect("a time");
                    let each = Duration::from_micros(queued_us) / repeats;
                    outcome.slowest_repeat = outcome.slowest_repeat.max(each);
                }
            } else {
                let job: Value = http.get(&format!("/api/v1/jobs/{id}")).expect("the gateway answers").json();
                assert_eq!(job["state"], "dead", "job {id}: {} {}", answer.status, answer.text());
                outcome.quarantined += 1;
            }
        }
        assert_eq!((outcome.succeeded + outcome.quarantined) as usize, self.accepted.len());
        outcome
    }
}
