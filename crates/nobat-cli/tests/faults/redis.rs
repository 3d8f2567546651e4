//! kill -9 of Redis, append-only every second: nothing accepted is lost, and
//! nobody needs a restart. (A kill while an fsync runs, where Redis alone would
//! lose what it answered: `nobat-queue`'s own fault tests.)

use std::time::{Duration, Instant};

use crate::ledger::Load;
use crate::rig::process::{Redis, Service, free_port, worker};
use crate::rig::{onnx, wait_for};
use crate::rounds;

#[test]
fn jobs_survive_redis_killed_and_everyone_resumes_by_themselves() {
    let kills = rounds(3, 30);
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::echo(folder.path(), 256, 2);
    let mut redis = Redis::start(folder.path(), true);
    let env = [("NOBAT_QUEUE__LEASE_MS", "2000")];
    let mut workers =
        [worker(folder.path(), &redis.url(), &models, &env), worker(folder.path(), &redis.url(), &models, &env)];
    let mut gateway = Service::gateway(folder.path(), &redis.url(), free_port(), &env);
    gateway.wait_for_model("echo");

    let load = Load::start(gateway.address, 4, Duration::from_millis(5));
    let mut slowest = Duration::ZERO;
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(500));
        redis.kill();
        let mut http = gateway.http();
        wait_for("readiness is red while Redis is down", || {
            http.get("/readyz").is_ok_and(|answer| answer.status == 503)
        });
        redis.restart();
        let back = Instant::now();
        wait_for("a blocking request is answered again", || {
            let path = "/v1/models/echo:predict";
            gateway.http().post(path, &onnx::body(1, 1)).is_ok_and(|answer| answer.status == 200)
        });
        slowest = slowest.max(back.elapsed());
        wait_for("readiness is green again", || http.get("/readyz").is_ok_and(|answer| answer.status == 200));
    }
    let ledger = load.finish();
    let outcome = ledger.settle(gateway.address, Duration::from_secs(120));
    println!(
        "redis kills {kills}: accepted {}, unclear {}, {outcome:?}, slowest resumption {slowest:?}",
        ledger.accepted.len(),
        ledger.unclear
    );
    assert!(workers.iter_mut().all(|worker| worker.is_running()) && gateway.process.is_running());
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}
