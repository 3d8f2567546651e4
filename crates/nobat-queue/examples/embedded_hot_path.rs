//! Measures the embedded queue's hot path: enqueues, a drain, blocking calls,
//! and the same with a long backlog. Run it in release mode:
//!
//! `cargo run --release -p nobat-queue --example embedded_hot_path [BACKLOG]`
//!
//! Payloads have the size of a digits request (290 bytes), results of a digits
//! answer (79 bytes). One worker leases 32 at a time and answers at once.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nobat_core::OwnerId;
use nobat_core::job::{JobOptions, JobResult, NewJob, Outcome, Settlement};
use nobat_core::timings::Timings;
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{Durability, QueueSettings};
use nobat_queue::{Queue, QueueClient};

const MODEL: &str = "digits";
const BATCH: usize = 32;

fn job(payload: Bytes) -> NewJob {
    let options = JobOptions::default();
    NewJob { model: MODEL.into(), owner: OwnerId(1), options, payload, rows: 1, trace: "".into() }
}

/// A worker on a thread of its own, as in the product; it ends when `until`
/// jobs are settled.
fn start_worker(queue: Arc<SqliteQueue>, until: usize) -> std::thread::JoinHandle<Duration> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut consumer = queue.consumer(MODEL, "bench").await.expect("a consumer");
            let result = JobResult { timings: Timings::default(), outputs: Bytes::from(vec![5u8; 79]) }.encode();
            let (mut done, mut settled, mut began) = (Vec::new(), 0, None);
            loop {
                let step = consumer.settle_and_lease(std::mem::take(&mut done), BATCH).await.expect("a step");
                settled += step.leased.len();
                if step.leased.is_empty() {
                    if settled >= until {
                        return began.map_or(Duration::ZERO, |began: Instant| began.elapsed());
                    }
                    consumer.idle().await;
                } else {
                    began.get_or_insert_with(Instant::now);
                }
                done.extend(step.leased.into_iter().map(|job| Settlement {
                    id: job.id,
                    token: job.token,
                    outcome: Outcome::Succeeded(result.clone()),
                }));
            }
        })
    })
}

/// Runs `count` operations, `clients` at a time, on one thread; their latencies.
fn clients<F: Future>(count: usize, clients: usize, op: impl Fn() -> F) -> (Duration, Vec<Duration>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let began = Instant::now();
    let op = &op;
    let one = |at: usize| async move {
        let each = count / clients + usize::from(at < count % clients);
        let mut latencies = Vec::with_capacity(each);
        for _ in 0..each {
            let began = Instant::now();
            op().await;
            latencies.push(began.elapsed());
        }
        latencies
    };
    let mut latencies = runtime.block_on(futures::future::join_all((0..clients).map(one))).concat();
    latencies.sort_unstable();
    (began.elapsed(), latencies)
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn report(what: &str, count: usize, (took, latencies): (Duration, Vec<Duration>)) {
    let at = |share: f64| latencies[(latencies.len() as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("{what:<44} {:>8.0}/s   p50 {:.3} ms  p99 {:.3} ms", count as f64 / took.as_secs_f64(), at(0.5), at(0.99));
}

fn enqueue(client: &Arc<dyn QueueClient>, payload: &Bytes, count: usize, at_once: usize) -> (Duration, Vec<Duration>) {
    clients(count, at_once, || async {
        client.enqueue(job(payload.clone())).await.expect("accepted");
    })
}

fn measure(folder: &Path, durability: Durability, backlog: usize) {
    let settings = QueueSettings { durability, ..QueueSettings::default() };
    let queue = SqliteQueue::open(folder, settings).expect("a folder of its own");
    let client = queue.client();
    let payload = Bytes::from(vec![7u8; 290]);
    println!("durability {durability:?}, {} MiB at the start", resident_mib());

    let count = 100_000;
    report("enqueue, 16 at a time", count, enqueue(&client, &payload, count, 16));
    report("enqueue, 64 at a time", count, enqueue(&client, &payload, count, 64));
    let took = start_worker(Arc::clone(&queue), 2 * count).join().expect("no panic");
    println!("{:<44} {:>8.0}/s", "drain of 200,000", 2.0 * count as f64 / took.as_secs_f64());

    for (at_once, count) in [(1, 20_000), (16, 160_000), (64, 320_000)] {
        let worker = start_worker(Arc::clone(&queue), count);
        let call = || async {
            client.call(job(payload.clone()), Duration::from_secs(60)).await.expect("an answer");
        };
        report(&format!("call, {at_once} at a time"), count, clients(count, at_once, call));
        worker.join().expect("no panic");
    }

    println!("{} MiB before the backlog", resident_mib());
    enqueue(&client, &payload, backlog, 256);
    println!("{} MiB with {backlog} queued", resident_mib());
    report(&format!("enqueue, 64 at a time, {backlog} queued"), count, enqueue(&client, &payload, count, 64));
    drop(client);
    drop(queue);
    let began = Instant::now();
    let settings = QueueSettings { durability, ..QueueSettings::default() };
    let queue = SqliteQueue::open(folder, settings).expect("opens again");
    println!("opened {} jobs in {:.2} s, {} MiB", backlog + count, began.elapsed().as_secs_f64(), resident_mib());
    let took = start_worker(Arc::clone(&queue), backlog + count).join().expect("no panic");
    println!(
        "{:<44} {:>8.0}/s",
        "drain of all that, payloads from disk",
        (backlog + count) as f64 / took.as_secs_f64()
    );
    println!("{} MiB at the end\n", resident_mib());
}

fn main() {
    let backlog = std::env::args().nth(1).map_or(1_000_000, |text| text.parse().expect("a number of jobs"));
    for durability in [Durability::Memory, Durability::Fsync] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let backlog = if durability == Durability::Fsync { backlog / 10 } else { backlog };
        measure(folder.path(), durability, backlog);
    }
}
