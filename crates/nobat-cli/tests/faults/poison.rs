//! A request that crashes its process, among others: a division that overflows, for
//! which the processor ends the process in the middle of ONNX Runtime.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::rig::http::Http;
use crate::rig::onnx;
use crate::rig::process::{Process, Redis, Service, free_port, worker};

const INNOCENTS: u32 = 32;
/// After this many deaths a job is quarantined.
const DEATHS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(60);
const SESSIONS: (&str, &str) = ("NOBAT_WORKER__SESSIONS", "4");

#[test]
fn a_request_that_crashes_nobat_serve_is_quarantined_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::division(folder.path());
    let serve = |folder: &Path| Service::serve(folder, &models, &[], &[SESSIONS]);
    let mut service = serve(folder.path());
    service.wait_for_model("division");
    let jobs = Jobs::enqueue(service.http());
    let mut deaths = 0;
    jobs.follow(|| {
        if !service.process.is_running() {
            deaths += 1;
            service = serve(folder.path());
        }
        service.http()
    });
    assert_eq!(deaths, DEATHS);
    jobs.check(service.http());
}

#[test]
fn a_request_that_crashes_a_worker_is_quarantined_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = onnx::division(folder.path());
    let redis = Redis::start(folder.path(), false);
    let env = [SESSIONS, ("NOBAT_QUEUE__LEASE_MS", "1500")];
    let start = || -> Process { worker(folder.path(), &redis.url(), &models, &env) };
    let mut crashing = start();
    let mut gateway = Service::gateway(folder.path(), &redis.url(), free_port(), &env);
    gateway.wait_for_model("division");
    let jobs = Jobs::enqueue(gateway.http());
    let mut deaths = 0;
    jobs.follow(|| {
        if !crashing.is_running() {
            deaths += 1;
            crashing = start();
        }
        gateway.http()
    });
    assert_eq!(deaths, DEATHS);
    jobs.check(gateway.http());
}

/// Jobs of one request each, the poison in the middle.
struct Jobs {
    poison: String,
    innocents: Vec<(String, u32)>,
}

impl Jobs {
    /// Enqueues all into a paused queue, so that they wait together.
    fn enqueue(mut http: Http) -> Jobs {
        assert_eq!(http.post("/api/v1/queues/division/pause", "").expect("an answer").status, 200);
        let mut enqueue = |a: i64, b: i64| {
            let body = format!("{{\"instances\":[{{\"a\":{a},\"b\":{b}}}]}}");
            let answer = http.post("/api/v1/predict/division", &body).expect("an answer");
            assert_eq!(answer.status, 202, "{}", answer.text());
            answer.json()["id"].as_str().expect("an id").to_owned()
        };
        let mut innocents: Vec<_> = (0..INNOCENTS / 2).map(|number| (enqueue(i64::from(number), 1), number)).collect();
        let poison = enqueue(i64::MIN, -1);
        innocents.extend((INNOCENTS / 2..INNOCENTS).map(|number| (enqueue(i64::from(number), 1), number)));
        Jobs { poison, innocents }
    }

    /// Lets them run, and looks after whoever runs them, until all have ended.
    fn follow(&self, mut look_after: impl FnMut() -> Http) {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut http = look_after();
            // It may not live to answer.
            let _ = http.post("/api/v1/queues/division/resume", "");
            if let Ok(answer) = http.get("/api/v1/queues/division")
                && answer.status == 200
            {
                let counts = answer.json();
                if ["queued", "scheduled", "leased"].iter().all(|state| counts[state] == 0) {
                    return;
                }
            }
            assert!(Instant::now() < end, "the queue never came to rest");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn check(&self, mut http: Http) {
        for (id, number) in &self.innocents {
            let answer = http.get(&format!("/api/v1/jobs/{id}/result")).expect("an answer");
            assert_eq!(answer.status, 200, "{number}: {}", answer.text());
            assert_eq!(answer.json()["predictions"][0], *number, "{}", answer.text());
        }
        let job = http.get(&format!("/api/v1/jobs/{}", self.poison)).expect("an answer").json();
        assert_eq!((&job["state"], &job["attempts"]), (&"dead".into(), &DEATHS.into()), "{job}");
        let message = job["error"]["message"].as_str().expect("a reason");
        assert!(message.contains("quarantined"), "{message}");
    }
}
