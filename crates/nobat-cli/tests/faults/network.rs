//! A network that delays, resets, half-closes, and cuts replies after the server
//! has done the work: between workers and Redis, and between the gateway and Redis.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::ledger::Load;
use crate::rig::onnx;
use crate::rig::process::{Redis, Service, free_port, worker};
use crate::rig::proxy::Proxy;
use crate::rounds;

#[test]
fn jobs_survive_a_network_that_loses_replies_and_none_is_enqueued_twice() {
    let seconds = rounds(10, 120);
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 256, 2);
    let redis = Redis::start(folder.path(), false);
    let env = [("NOBAT_QUEUE__LEASE_MS", "2000")];
    let (worker_side, gateway_side) = (Proxy::start(redis.address(), 3), Proxy::start(redis.address(), 5));
    let mut workers = [
        worker(folder.path(), &worker_side.url(), &models, &env),
        worker(folder.path(), &worker_side.url(), &models, &env),
    ];
    let mut gateway = Service::gateway(folder.path(), &gateway_side.url(), free_port(), &env);
    gateway.wait_for_model("echo");

    worker_side.faults_one_in(60);
    gateway_side.faults_one_in(120);
    let load = Load::start(gateway.address, 4, Duration::from_millis(5));
    std::thread::sleep(Duration::from_secs(u64::from(seconds)));
    let ledger = load.finish();
    worker_side.faults_one_in(0);
    gateway_side.faults_one_in(0);
    let outcome = ledger.settle(gateway.address, Duration::from_secs(120));

    let faults: Vec<u64> = [&worker_side.done, &gateway_side.done]
        .iter()
        .flat_map(|done| [&done.delayed, &done.reset, &done.half_closed, &done.cut])
        .map(|count| count.load(Ordering::SeqCst))
        .collect();
    let counts = gateway.http().get("/api/v1/queues/echo").expect("an answer").json();
    println!(
        "{seconds} s; delays, resets, half-closes, cut replies on the workers' and the gateway's side {faults:?}: \
         accepted {}, unclear {}, {outcome:?}, {counts}",
        ledger.accepted.len(),
        ledger.unclear
    );
    assert!(faults.iter().sum::<u64>() > 0, "the proxy did something");
    assert!(workers.iter_mut().all(|worker| worker.is_running()) && gateway.process.is_running());
    let enqueued = counts["enqueued_total"].as_u64().expect("a count");
    let accepted = ledger.accepted.len() as u64;
    assert!(
        (accepted..=accepted + u64::from(ledger.unclear)).contains(&enqueued),
        "{enqueued} enqueued, {accepted} accepted, {} unclear: a job was enqueued twice",
        ledger.unclear
    );
    assert_eq!(outcome.quarantined, 0, "no worker died");
}
