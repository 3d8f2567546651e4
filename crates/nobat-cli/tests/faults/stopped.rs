//! A worker stopped past its lease and continued: its settlement is refused.

use std::time::Duration;

use crate::rig::process::{Redis, Service, free_port, worker};
use crate::rig::{onnx, wait_for};
use crate::rounds;

#[test]
fn a_worker_that_slept_through_its_lease_cannot_overwrite_the_newer_attempt() {
    let stops = rounds(2, 20);
    let folder = tempfile::tempdir().expect("a folder");
    // Slow enough to be stopped in the middle of a run.
    let models = onnx::echo(folder.path(), 1024, 60);
    let redis = Redis::start(folder.path(), false);
    let env = [("NOBAT_QUEUE__LEASE_MS", "1000"), ("NOBAT_SESSIONS", "1")];
    let mut gateway = Service::gateway(folder.path(), &redis.url(), free_port(), &env);
    let mut sleeper = worker(folder.path(), &redis.url(), &models, &env);
    gateway.wait_for_model("echo");
    let mut http = gateway.http();

    for stop in 1..=stops {
        let answer = http.post("/api/v1/predict/echo", &onnx::body(stop, 256)).expect("an answer");
        assert_eq!(answer.status, 202, "{}", answer.text());
        let id = answer.json()["id"].as_str().expect("an id").to_owned();
        let job = format!("/api/v1/jobs/{id}");
        wait_for("the job is leased", || http.get(&job).is_ok_and(|answer| answer.json()["state"] == "leased"));
        sleeper.signal("-STOP");

        let mut other = worker(folder.path(), &redis.url(), &models, &env);
        let result = http.get(&format!("{job}/result?wait=60")).expect("an answer");
        assert_eq!(result.status, 200, "{}", result.text());
        let first = result.json()["explain"].clone();
        assert_eq!(first["attempts"], 2, "{first}");

        sleeper.signal("-CONT");
        // The sleeper finishes its run and settles: long enough for that.
        std::thread::sleep(Duration::from_millis(3000));
        let after = http.get(&format!("{job}/result")).expect("an answer").json();
        assert_eq!(after["explain"], first, "the newer attempt's result stands");
        assert_eq!(after["predictions"][255][63].as_f64(), Some(f64::from(stop)));
        assert!(sleeper.is_running() && other.is_running());
        // The next round's sleeper is the worker that is alone.
        sleeper.kill();
        std::mem::swap(&mut sleeper, &mut other);
    }
    let counts = http.get("/api/v1/queues/echo").expect("an answer").json();
    assert_eq!(counts["finished_total"].as_u64(), Some(u64::from(stops)), "each job ended once: {counts}");
    println!("stops {stops}: every stale settlement refused");
}
