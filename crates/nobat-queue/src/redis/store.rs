//! What all parts of a process share: its connection, the queues it knows, and how
//! commands that may be repeated are sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nobat_core::job::JobOptions;
use nobat_core::{IdIssuer, JobId, OwnerId, Result};
use parking_lot::RwLock;
use redis::{Cmd, FromRedisValue, Value};
use smol_str::SmolStr;

use super::connection::{ConnectionManager, Endpoint, RefusalCause, parse};
use super::keys::{self, Prefix, QueueKeys};
use super::scripts;
use super::server::ServerInfo;
use super::sweep_schedule::SweepSchedule;
use crate::api::{QueueSettings, Refusals};
use crate::worker_signals::WorkerSignals;

/// A process's end of the deployment.
pub(crate) struct RedisStore {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) prefix: Prefix,
    pub(crate) settings: QueueSettings,
    pub(crate) ids: IdIssuer,
    /// What ids are keyed with.
    pub(crate) secret: [u8; 16],
    /// Whether it was said that the server has another secret by now.
    pub(crate) displaced: AtomicBool,
    /// Administration, registry and sweeps; its driver runs on `runtime`.
    pub(crate) manager: ConnectionManager,
    /// Reads inputs and results of any size, and subscribes to nothing: the server closes a
    /// connection that does once 32 MiB wait on it (`client-output-buffer-limit pubsub`).
    pub(crate) values: ConnectionManager,
    pub(crate) queues: RwLock<KnownQueues>,
    /// Held while a model's number is asked for: one asks, the others wait in turn.
    pub(crate) numbering: tokio::sync::Mutex<()>,
    pub(crate) signals: Arc<WorkerSignals>,
    /// What this process last published about its workers, to publish changes only.
    pub(crate) published: parking_lot::Mutex<HashMap<String, String>>,
    pub(crate) sweeps: Arc<SweepSchedule>,
    pub(crate) refusals: Arc<Refusals<RefusalCause>>,
    /// Whether this process enqueues: a client was opened.
    pub(crate) accepts: AtomicBool,
    pub(crate) server: ServerInfo,
    /// Names this process to sweepers.
    pub(crate) process: [u8; 8],
    pub(crate) runtime: Background,
}

#[derive(Default)]
pub(crate) struct KnownQueues {
    by_model: HashMap<SmolStr, Arc<QueueKeys>>,
    by_number: HashMap<u64, Arc<QueueKeys>>,
}

/// A runtime that may be dropped inside another one, as when a caller gives up
/// connecting; by itself it would panic there.
pub(crate) struct Background(pub(crate) Option<tokio::runtime::Runtime>);

impl Background {
    /// Runs a task to its end, or to the runtime's.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.0 {
            runtime.spawn(task);
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl RedisStore {
    /// Sends a command that may be repeated, waiting out a short fault.
    pub(crate) async fn send(&self, cmd: &Cmd) -> Result<Value> {
        self.manager.send_patiently(cmd).await
    }

    /// As [`RedisStore::send`], for an answer of this type; `what` names it where it is of another.
    pub(crate) async fn query<T: FromRedisValue>(&self, cmd: &Cmd, what: &str) -> Result<T> {
        parse(self.send(cmd).await?, what)
    }

    /// Every queue that was met.
    pub(crate) fn known_queues(&self) -> Vec<Arc<QueueKeys>> {
        self.queues.read().by_model.values().cloned().collect()
    }

    /// The queue of a model that was met before.
    pub(crate) fn known_queue(&self, model: &str) -> Option<Arc<QueueKeys>> {
        self.queues.read().by_model.get(model).cloned()
    }

    /// The queue of a model, given a number if it is new.
    pub(crate) async fn queue(&self, model: &str) -> Result<Arc<QueueKeys>> {
        if let Some(known) = self.known_queue(model) {
            return Ok(known);
        }
        let _turn = self.numbering.lock().await;
        // Asked first: also a server that refuses writes can tell a known one.
        if let Some(known) = self.existing_queue(model).await? {
            return Ok(known);
        }
        let number = self.query(scripts::NUMBER.on(self.prefix.global("")).arg(model), "a queue number").await?;
        Ok(self.remember(model, number))
    }

    /// The queue of a model if it has a number. Whoever only looks asks so: a queue is kept and
    /// swept for good, and callers look for whatever name they like.
    pub(crate) async fn existing_queue(&self, model: &str) -> Result<Option<Arc<QueueKeys>>> {
        if let Some(known) = self.known_queue(model) {
            return Ok(Some(known));
        }
        let number = redis::cmd("HGET").arg(self.prefix.global("queues")).arg(model).clone();
        let number: Option<u64> = self.query(&number, "a queue number").await?;
        Ok(number.map(|number| self.remember(model, number)))
    }

    /// The queue of a public id; `None` when there is none of that number.
    pub(crate) async fn queue_of(&self, id: JobId) -> Result<Option<Arc<QueueKeys>>> {
        if keys::keyed(id.random) != id.random {
            return Ok(None);
        }
        if let Some(known) = self.queues.read().by_number.get(&id.locator) {
            return Ok(Some(known.clone()));
        }
        self.all_queues().await?;
        Ok(self.queues.read().by_number.get(&id.locator).cloned())
    }

    /// Every queue of the deployment.
    pub(crate) async fn all_queues(&self) -> Result<Vec<Arc<QueueKeys>>> {
        let known: HashMap<String, u64> =
            self.query(redis::cmd("HGETALL").arg(self.prefix.global("queues")), "the queues").await?;
        Ok(known.into_iter().map(|(model, number)| self.remember(&model, number)).collect())
    }

    fn remember(&self, model: &str, number: u64) -> Arc<QueueKeys> {
        let mut queues = self.queues.write();
        let keys = queues
            .by_model
            .entry(model.into())
            .or_insert_with(|| Arc::new(QueueKeys { model: model.into(), base: self.prefix.base(model), number }))
            .clone();
        queues.by_number.insert(number, keys.clone());
        drop(queues);
        self.sweeps.queue_known(&keys);
        keys
    }

    /// A new job's id in `queue`. Its tombstone's expiry is the last minute in
    /// which a missing record means "expired".
    pub(crate) fn new_id(&self, queue: &QueueKeys, owner: OwnerId, options: &JobOptions) -> JobId {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let kept = options.delay.unwrap_or_default()
            + options.result_ttl
            + Duration::from_secs(u64::from(self.settings.tombstone_s));
        let tombstone_min = (now.saturating_add(kept).as_secs() / 60 + 1).min(916_132_831);
        self.ids.issue(keys::keyed(rand::random()), tombstone_min as u32, queue.number, owner)
    }
}

/// Eight letters and digits: the name of a client, a consumer or a process.
pub(crate) fn random_name() -> [u8; 8] {
    use rand::RngExt;
    std::array::from_fn(|_| rand::rng().sample(rand::distr::Alphanumeric))
}
