//! A gateway thread's end of the queues.

use std::time::Duration;

use async_trait::async_trait;
use nobat_core::job::{JobView, NewJob};
use nobat_core::{JobId, Result};

/// An accepted job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its public id.
    pub id: JobId,
    /// Whether an idempotency key found it already there.
    pub duplicate: bool,
    /// When the store enqueued it, milliseconds since 1970, as every later look says;
    /// `None` where it does not say.
    pub created_at_ms: Option<u64>,
}

/// A gateway thread's way into the queues.
#[async_trait]
pub trait QueueClient: Send + Sync {
    /// Enqueues a job; returns when the store has it durably.
    ///
    /// # Errors
    /// `queue_full` with `retry_after`; `idempotency_mismatch`;
    /// `queue_unavailable`.
    async fn enqueue(&self, job: NewJob) -> Result<Accepted>;

    /// Enqueues a job and waits for its terminal state, up to `timeout`. With
    /// the wait's end the job may still be running: the view says so.
    ///
    /// # Errors
    /// As [`QueueClient::enqueue`].
    ///
    /// # Cancel safety
    /// Dropping the future cancels the job if it is still queued and nobody else
    /// waits for it. A job with an idempotency key goes on: whoever repeats the
    /// request is to find it.
    async fn call(&self, job: NewJob, timeout: Duration) -> Result<JobView>;

    /// Waits for a job's terminal state, up to `timeout`; returns what stands
    /// then. `None` when the store has no record of it.
    async fn wait(&self, id: JobId, timeout: Duration) -> Result<Option<JobView>>;
}
