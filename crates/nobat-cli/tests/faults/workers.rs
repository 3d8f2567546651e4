//! kill -9 of workers under load.

use std::time::{Duration, Instant};

use crate::ledger::Load;
use crate::rig::process::{Redis, Service, free_port, worker};
use crate::rig::{Random, onnx, wait_for};
use crate::rounds;

const LEASE: Duration = Duration::from_millis(1500);

#[test]
fn jobs_survive_workers_killed_under_load() {
    let kills = rounds(10, 200);
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 512, 8);
    let redis = Redis::start(folder.path(), false);
    let env = [("NOBAT_QUEUE__LEASE_MS", "1500")];
    let mut workers: Vec<_> = (0..4).map(|_| worker(folder.path(), &redis.url(), &models, &env)).collect();
    let mut gateway = Service::gateway(folder.path(), &redis.url(), free_port(), &env);
    gateway.wait_for_model("echo");

    let load = Load::start(gateway.address, 4, Duration::from_millis(8));
    let mut random = Random::new(7);
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(150 + random.below(400)));
        let victim = random.below(4) as usize;
        workers[victim].kill();
        workers[victim] = worker(folder.path(), &redis.url(), &models, &env);
    }
    let last_kill = Instant::now();
    let ledger = load.finish();
    // The queue says when all is done: reading the results in turn takes longer.
    let mut http = gateway.http();
    wait_for("the queue is empty", || {
        let counts = http.get("/api/v1/queues/echo").expect("an answer").json();
        ["queued", "scheduled", "leased"].iter().all(|state| counts[state] == 0)
    });
    let recovered = last_kill.elapsed();
    let outcome = ledger.settle(gateway.address, Duration::from_secs(120));
    println!(
        "kills {kills}: accepted {}, unclear {}, {outcome:?}, all settled {recovered:?} after the last kill, \
         a killed worker's jobs ran again {:?} after they were enqueued at the latest (lease {LEASE:?})",
        ledger.accepted.len(),
        ledger.unclear,
        outcome.slowest_repeat,
    );
    assert_eq!(ledger.unclear, 0, "the gateway and Redis were never touched");
    // A worker holds at most a running and a planned batch per session.
    let in_flight = 4 * 64;
    assert!(outcome.repeated <= kills * in_flight, "{outcome:?}");
    let bound = LEASE + Duration::from_secs(5);
    assert!(recovered < bound, "{recovered:?}");
    assert!(outcome.slowest_repeat < bound, "{outcome:?}");
}
