//! What a process shares of the queues: reading, administration, the registry.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nobat_core::job::{JobState, JobView};
use nobat_core::{ErrorCode, IdIssuer, JobId, OwnerId, Result, tags};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::client::QueueClient;
use super::condition::Condition;
use super::consumer::{Consumer, Renewer};
use super::metadata::MetadataStore;
use super::settings::QueueSettings;
use super::worker::{WorkerCommand, WorkerInfo};

/// A queue's contents by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Ready to lease.
    pub queued: u64,
    /// Waiting for their time (scheduled and failed).
    pub scheduled: u64,
    /// Under lease.
    pub leased: u64,
    /// Dead letters.
    pub dead: u64,
    /// Payload bytes waiting.
    pub queued_bytes: u64,
    /// Age of the oldest queued job, milliseconds.
    pub oldest_ms: u64,
    /// Whether leasing is paused.
    pub paused: bool,
    /// Enqueued since the queue exists.
    pub enqueued_total: u64,
    /// Settled for good since the queue exists.
    pub finished_total: u64,
    /// Those of them that ended without a run's answer: cancelled or expired.
    pub dropped_total: u64,
}

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Only this model's queue.
    pub model: Option<SmolStr>,
    /// Only this state.
    pub state: Option<JobState>,
    /// Only this owner's jobs.
    pub owner: Option<OwnerId>,
    /// Only this priority.
    pub priority: Option<u8>,
    /// Only jobs whose last error has this code.
    pub error: Option<ErrorCode>,
    /// Only jobs with this tag.
    pub tag: Option<SmolStr>,
    /// Only jobs that were made for this one.
    pub parent: Option<JobId>,
    /// Only jobs with this tag, or of the request of this id that its caller gave.
    pub text: Option<SmolStr>,
    /// Only jobs enqueued then or later, milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Only jobs enqueued before, milliseconds since 1970.
    pub until_ms: Option<u64>,
}

impl ListFilter {
    /// Whether it takes a job, as far as the job itself says: not by its request's id.
    pub fn takes(&self, job: &JobView) -> bool {
        // When a job was enqueued is not known of each that has ended.
        let at = Some(job.created_at_ms).filter(|&at| at > 0);
        self.model.as_ref().is_none_or(|model| *model == job.model)
            && self.state.is_none_or(|state| state == job.state)
            && self.owner.is_none_or(|owner| owner == job.owner)
            && self.priority.is_none_or(|priority| priority == job.priority)
            && self.error.is_none_or(|code| job.error.as_ref().is_some_and(|error| error.code == code))
            && (self.error.is_none() || has_failed(job.state))
            && self.tag.as_ref().is_none_or(|tag| job.tags.contains(tag))
            && self.parent.is_none_or(|parent| job.tags.parent() == Some(parent))
            && self.since_ms.is_none_or(|since| at.is_none_or(|at| at >= since))
            && self.until_ms.is_none_or(|until| at.is_none_or(|at| at < until))
    }

    /// What the index is asked for: the hashes of which a job has one. A text goes first, as a
    /// job itself tells of its tags and not of its request.
    pub(crate) fn hashes(&self) -> Vec<u64> {
        match (&self.text, self.parent, &self.tag) {
            (Some(text), ..) => vec![tags::hash_of_tag(text), tags::hash_of_request(text)],
            (None, Some(parent), _) => vec![tags::hash_of_tag(&tags::tag_of_parent(parent))],
            (None, None, Some(tag)) => vec![tags::hash_of_tag(tag)],
            (None, None, None) => Vec::new(),
        }
    }
}

/// Whether an error is the last that is to be said of a job in this state.
fn has_failed(state: JobState) -> bool {
    match state {
        JobState::Scheduled | JobState::Queued | JobState::Leased | JobState::Succeeded => false,
        JobState::Failed | JobState::Dead | JobState::Cancelled | JobState::Expired => true,
    }
}

/// A page of jobs.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The jobs, without results.
    pub jobs: Vec<JobView>,
    /// Pass back for the next page; `None` at the end.
    pub cursor: Option<String>,
    /// Jobs that were looked at for it, about: what it cost the store.
    pub looked: usize,
}

/// What the store says about itself.
#[derive(Clone, Debug, Serialize)]
pub struct StoreHealth {
    /// Name and version, such as `redis 7.0.15`.
    pub store: String,
    /// What an operator should know but that does not stop service.
    pub warnings: Vec<String>,
}

/// What a shared bucket said to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateDecision {
    /// Whether the request may go on; a refused one took nothing.
    pub allowed: bool,
    /// When the bucket is full again.
    pub debt: Duration,
}

/// One deployment's queues: one queue per model.
///
/// Every method fails with `queue_unavailable` when the store cannot be reached.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Settings this process runs with.
    fn settings(&self) -> &QueueSettings;

    /// Issues and checks ids with the deployment's secret.
    fn ids(&self) -> IdIssuer;

    /// Opens a client whose I/O runs on the current tokio runtime. One per
    /// gateway thread.
    fn client(&self) -> Arc<dyn QueueClient>;

    /// The small, rare state that this deployment's processes share.
    fn metadata(&self) -> Arc<dyn MetadataStore>;

    /// Opens a consumer of `model`'s queue for one session of `worker`, its I/O
    /// on the current tokio runtime.
    async fn consumer(&self, model: &str, worker: &str) -> Result<Box<dyn Consumer>>;

    /// Opens a renewer, its I/O on the current tokio runtime.
    async fn renewer(&self) -> Result<Box<dyn Renewer>>;

    /// Reads a job; `None` when the store has no record of it (the caller tells
    /// expired from unknown by the id's tombstone).
    async fn get(&self, id: JobId) -> Result<Option<JobView>>;

    /// Cancels a job that is not terminal; a leased one ends cancelled at once
    /// and its worker's settle is refused.
    ///
    /// # Errors
    /// `job_not_found`; `job_already_finished`.
    async fn cancel(&self, id: JobId) -> Result<JobView>;

    /// A job's input as it was enqueued, for as long as it may run: until it ends, and of
    /// a dead letter for as long as that is kept. `None` when the store has none.
    async fn input(&self, id: JobId) -> Result<Option<Bytes>>;

    /// The job that `owner` enqueued for `model` under this idempotency key, for as long as
    /// the key names one.
    async fn find_idempotent(&self, model: &str, owner: OwnerId, key: &str) -> Result<Option<JobId>>;

    /// Lists jobs, the newest first where the index tells; a page may be short or empty
    /// while the cursor goes on.
    ///
    /// # Errors
    /// `unsupported` for a tag or a text where there is no index.
    async fn list(&self, filter: &ListFilter, cursor: Option<&str>, limit: usize) -> Result<Page>;

    /// A queue's contents; zeros for a queue nobody has used.
    async fn counts(&self, model: &str) -> Result<Counts>;

    /// Sends dead letters back to their queue with their attempts forgotten.
    /// `ids` empty: up to `limit` of the oldest. Returns how many went.
    async fn redrive(&self, model: &str, ids: &[JobId], limit: usize) -> Result<u64>;

    /// Deletes dead letters for good. `ids` empty: up to `limit` of the oldest.
    async fn purge(&self, model: &str, ids: &[JobId], limit: usize) -> Result<u64>;

    /// Stops or resumes leasing from a queue; enqueueing goes on.
    async fn set_paused(&self, model: &str, paused: bool) -> Result<()>;

    /// Registers or refreshes a worker; it is forgotten `ttl` after the last call.
    async fn register_worker(&self, info: &WorkerInfo, ttl: Duration) -> Result<()>;

    /// Forgets a worker at once (a drain).
    async fn deregister_worker(&self, id: &str) -> Result<()>;

    /// Live workers, with the models they serve.
    async fn workers(&self) -> Result<Vec<WorkerInfo>>;

    /// Resolves when the set of workers or models may have changed since the version `seen`, or
    /// after a few seconds, with the version now. Who reads after that, and asks with it, misses
    /// no change; version 0 is the one before any. Never fails.
    async fn registry_changed(&self, seen: u64) -> u64;

    /// Sends a command to every live worker.
    async fn command(&self, command: &WorkerCommand) -> Result<()>;

    /// The next command for workers; waits for one.
    ///
    /// # Cancel safety
    /// Cancel safe; a command is seen by every worker that was subscribed.
    async fn next_command(&self) -> WorkerCommand;

    /// An answer that a gateway kept for all of them; `None` also where the
    /// store keeps none.
    async fn cache_get(&self, _key: u128) -> Result<Option<Bytes>> {
        Ok(None)
    }

    /// Keeps an answer for all gateways for `ttl`; a store without a second
    /// tier forgets it.
    async fn cache_put(&self, _key: u128, _answer: &[u8], _ttl: Duration) -> Result<()> {
        Ok(())
    }

    /// Takes one request out of `owner`'s bucket, which every gateway shares:
    /// one per `interval`, `window` of them at once. `None` where the store
    /// keeps no buckets: then a caller's own count is all there is.
    async fn take_rate(&self, _owner: OwnerId, _interval: Duration, _window: Duration) -> Result<Option<RateDecision>> {
        Ok(None)
    }

    /// Adds to what `owner` owes of tokens that every gateway counts, by the time in which
    /// they are earned; the time in which all is. `None` where the store keeps no buckets.
    async fn owe_tokens(&self, _owner: OwnerId, _more: Duration) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// Most bytes that the store keeps as one value: an input, a result.
    fn max_value_bytes(&self) -> usize;

    /// Whether the store can be used, and what an operator should know. Asks it.
    async fn health(&self) -> Result<StoreHealth>;

    /// Whether the store takes jobs at this moment, as what happened to it shows:
    /// for readiness, which must not ask and wait.
    fn condition(&self) -> Condition;

    /// The folder of this host in which the store keeps its files; `None` where it
    /// keeps none here.
    fn folder(&self) -> Option<&Path> {
        None
    }
}
