//! The roles a test plays: a caller with jobs, a worker that leases and settles.

use std::time::Duration;

use bytes::Bytes;
use nobat_core::job::{
    Idempotency, JobError, JobOptions, JobResult, JobState, JobView, LeasedJob, NewJob, Outcome, Settlement,
};
use nobat_core::timings::Timings;
use nobat_core::{ErrorCode, JobId, OwnerId};
use nobat_queue::{Consumer, Queue, QueueSettings};
pub(crate) use nobat_testkit::{PATIENCE, until_async};

/// The model whose queue most tests use.
pub(crate) const MODEL: &str = "digits";

/// A job with default options.
pub(crate) fn job(payload: impl Into<Bytes>) -> NewJob {
    NewJob {
        model: MODEL.into(),
        owner: OwnerId(7),
        options: JobOptions::default(),
        payload: payload.into(),
        rows: 1,
        trace: "".into(),
    }
}

/// A job with options.
pub(crate) fn job_with(payload: impl Into<Bytes>, options: JobOptions) -> NewJob {
    NewJob { options, ..job(payload) }
}

/// A job of a priority.
pub(crate) fn urgent(payload: impl Into<Bytes>, priority: u8) -> NewJob {
    job_with(payload, JobOptions { priority, ..JobOptions::default() })
}

/// A job with an idempotency key.
pub(crate) fn keyed(key: &str, fingerprint: u128) -> NewJob {
    let idempotency = Some(Idempotency { key: key.into(), fingerprint });
    job_with("keyed", JobOptions { idempotency, ..JobOptions::default() })
}

/// Settings with leases of this length.
pub(crate) fn short_leases(lease_ms: u32) -> QueueSettings {
    QueueSettings { lease_ms, ..QueueSettings::default() }
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Leases up to `want` jobs now.
pub(crate) async fn lease(consumer: &mut Box<dyn Consumer>, want: usize) -> Vec<LeasedJob> {
    consumer.settle_and_lease(Vec::new(), want).await.expect("a step").leased
}

/// Leases until `count` jobs have come, each lease at most that many.
pub(crate) async fn lease_all(consumer: &mut Box<dyn Consumer>, count: usize) -> Vec<LeasedJob> {
    let mut leased = Vec::new();
    until_async("a lease of every job", async || {
        leased.extend(lease(consumer, count - leased.len()).await);
        leased.len() == count
    })
    .await;
    leased
}

/// Settles without leasing; the refused ones.
pub(crate) async fn settle(consumer: &mut Box<dyn Consumer>, settlements: Vec<Settlement>) -> Vec<JobId> {
    consumer.settle_and_lease(settlements, 0).await.expect("a step").refused
}

fn settlement(job: &LeasedJob, outcome: Outcome) -> Settlement {
    Settlement { id: job.id, token: job.token, outcome }
}

/// A success with these outputs.
pub(crate) fn success(job: &LeasedJob, outputs: impl Into<Bytes>) -> Settlement {
    let result =
        JobResult { timings: Timings { attempts: job.attempt, ..Timings::default() }, outputs: outputs.into() };
    settlement(job, Outcome::Succeeded(result.encode()))
}

/// A failure that runs again after a while, or not.
pub(crate) fn failure(job: &LeasedJob, message: &str, retry_in: Option<Duration>) -> Settlement {
    let error = JobError { code: ErrorCode::InferenceFailed, message: message.into() };
    settlement(job, Outcome::Failed { error, retry_in })
}

/// A missed deadline, as the worker sees it.
pub(crate) fn too_late(job: &LeasedJob) -> Settlement {
    let error = JobError { code: ErrorCode::DeadlineExceeded, message: "would not finish in time".into() };
    settlement(job, Outcome::Expired(error))
}

/// Given back unrun.
pub(crate) fn release(job: &LeasedJob) -> Settlement {
    settlement(job, Outcome::Released)
}

/// What the jobs carried, as text.
pub(crate) fn payloads(jobs: &[LeasedJob]) -> Vec<String> {
    jobs.iter().map(|job| String::from_utf8_lossy(&job.payload).into_owned()).collect()
}

/// A successful job's outputs.
pub(crate) fn outputs(view: &JobView) -> Bytes {
    assert_eq!(view.state, JobState::Succeeded, "{:?}", view.error);
    view.result.as_ref().expect("a succeeded job has a result").outputs.clone()
}

/// Reads a job that is there.
pub(crate) async fn get(queue: &dyn Queue, id: JobId) -> JobView {
    queue.get(id).await.expect("the store answers").expect("the job is there")
}

/// Reads a job until it is in `state`.
pub(crate) async fn reaches(queue: &dyn Queue, id: JobId, state: JobState) -> JobView {
    until_async(&format!("the state {state:?}"), async || get(queue, id).await.state == state).await;
    get(queue, id).await
}

/// Answers every job with its own payload, until dropped.
pub(crate) struct Echo(tokio::task::JoinHandle<()>);

impl Echo {
    pub(crate) async fn start(queue: &dyn Queue, model: &str, batch: usize) -> Echo {
        let mut consumer = queue.consumer(model, "echo").await.expect("a consumer");
        Echo(tokio::spawn(async move {
            let mut done = Vec::new();
            loop {
                let step = consumer.settle_and_lease(std::mem::take(&mut done), batch).await.expect("a step");
                done.extend(step.leased.iter().map(|job| success(job, job.payload.clone())));
                if done.is_empty() {
                    consumer.idle().await;
                }
            }
        }))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.abort();
    }
}
