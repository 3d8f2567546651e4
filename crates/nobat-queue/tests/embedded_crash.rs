//! The embedded store and processes that die: real processes, killed.
//!
//! The test binary starts itself again with `NOBAT_CHILD` set; the one test
//! that this selects is then the child's main function.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nobat_core::job::{Idempotency, JobOptions, JobResult, JobState, NewJob, Outcome, Settlement};
use nobat_core::timings::Timings;
use nobat_core::{ErrorCode, JobId, OwnerId};
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{MAX_DEATHS, Queue, QueueSettings};

const MODEL: &str = "digits";
const PATIENCE: Duration = Duration::from_secs(60);

fn job(payload: impl Into<Bytes>) -> NewJob {
    let options = JobOptions::default();
    NewJob { model: MODEL.into(), owner: OwnerId(1), options, payload: payload.into(), rows: 1, trace: "".into() }
}

/// Answers every job with its payload; a poisoned one aborts the process.
async fn work(queue: &dyn Queue) {
    let mut consumer = queue.consumer(MODEL, "worker").await.expect("a consumer");
    let mut done = Vec::new();
    loop {
        let step = consumer.settle_and_lease(std::mem::take(&mut done), 16).await.expect("a step");
        for job in step.leased {
            if job.payload == "poison" {
                std::process::abort();
            }
            let result = JobResult { timings: Timings::default(), outputs: job.payload.clone() };
            done.push(Settlement { id: job.id, token: job.token, outcome: Outcome::Succeeded(result.encode()) });
        }
        if done.is_empty() {
            consumer.idle().await;
        }
    }
}

/// The child: `enqueue` prints every id that was accepted while a worker runs, `keyed`
/// every id of a call with an idempotency key that was answered; `work` only works;
/// `hold` only holds the folder.
#[test]
fn child() {
    let Ok(role) = std::env::var("NOBAT_CHILD") else { return };
    let folder = std::env::var("NOBAT_CHILD_FOLDER").expect("a folder");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let queue = SqliteQueue::open(Path::new(&folder), QueueSettings::default()).expect("opens");
        println!("open");
        match role.as_str() {
            "enqueue" => {
                let enqueue = |producer: u32| {
                    let client = queue.client();
                    async move {
                        for number in 0.. {
                            let accepted = client.enqueue(job(format!("{producer}-{number}"))).await.expect("accepted");
                            println!("accepted {} {producer}-{number}", accepted.id);
                        }
                    }
                };
                let producers = futures::future::join_all((0..8).map(enqueue));
                tokio::join!(producers, work(&*queue));
            }
            "keyed" => {
                let call = |producer: u32| {
                    let client = queue.client();
                    async move {
                        for number in 0.. {
                            let payload = format!("{}-{producer}-{number}", std::process::id());
                            let idempotency = Some(Idempotency { key: payload.as_str().into(), fingerprint: 7 });
                            let job = job(payload.clone());
                            let options = JobOptions { idempotency, ..job.options };
                            let view = client.call(NewJob { options, ..job }, PATIENCE).await.expect("answered");
                            println!("answered {} {payload}", view.id);
                        }
                    }
                };
                let callers = futures::future::join_all((0..8).map(call));
                tokio::join!(callers, work(&*queue));
            }
            "work" => work(&*queue).await,
            _ => std::future::pending().await,
        }
    });
}

fn start(role: &str, folder: &Path) -> Child {
    let test = std::env::current_exe().expect("a path");
    let mut command = Command::new(test);
    command.args(["--exact", "child", "--nocapture"]).env("NOBAT_CHILD", role).env("NOBAT_CHILD_FOLDER", folder);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the test starts itself")
}

/// What the child prints until it is open.
fn lines_once_open(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    // libtest prints on the same line as the first of ours.
    assert!(lines.by_ref().any(|line| line.ends_with("open")), "the child did not open the queue");
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_nothing_that_was_accepted() {
    kill_and_look("enqueue").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_no_call_with_a_key_that_was_answered() {
    kill_and_look("keyed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_call_was_answered_is_found_at_once_and_after_an_orderly_end() {
    let folder = tempfile::tempdir().expect("a folder");
    for round in 0..20 {
        let queue = SqliteQueue::open(folder.path(), QueueSettings::default()).expect("opens");
        let worker = tokio::spawn({
            let queue = queue.clone();
            async move { work(&*queue).await }
        });
        let answered = queue.client().call(job(format!("{round}")), PATIENCE).await.expect("answered");
        if round % 2 == 0 {
            let view = queue.get(answered.id).await.expect("the store answers").expect("it is there");
            assert_eq!((view.state, view.result), (JobState::Succeeded, answered.result.clone()));
        }
        worker.abort();
        assert!(worker.await.expect_err("aborted").is_cancelled());
        drop(queue);
        let queue = SqliteQueue::open(folder.path(), QueueSettings::default()).expect("opens");
        let view = queue.get(answered.id).await.expect("the store answers").expect("it is there");
        assert_eq!((view.state, view.result), (JobState::Succeeded, answered.result));
        let counts = queue.counts(MODEL).await.expect("counts");
        assert_eq!((counts.enqueued_total, counts.finished_total), (round + 1, round + 1));
    }
}

/// Kills children of this role under load; what they printed must be there.
async fn kill_and_look(role: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut accepted: Vec<(JobId, String)> = Vec::new();
    for round in 0..5u64 {
        let mut child = start(role, folder.path());
        let lines = lines_once_open(&mut child);
        let reader = std::thread::spawn(move || lines.collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(150 + 70 * round));
        child.kill().expect("killed");
        child.wait().expect("gone");
        for line in reader.join().expect("no panic") {
            // The last line may be cut short.
            let mut words = line.split(' ').skip(1);
            if let (Some(Ok(id)), Some(payload)) = (words.next().map(str::parse), words.next()) {
                accepted.push((id, payload.to_owned()));
            }
        }
    }
    assert!(accepted.len() > 20, "only {} jobs were accepted", accepted.len());
    assert_eq!(accepted.iter().map(|(id, _)| id).collect::<HashSet<_>>().len(), accepted.len());
    let queue = SqliteQueue::open(folder.path(), QueueSettings::default()).expect("opens");
    let worker = tokio::spawn({
        let queue = queue.clone();
        async move { work(&*queue).await }
    });
    let client = queue.client();
    for (id, payload) in accepted {
        let view = client.wait(id, PATIENCE).await.expect("the store answers").expect("it is there");
        assert_eq!(view.state, JobState::Succeeded);
        // A line that was cut short has the front of its payload.
        assert!(view.result.expect("a result").outputs.starts_with(payload.as_bytes()));
    }
    let counts = queue.counts(MODEL).await.expect("counts");
    assert_eq!((counts.queued, counts.leased, counts.dead), (0, 0, 0));
    worker.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_kills_its_process_each_time_is_quarantined_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (poison, neighbours) = {
        let queue = SqliteQueue::open(folder.path(), QueueSettings::default()).expect("opens");
        let client = queue.client();
        let before = client.enqueue(job("before")).await.expect("accepted").id;
        let poison = client.enqueue(job("poison")).await.expect("accepted").id;
        (poison, [before, client.enqueue(job("after")).await.expect("accepted").id])
    };
    for _ in 0..MAX_DEATHS {
        let mut child = start("work", folder.path());
        lines_once_open(&mut child).for_each(drop);
        assert!(!child.wait().expect("gone").success(), "the poison aborts its process");
    }
    let queue = SqliteQueue::open(folder.path(), QueueSettings::default()).expect("opens");
    let view = queue.get(poison).await.expect("the store answers").expect("it is there");
    assert_eq!((view.state, view.attempts), (JobState::Dead, MAX_DEATHS));
    assert!(view.error.expect("a reason").message.contains("quarantined"));
    let worker = tokio::spawn({
        let queue = queue.clone();
        async move { work(&*queue).await }
    });
    for id in neighbours {
        let view = queue.client().wait(id, PATIENCE).await.expect("the store answers").expect("it is there");
        assert_eq!(view.state, JobState::Succeeded);
    }
    worker.abort();
}

#[tokio::test]
async fn a_second_process_is_refused_and_the_folder_is_free_after_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = start("hold", folder.path());
    let _lines = lines_once_open(&mut child);
    let refused = SqliteQueue::open(folder.path(), QueueSettings::default()).err().expect("in use");
    assert_eq!(refused.code, ErrorCode::QueueUnavailable);
    for part in [&*folder.path().display().to_string(), &format!("process {}", child.id()), "--redis"] {
        assert!(refused.message.contains(part), "`{}` lacks `{part}`", refused.message);
    }
    assert_eq!(SqliteQueue::holder(folder.path()), Some(format!("process {}", child.id())));
    child.kill().expect("killed");
    child.wait().expect("gone");
    assert_eq!(SqliteQueue::holder(folder.path()), None);
    SqliteQueue::open(folder.path(), QueueSettings::default()).expect("free again");
}

#[tokio::test]
async fn everything_is_in_its_place_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || SqliteQueue::open(folder.path(), QueueSettings::default()).expect("opens");
    let with = |payload: &'static str, options| NewJob { options, ..job(payload) };
    let (done, dead, later, cancelled, order) = {
        let queue = open();
        let client = queue.client();
        let mut consumer = queue.consumer(MODEL, "w").await.expect("a consumer");
        let done = client.enqueue(job("done")).await.expect("accepted").id;
        let dead = client.enqueue(job("dead")).await.expect("accepted").id;
        let leased = consumer.settle_and_lease(Vec::new(), 2).await.expect("a step").leased;
        let result = JobResult { timings: Timings::default(), outputs: "result".into() };
        let error = nobat_core::job::JobError { code: ErrorCode::InferenceFailed, message: "broken".into() };
        let outcomes = [Outcome::Succeeded(result.encode()), Outcome::Failed { error, retry_in: None }];
        let settled =
            leased.iter().zip(outcomes).map(|(job, outcome)| Settlement { id: job.id, token: job.token, outcome });
        assert!(consumer.settle_and_lease(settled.collect(), 0).await.expect("a step").refused.is_empty());
        let delayed = JobOptions { delay: Some(Duration::from_secs(3_600)), ..JobOptions::default() };
        let later = client.enqueue(with("later", delayed)).await.expect("accepted").id;
        let cancelled = client.enqueue(job("cancelled")).await.expect("accepted").id;
        queue.cancel(cancelled).await.expect("cancelled");
        let mut order = Vec::new();
        for (payload, priority) in [("low", 0), ("high", 9), ("low too", 0)] {
            let options = JobOptions { priority, ..JobOptions::default() };
            order.push(client.enqueue(with(payload, options)).await.expect("accepted").id);
        }
        queue.set_paused("other", true).await.expect("paused");
        (done, dead, later, cancelled, order)
    };
    let queue = open();
    let state = async |id| queue.get(id).await.expect("the store answers").expect("it is there");
    let view = state(done).await;
    assert_eq!((view.state, view.model.as_str()), (JobState::Succeeded, MODEL));
    assert_eq!(view.result.expect("a result").outputs, "result");
    let view = state(dead).await;
    assert_eq!((view.state, view.error.expect("a reason").message.as_str()), (JobState::Dead, "broken"));
    assert_eq!(state(later).await.state, JobState::Scheduled);
    assert_eq!(state(cancelled).await.state, JobState::Cancelled);
    assert!(queue.counts("other").await.expect("counts").paused);
    let counts = queue.counts(MODEL).await.expect("counts");
    assert_eq!(
        (counts.queued, counts.scheduled, counts.dead, counts.enqueued_total, counts.finished_total),
        (3, 1, 1, 7, 3)
    );
    let mut consumer = queue.consumer(MODEL, "w").await.expect("a consumer");
    let leased = consumer.settle_and_lease(Vec::new(), 8).await.expect("a step").leased;
    assert_eq!(leased.iter().map(|job| job.id).collect::<Vec<_>>(), [order[1], order[0], order[2]]);
    assert_eq!(leased[0].payload, "high", "payloads come from the journal now");
    assert!(leased.iter().all(|job| (job.attempt, job.deaths) == (1, 0)));
    assert_eq!(queue.redrive(MODEL, &[dead], 1).await.expect("redriven"), 1);
    let leased = consumer.settle_and_lease(Vec::new(), 8).await.expect("a step").leased;
    assert_eq!((leased[0].id, leased[0].payload.as_ref()), (dead, &b"dead"[..]));
}

#[tokio::test]
async fn a_queue_that_is_dropped_frees_its_folder_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let began = Instant::now();
    for _ in 0..20 {
        let queue = SqliteQueue::open(folder.path(), QueueSettings::default()).expect("opens");
        queue.client().enqueue(job("a")).await.expect("accepted");
    }
    let queue = SqliteQueue::open(folder.path(), QueueSettings::default()).expect("opens");
    assert_eq!(queue.counts(MODEL).await.expect("counts").queued, 20);
    assert!(began.elapsed() < PATIENCE);
}
