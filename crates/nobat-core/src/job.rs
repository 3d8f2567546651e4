//! A job: one queued inference request, its options, its states and its outcome.
//!
//! Owns the words of the queue. The stores decide transitions; what a job *is*
//! stands here. Times are microseconds since 1970 by the store's clock.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::error::ErrorCode;
use crate::id::{JobId, OwnerId};
use crate::infer::InferResponse;
use crate::request_trace::RequestTrace;
use crate::retry::RetryPolicy;
use crate::spelled::spelled;
use crate::tags::Tags;
use crate::timings::Timings;

spelled! {
    /// Where a job stands.
    pub enum JobState {
        /// Waits for its time.
        Scheduled = "scheduled",
        /// Waits for a worker.
        Queued = "queued",
        /// A worker holds it under a lease.
        Leased = "leased",
        /// Its last attempt failed; it waits to run again.
        Failed = "failed",
        /// Has a result.
        Succeeded = "succeeded",
        /// Failed for good; kept as a dead letter.
        Dead = "dead",
        /// Cancelled by its caller.
        Cancelled = "cancelled",
        /// Its deadline passed before it finished.
        Expired = "expired",
    }
}

impl JobState {
    /// Whether the job can change no more (a dead letter may still be redriven).
    pub const fn is_terminal(self) -> bool {
        match self {
            JobState::Scheduled | JobState::Queued | JobState::Leased | JobState::Failed => false,
            JobState::Succeeded | JobState::Dead | JobState::Cancelled | JobState::Expired => true,
        }
    }
}

/// The parameter by which a job's payload tells its worker that it is in the background:
/// [`JobOptions::background`].
pub const BACKGROUND: &str = "nobat-background";

/// What a caller may say about a job beyond its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct JobOptions {
    /// 0..=255; 10 runs before 1.
    pub priority: u8,
    /// Ranks one level below its priority: a part of work that nobody waits for alone.
    pub background: bool,
    /// When a failed attempt runs again.
    pub retry: RetryPolicy,
    /// Time from enqueue within which it must finish.
    pub deadline: Option<Duration>,
    /// Time from enqueue before which it must not run.
    pub delay: Option<Duration>,
    /// How long its result can be read.
    pub result_ttl: Duration,
    /// Makes a repeated request return the same job; scope: caller and model.
    pub idempotency: Option<Idempotency>,
    /// URL that is told of its end. The gateway keeps watch; stores ignore it.
    pub webhook: Option<SmolStr>,
    /// By what it is found again.
    pub tags: Tags,
}

impl Default for JobOptions {
    fn default() -> JobOptions {
        JobOptions {
            priority: 0,
            background: false,
            retry: RetryPolicy::default(),
            deadline: None,
            delay: None,
            result_ttl: Duration::from_secs(3600),
            idempotency: None,
            webhook: None,
            tags: Tags::default(),
        }
    }
}

/// A caller's idempotency key and the fingerprint of what it came with.
#[derive(Clone, Debug, PartialEq)]
pub struct Idempotency {
    /// The caller's key.
    pub key: SmolStr,
    /// 128-bit hash of model, version, inputs and options.
    pub fingerprint: u128,
}

/// A job to enqueue.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// The model, whose queue it joins.
    pub model: SmolStr,
    /// Whose job it is.
    pub owner: OwnerId,
    /// Options.
    pub options: JobOptions,
    /// [`InferRequest::encode`](crate::infer::InferRequest::encode)d request.
    pub payload: Bytes,
    /// Rows along the batch axis.
    pub rows: u32,
    /// The request that it comes from.
    pub trace: RequestTrace,
}

/// A fenced claim on a job; a newer attempt has another token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseToken(pub u64);

impl LeaseToken {
    /// The first token of leases that a process gives itself, without a store: stores give
    /// smaller ones.
    pub const OWN: u64 = 1 << 63;

    /// Whether a process gave it itself.
    pub fn is_own(self) -> bool {
        self.0 >= LeaseToken::OWN
    }
}

/// A job under lease, as a worker gets it.
#[derive(Clone, Debug)]
pub struct LeasedJob {
    /// Which job.
    pub id: JobId,
    /// The claim; goes back with renew and settle.
    pub token: LeaseToken,
    /// This attempt, counted from 1; worker deaths count.
    pub attempt: u32,
    /// Workers that died holding this job. Above 0 the queue leases it alone.
    pub deaths: u32,
    /// Its priority.
    pub priority: u8,
    /// Rows along the batch axis.
    pub rows: u32,
    /// Enqueued, or last became due: microseconds of the store's clock.
    pub queued_at_us: u64,
    /// Leased: microseconds of the store's clock.
    pub leased_at_us: u64,
    /// Time it had left when leased.
    pub time_left: Option<Duration>,
    /// Retry schedule.
    pub retry: RetryPolicy,
    /// The request as encoded by the gateway.
    pub payload: Bytes,
    /// The request that it comes from.
    pub trace: RequestTrace,
}

/// How a worker settles one leased job.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Which job.
    pub id: JobId,
    /// The claim under which it ran.
    pub token: LeaseToken,
    /// What became of the attempt.
    pub outcome: Outcome,
}

/// What became of an attempt.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It has outputs: packed [`JobResult`] bytes.
    Succeeded(Bytes),
    /// It failed; runs again after `retry_in`, or becomes a dead letter.
    Failed {
        /// Why.
        error: JobError,
        /// Delay before the next attempt; `None`: no more attempts.
        retry_in: Option<Duration>,
    },
    /// Its deadline passed or cannot be met.
    Expired(JobError),
    /// Given back unrun, in its old place, burning no attempt (a drain).
    Released,
}

/// Why an attempt or a job failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobError {
    /// What kind of failure.
    pub code: ErrorCode,
    /// What happened and what to do about it.
    pub message: String,
}

/// A job as a reader sees it.
#[derive(Clone, Debug)]
pub struct JobView {
    /// Which job.
    pub id: JobId,
    /// The model whose queue it is in.
    pub model: SmolStr,
    /// Whose job it is.
    pub owner: OwnerId,
    /// Where it stands.
    pub state: JobState,
    /// Its priority.
    pub priority: u8,
    /// Attempts begun.
    pub attempts: u32,
    /// Enqueued, milliseconds since 1970; 0 where the store no longer knows.
    pub created_at_ms: u64,
    /// Settled for good, milliseconds since 1970.
    pub finished_at_ms: Option<u64>,
    /// Last error, for failed, dead, cancelled and expired jobs.
    pub error: Option<JobError>,
    /// The result, when succeeded.
    pub result: Option<JobResult>,
    /// By what it is found again.
    pub tags: Tags,
}

/// A succeeded job's result: how it came about, and the packed outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct JobResult {
    /// Where the time went.
    pub timings: Timings,
    /// [`InferResponse::encode`](crate::infer::InferResponse::encode)d outputs.
    pub outputs: Bytes,
}

impl JobResult {
    /// Packs the result: timings, then outputs, then the steps of a chain.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.outputs.len() + 32);
        self.timings.encode(&mut out);
        out.extend_from_slice(&self.outputs);
        self.timings.encode_steps(&mut out);
        out.into()
    }

    /// Reads a packed result; the outputs stay packed. `None` when malformed.
    pub fn decode(mut bytes: Bytes) -> Option<JobResult> {
        let mut timings = Timings::decode(&mut bytes)?;
        if let Some(own) = InferResponse::packed_len(&bytes)
            && let Some(steps) = Timings::decode_steps(&bytes[own..])
        {
            timings.steps = steps;
            bytes.truncate(own);
        }
        Some(JobResult { timings, outputs: bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::IdIssuer;
    use crate::timings::StepTiming;

    #[test]
    fn the_steps_of_a_chain_travel_behind_the_outputs() {
        let mut outputs = Vec::new();
        InferResponse { version: "1".into(), outputs: vec![], mark: 7 }.encode(&mut outputs);
        let step = StepTiming {
            name: "detect".into(),
            start_us: 3,
            wait_us: 400,
            run_us: 70_000,
            batch_size: 2,
            worker: "abc".into(),
            job: None,
        };
        let elsewhere = StepTiming { job: Some(IdIssuer::new([1; 16]).issue(7, 8, 9, OwnerId(1))), ..step.clone() };
        for steps in [vec![], vec![step.clone()], vec![elsewhere, step]] {
            let timings = Timings { attempts: 1, steps, ..Timings::default() };
            let result = JobResult { timings, outputs: outputs.clone().into() };
            assert_eq!(JobResult::decode(result.encode()), Some(result));
        }
    }
}
