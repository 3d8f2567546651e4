//! The contract both stores keep. See each method for what is atomic.
//!
//! Three roles, three traits, because they live in different places:
//! - [`Queue`]: shared by a process; reading, administration, the registry.
//! - [`Lane`]: one per gateway thread; enqueues and waits. It coalesces what
//!   arrives in one tick of its runtime into one round trip.
//! - [`Consumer`]: one per session (executor thread); settles and leases in one
//!   round trip, and waits for work without polling. Its [`Renewer`] lives on
//!   another thread, where an inference cannot starve it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nobat_core::job::{JobError, JobState, JobView, LeaseToken, LeasedJob, NewJob, Settlement};
use nobat_core::score::Aging;
use nobat_core::signature::ModelSignature;
use nobat_core::{IdIssuer, JobId, OwnerId, Result};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::condition::Condition;
use crate::ledger::Ledger;

/// How long a lease lasts unless renewed.
pub const LEASE: Duration = Duration::from_secs(15);
/// How often a held lease is renewed.
pub const RENEW_EVERY: Duration = Duration::from_secs(5);
/// A job whose worker died this often is quarantined as dead.
pub const MAX_DEATHS: u32 = 3;
/// A job with this many deaths is on its last chance: of a queue's, one at a time is
/// under lease. Jobs that were at hand each time when another one killed their
/// process would be quarantined with it otherwise.
pub const LAST_CHANCE: u32 = MAX_DEATHS - 1;
/// How long a job on its last chance waits, at a time, while another one runs.
pub const POSTPONED: Duration = Duration::from_millis(50);
/// A silence of less than this is no outage, however short the leases are: a machine
/// under load stands still for as long.
pub const SILENCE_MIN: Duration = Duration::from_secs(2);
/// Most expired leases one step takes back, and most due jobs it promotes.
pub const SWEEP_LIMIT: usize = 100;

/// What a deployment fixes for its queues; the same for every process on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueSettings {
    /// Aging step in seconds; 0 is strict priority.
    pub aging_s: u32,
    /// Most waiting jobs per queue; 0 is no limit.
    pub max_jobs: u64,
    /// Most waiting payload bytes per queue; 0 is no limit.
    pub max_bytes: u64,
    /// Dead letters kept per queue; the oldest go first.
    pub max_dead: u32,
    /// How long a dead letter is kept, in seconds.
    pub dead_ttl_s: u32,
    /// How long after a result's end its id still answers 410, in seconds.
    pub tombstone_s: u32,
    /// How long an idempotency key is remembered at most, in seconds: it names nothing
    /// once its job has no record.
    pub idempotency_ttl_s: u32,
    /// Lease length in milliseconds; workers renew at a third of it.
    pub lease_ms: u32,
    /// When an enqueue is answered: `memory` after the store has it, `fsync`
    /// after it is on disk, `replicated` after a replica has it, too.
    pub durability: Durability,
}

impl Default for QueueSettings {
    fn default() -> QueueSettings {
        QueueSettings {
            aging_s: 60,
            max_jobs: 0,
            max_bytes: 0,
            max_dead: 10_000,
            dead_ttl_s: 7 * 86_400,
            tombstone_s: 86_400,
            idempotency_ttl_s: 86_400,
            lease_ms: LEASE.as_millis() as u32,
            durability: Durability::Memory,
        }
    }
}

impl QueueSettings {
    /// The aging rule these settings state.
    pub fn aging(&self) -> Aging {
        match self.aging_s {
            0 => Aging::Strict,
            step => Aging::Step(Duration::from_secs(u64::from(step))),
        }
    }
}

/// When an enqueue is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// The store has it: survives a killed process of ours; a killed Redis
    /// loses what its append-only policy has not written.
    #[default]
    Memory,
    /// It is on disk (WAITAOF on Redis, `synchronous=FULL` on SQLite).
    Fsync,
    /// A replica has it as well: on both disks where the servers keep an append-only
    /// file and are Redis 7.2 or later (WAITAOF), else in the replica's memory (WAIT).
    /// Redis only.
    Replicated,
}

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

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Only this model's queue.
    pub model: Option<SmolStr>,
    /// Only this state.
    pub state: Option<JobState>,
    /// Only this owner's jobs.
    pub owner: Option<OwnerId>,
}

/// A page of jobs.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The jobs, without results.
    pub jobs: Vec<JobView>,
    /// Pass back for the next page; `None` at the end.
    pub cursor: Option<String>,
}

/// A live worker, as it registers itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// Unique per start.
    pub id: SmolStr,
    /// Host name and process id, for people.
    pub host: String,
    /// Started, milliseconds since 1970.
    pub started_at_ms: u64,
    /// Sessions it runs.
    pub sessions: u32,
    /// Every model version it has loaded, is loading or failed to load.
    pub models: Vec<ModelSignature>,
    /// A [`WorkerReport`](nobat_core::statistics::WorkerReport) and anything else
    /// a reader may want, as one JSON object.
    #[serde(default)]
    pub report: serde_json::Value,
}

/// Where a worker stands with the loads and unloads of one model that it was
/// sent: an entry, by the model's name, of [`LOADS`] in its report. A worker
/// carries them out in turn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadProgress {
    /// Commands for this model taken up since it started.
    pub taken: u64,
    /// Those of them that are carried out.
    pub done: u64,
    /// Why the last of those failed: `model_not_found` where its repository has
    /// no such model, else what kept a version from loading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
}

/// Name of the [`LoadProgress`] entries in a worker's report; a worker that knows
/// them has it from its start.
pub const LOADS: &str = "loads";

impl WorkerInfo {
    /// Where this worker stands with `model`; `None` when it is of a build that does
    /// not say.
    pub fn load_progress(&self, model: &str) -> Option<LoadProgress> {
        match self.report.get(LOADS)?.get(model) {
            None => Some(LoadProgress::default()),
            Some(progress) => LoadProgress::deserialize(progress).ok(),
        }
    }
}

/// What the store says about itself.
#[derive(Clone, Debug, Serialize)]
pub struct StoreHealth {
    /// Name and version, such as `redis 7.0.15`.
    pub store: String,
    /// What an operator should know but that does not stop service.
    pub warnings: Vec<String>,
}

/// A request to a worker that travels through the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum WorkerCommand {
    /// Load, or load again, a model (all its versions by policy).
    Load {
        /// Which model.
        model: SmolStr,
    },
    /// Unload a model.
    Unload {
        /// Which model.
        model: SmolStr,
    },
    /// Register again at once, with fresh statistics and this nonce in
    /// [`WorkerReport::nonce`](nobat_core::statistics::WorkerReport::nonce).
    Report {
        /// Tells an answer to this request from an earlier one.
        nonce: u64,
    },
}

/// What a shared bucket said to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
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

    /// Opens a lane whose I/O runs on the current tokio runtime. One per
    /// gateway thread.
    fn lane(&self) -> Arc<dyn Lane>;

    /// The small, rare state that this deployment's processes share.
    fn ledger(&self) -> Arc<dyn Ledger>;

    /// Opens a consumer of `model`'s queue for one session of `worker`, its I/O
    /// on the current tokio runtime.
    async fn consumer(&self, model: &str, worker: &str) -> Result<Box<dyn Consumer>>;

    /// Opens a renewer, its I/O on the current tokio runtime.
    async fn renewer(&self) -> Result<Box<dyn Renewer>>;

    /// Reads a job; `None` when the store has no record of it (the caller tells
    /// expired from unknown by the id's horizon).
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

    /// Lists jobs; a page may be short or empty while the cursor goes on.
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

    /// Resolves when the set of workers or models may have changed, or after a
    /// few seconds. Never fails.
    async fn registry_changed(&self);

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
    async fn take_rate(&self, _owner: OwnerId, _interval: Duration, _window: Duration) -> Result<Option<Taken>> {
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

/// A gateway thread's way into the queues.
#[async_trait]
pub trait Lane: Send + Sync {
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
    /// As [`Lane::enqueue`].
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

/// One step's yield.
#[derive(Debug, Default)]
pub struct Step {
    /// Newly leased jobs, in the order to run them.
    pub leased: Vec<LeasedJob>,
    /// Settlements that were refused: the lease was lost or the job cancelled.
    pub refused: Vec<JobId>,
    /// Whether ready jobs are left in the queue.
    pub more: bool,
}

/// A worker session's end of one queue.
#[async_trait]
pub trait Consumer: Send {
    /// Settles and leases up to `want` jobs in one round trip; also promotes
    /// due jobs and takes back expired leases, bounded. Never waits for work.
    /// Settlements are kept and sent again by the implementation until the
    /// store answered, so an error never loses one: call again.
    async fn step(&mut self, settle: Vec<Settlement>, want: usize) -> Result<Step>;

    /// As [`Consumer::step`], for a caller that holds nothing and goes on to
    /// [`Consumer::idle`]: should nothing be ready, up to `want` jobs may be leased to
    /// this consumer as soon as they are enqueued. The next step of either kind brings
    /// them.
    async fn step_or_park(&mut self, settle: Vec<Settlement>, want: usize) -> Result<Step> {
        self.step(settle, want).await
    }

    /// Whether jobs may have been leased to this consumer since its last step: it
    /// must take one more step before it is dropped, or they wait for their lease's end.
    fn parked(&self) -> bool {
        false
    }

    /// Waits until there may be work. Never fails: while the store is away it
    /// waits for it to come back.
    ///
    /// # Cancel safety
    /// Cancel safe: a wake-up taken and then dropped is put back.
    async fn idle(&mut self);
}

/// What became of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Ours for another lease length.
    Renewed,
    /// Expired and taken back, or cancelled: stop working on it.
    Lost,
}

/// Keeps leases alive from a thread that inference cannot starve.
#[async_trait]
pub trait Renewer: Send {
    /// Renews leases of `model`'s queue; the answers are in the same order.
    async fn renew(&mut self, model: &str, leases: &[(JobId, LeaseToken)]) -> Result<Vec<Renewal>>;
}
