//! kill -9 of workers under load.

use std::time::{Duration, Instant};

use crate::ledger::Load;
use crate::rig::process::{Redis, Service, free_port, worker};
use crate::rig::{Random, onnx};
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
    let ledger = load.finish();
    let last_kill = Instant::now();
    let outcome = ledger.settle(gateway.address, Duration::from_secs(120));
    let recovered = last_kill.elapsed();
    println!(
        "kills {kills}: accepted {}, unclear {}, {outcome:?}, all settled {recovered:?} after the last kill (lease {LEASE:?})",
        ledger.accepted.len(),
        ledger.unclear,
    );
    assert_eq!(ledger.unclear, 0, "the gateway and Redis were never touched");
    // A worker holds at most a running and a planned batch per session.
    let in_flight = 4 * 64;
    assert!(outcome.repeated <= kills * in_flight, "{outcome:?}");
    assert!(recovered < LEASE + Duration::from_secs(60), "{recovered:?}");
}
