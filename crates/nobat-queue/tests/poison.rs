//! A job that aborts its process, among many that do not: real processes of several
//! sessions, on both stores.
//!
//! The test binary starts itself again with `NOBAT_POISON_STORE` set; the one test
//! that this selects is then the child's main function.

mod redis_support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nobat_core::job::{JobError, JobOptions, JobState, LeasedJob, NewJob, Outcome, Settlement};
use nobat_core::{ErrorCode, OwnerId};
use nobat_queue::redis::RedisQueue;
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{MAX_DEATHS, Queue, QueueSettings};

use redis_support::{Server, echo};

const MODEL: &str = "digits";
const INNOCENTS: usize = 32;
const SESSIONS: usize = 4;
const STORE: &str = "NOBAT_POISON_STORE";
/// Kills whoever runs it.
const AT_ONCE: &str = "poison";
/// Fails once, and kills whoever runs it again.
const SECOND_TIME: &str = "poison, the second time";

async fn open(store: &str) -> Arc<dyn Queue> {
    let settings = QueueSettings { lease_ms: 1_000, ..QueueSettings::default() };
    match store.starts_with("redis://") {
        true => RedisQueue::connect(store, settings, "poison").await.expect("redis answers"),
        false => SqliteQueue::open(Path::new(store), settings).expect("opens"),
    }
}

/// The child: leases with every session, then runs what they hold, until nothing is
/// left. Whoever runs the poison takes all sessions with it.
#[test]
fn child() {
    let Ok(store) = std::env::var(STORE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let queue = open(&store).await;
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            sessions.push((queue.consumer(MODEL, "worker").await.expect("a consumer"), Vec::new()));
        }
        loop {
            let mut idle = true;
            let mut poisoned = false;
            for (consumer, done) in &mut sessions {
                let leased = consumer.settle_and_lease(std::mem::take(done), 8).await.expect("a step").leased;
                idle &= leased.is_empty();
                for job in &leased {
                    let fails = job.payload == SECOND_TIME && job.attempt == 1;
                    poisoned |= job.payload == AT_ONCE || job.payload == SECOND_TIME && !fails;
                    done.push(if fails { fails_once(job) } else { echo(job) });
                }
            }
            if poisoned {
                std::process::abort();
            }
            if idle {
                let left = queue.counts(MODEL).await.expect("counts");
                if left.queued + left.scheduled + left.leased == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
}

fn fails_once(job: &LeasedJob) -> Settlement {
    let error = JobError { code: ErrorCode::InferenceFailed, message: "not yet".into() };
    let outcome = Outcome::Failed { error, retry_in: Some(Duration::from_millis(20)) };
    Settlement { id: job.id, token: job.token, outcome }
}

async fn innocents_outlive_the_poison(store: &str, poison: &str, delay: Option<Duration>) {
    let job = |payload: String, delay| NewJob {
        model: MODEL.into(),
        owner: OwnerId(1),
        options: JobOptions { delay, ..JobOptions::default() },
        payload: payload.into(),
        rows: 1,
        trace: "".into(),
    };
    let mut innocents = Vec::new();
    let poison = {
        let queue = open(store).await;
        let client = queue.client();
        let mut found = None;
        for number in 0..INNOCENTS {
            if number == INNOCENTS / 2 {
                found = Some(client.enqueue(job(poison.into(), delay)).await.expect("accepted").id);
            }
            innocents.push(client.enqueue(job(number.to_string(), None)).await.expect("accepted").id);
        }
        found.expect("it is among them")
    };
    let run = || {
        let mut child = Command::new(std::env::current_exe().expect("a path"));
        child.args(["--exact", "child", "--nocapture"]).env(STORE, store);
        child.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("the test starts itself")
    };
    let mut deaths = 0;
    while !run().success() {
        deaths += 1;
        assert!(deaths <= MAX_DEATHS, "the poison alone kills");
    }
    assert_eq!(deaths, MAX_DEATHS);
    let queue = open(store).await;
    let state = async |id| queue.get(id).await.expect("the store answers").expect("it is there").state;
    assert_eq!(state(poison).await, JobState::Dead);
    for (number, id) in innocents.into_iter().enumerate() {
        assert_eq!(state(id).await, JobState::Succeeded, "innocent {number}");
    }
}

#[tokio::test]
async fn only_the_poison_is_quarantined_on_the_embedded_store() {
    let folder = tempfile::tempdir().expect("a folder");
    innocents_outlive_the_poison(&folder.path().display().to_string(), AT_ONCE, None).await;
}

#[tokio::test]
async fn a_delayed_and_a_retried_poison_are_quarantined_on_the_embedded_store() {
    for (poison, delay) in [(AT_ONCE, Some(Duration::from_millis(50))), (SECOND_TIME, None)] {
        let folder = tempfile::tempdir().expect("a folder");
        innocents_outlive_the_poison(&folder.path().display().to_string(), poison, delay).await;
    }
}

#[tokio::test]
async fn only_the_poison_is_quarantined_on_redis() {
    let server = Server::start(&[]);
    innocents_outlive_the_poison(&server.url(), AT_ONCE, None).await;
}

#[tokio::test]
async fn a_delayed_and_a_retried_poison_are_quarantined_on_redis() {
    for (poison, delay) in [(AT_ONCE, Some(Duration::from_millis(50))), (SECOND_TIME, None)] {
        let server = Server::start(&[]);
        innocents_outlive_the_poison(&server.url(), poison, delay).await;
    }
}
