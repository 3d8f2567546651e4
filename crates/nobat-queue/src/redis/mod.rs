//! The queue on Redis 7: many gateways and workers around one server, Sentinel
//! group or cluster.
//!
//! Owns everything that speaks Redis. Read [`keys`] first (every key), then
//! [`record`] (how a job is packed), then `scripts/*.lua` (every transition).
//! The decisions and what was measured for them stand in `docs/adr/0001` and
//! `0002`.
//!
//! - [`client`]: a gateway thread's enqueues (coalesced) and waits (pushed);
//! - [`consumer`]: settle and lease in one call, and waiting without polling;
//! - [`handoff`]: jobs that come to a waiting consumer without being asked for;
//! - [`renewer`]: leases kept alive from a thread of their own;
//! - [`timekeeper`]: what time does to idle queues, by one process per queue;
//! - [`admin`], [`registry`]: reading, dead letters, workers and commands;
//! - [`pulse`]: whether jobs are taken, for readiness;
//! - [`between`]: cached answers and rates that gateways share;
//! - [`connect`]: how connections are made, and come back.
//!
//! Invariants:
//! - Time is `redis.call('TIME')`; no host's clock decides anything.
//! - Every range has a limit, every reply is bounded, no key's cost grows with
//!   the backlog.
//! - A call whose reply was lost may be repeated: an enqueue is recognised by
//!   its id, a settlement by what it wrote, a lease by its token.

mod admin;
mod audit;
mod between;
mod client;
mod connect;
mod consumer;
mod enqueue;
mod handoff;
mod keys;
pub(crate) mod list;
mod marker;
mod metadata;
mod pulse;
mod record;
mod registry;
mod renewer;
mod scripts;
mod settle;
mod startup;
mod timekeeper;
mod waiters;
mod written;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nobat_core::{Error, ErrorCode, IdIssuer, JobId, OwnerId, Result};
use parking_lot::RwLock;
use redis::{Cmd, Value};
use smol_str::SmolStr;

pub use connect::single_server;

use crate::api::{QueueSettings, Refusals};
use connect::{Backoff, Fault, Hub, Target, coded, fault};
use keys::{Prefix, QueueKeys};

/// The deployment's queues on Redis. Cheap to clone behind its [`Arc`].
pub struct RedisQueue {
    inner: Arc<Inner>,
}

/// What all parts of a process share.
struct Inner {
    target: Arc<Target>,
    prefix: Prefix,
    settings: QueueSettings,
    ids: IdIssuer,
    /// Administration, registry and timers; its driver runs on `runtime`.
    hub: Hub,
    queues: RwLock<Queues>,
    /// Held while a model's number is asked for: one asks, the others wait in turn.
    numbering: tokio::sync::Mutex<()>,
    registry: registry::Registry,
    timers: timekeeper::Timers,
    refusals: Arc<Refusals<pulse::Cause>>,
    /// Whether this process enqueues: a client was opened.
    accepts: AtomicBool,
    server: startup::Server,
    /// Of this process, for timers and commands.
    process: [u8; 8],
    runtime: Background,
}

#[derive(Default)]
struct Queues {
    by_model: HashMap<SmolStr, Arc<QueueKeys>>,
    by_number: HashMap<u64, Arc<QueueKeys>>,
}

impl RedisQueue {
    /// Connects, checks that the server is fit, and starts this process's
    /// background thread (`nobat-redis`: administration, registry, timers).
    /// `prefix` begins every key, such as `nobat`.
    ///
    /// # Errors
    /// `queue_unavailable` when the server cannot be reached or is not fit (too
    /// old, evicting, lacking what `durability` asks for, denying a command);
    /// `invalid_parameter` for a URL or prefix that cannot be used.
    pub async fn connect(url: &str, settings: QueueSettings, prefix: &str) -> Result<Arc<RedisQueue>> {
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b)) {
            return Err(Error::new(
                ErrorCode::InvalidParameter,
                format!("redis prefix `{prefix}` is not usable; use letters, digits, `-`, `_`, `.` and `:`"),
            ));
        }
        let target = Arc::new(Target::parse(url)?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("nobat-redis")
            .enable_all()
            .build()
            .map_err(|e| Error::new(ErrorCode::Internal, format!("no thread for redis: {e}")))?;
        let handle = runtime.handle().clone();
        let runtime = Background(Some(runtime));
        let prefix = Prefix { text: prefix.to_owned() };
        let process = random_name();
        let registry = registry::Registry::default();
        let timers = timekeeper::Timers::default();
        let channels = vec![
            prefix.global("registry"),
            prefix.global("commands"),
            format!("{}{}", prefix.keeper_channel(), String::from_utf8_lossy(&process)),
        ];
        let on_push = registry::on_push(channels.clone(), registry.clone(), timers.clone());
        let refusals = Arc::new(Refusals::default());
        let hub =
            Hub::new(target.clone(), Some(handle.clone())).subscribed(channels, on_push).reporting(refusals.clone());
        let (server, ids) = startup::prepare(&hub, &prefix, &settings).await?;
        let inner = Arc::new(Inner {
            target,
            prefix,
            settings,
            ids,
            hub,
            queues: RwLock::default(),
            numbering: tokio::sync::Mutex::default(),
            registry,
            timers,
            refusals,
            accepts: AtomicBool::new(false),
            server,
            process,
            runtime,
        });
        handle.spawn(timekeeper::run(Arc::downgrade(&inner)));
        handle.spawn(pulse::run(Arc::downgrade(&inner)));
        Ok(Arc::new(RedisQueue { inner }))
    }
}

/// A runtime that may be dropped inside another one, as when a caller gives up
/// connecting; by itself it would panic there.
struct Background(Option<tokio::runtime::Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// How long a call that may be repeated waits out a fault.
const PATIENCE: Duration = Duration::from_secs(2);

impl Inner {
    /// Sends a command that may be repeated, waiting out a short fault.
    async fn send(&self, cmd: &Cmd) -> Result<Value> {
        patient(&self.hub, cmd).await
    }

    /// The queue of a model that was met before.
    fn known_queue(&self, model: &str) -> Option<Arc<QueueKeys>> {
        self.queues.read().by_model.get(model).cloned()
    }

    /// The queue of a model, given a number if it is new.
    async fn queue(&self, model: &str) -> Result<Arc<QueueKeys>> {
        if let Some(known) = self.known_queue(model) {
            return Ok(known);
        }
        let _turn = self.numbering.lock().await;
        if let Some(known) = self.known_queue(model) {
            return Ok(known);
        }
        // Asked first: also a server that refuses writes can tell a known one.
        let known = self.send(redis::cmd("HGET").arg(self.prefix.global("queues")).arg(model)).await?;
        if let Ok(Some(number)) = redis::from_redis_value::<Option<u64>>(known) {
            return Ok(self.remember(model, number));
        }
        let mut cmd = scripts::NUMBER.on(self.prefix.global(""));
        cmd.arg(model);
        match self.send(&cmd).await? {
            Value::Int(number) => Ok(self.remember(model, number as u64)),
            other => Err(unexpected("a queue number", &other)),
        }
    }

    /// The queue of a public id; `None` when there is none of that number.
    async fn queue_of(&self, id: JobId) -> Result<Option<Arc<QueueKeys>>> {
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
    async fn all_queues(&self) -> Result<Vec<Arc<QueueKeys>>> {
        let reply = self.send(redis::cmd("HGETALL").arg(self.prefix.global("queues"))).await?;
        let known: HashMap<String, u64> = redis::from_redis_value(reply)
            .map_err(|e| Error::new(ErrorCode::Internal, format!("redis key `queues` cannot be read: {e}")))?;
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
        self.timers.known(&keys);
        keys
    }

    /// A new job's id in `queue`. Its horizon is the last minute in which a
    /// missing record means "expired".
    fn new_id(&self, queue: &QueueKeys, owner: OwnerId, options: &nobat_core::job::JobOptions) -> JobId {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let kept = options.delay.unwrap_or_default()
            + options.result_ttl
            + Duration::from_secs(u64::from(self.settings.tombstone_s));
        let horizon = (now.saturating_add(kept).as_secs() / 60 + 1).min(916_132_831);
        self.ids.issue(keys::keyed(random_u128()), horizon as u32, queue.number, owner)
    }
}

/// Sends what may be repeated, waiting out a short fault.
async fn patient(hub: &Hub, cmd: &Cmd) -> Result<Value> {
    let started = std::time::Instant::now();
    let mut backoff = Backoff::default();
    loop {
        match hub.send(cmd).await {
            Ok(value) => return Ok(value),
            Err(e) if fault(&e) == Fault::Ours || started.elapsed() > PATIENCE => return Err(coded(&e)),
            Err(_) => tokio::time::sleep(backoff.next()).await,
        }
    }
}

/// A reply that is not of the form the script promises.
fn unexpected(what: &str, value: &Value) -> Error {
    let kind = match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) | Value::Okay => "text",
        Value::Array(_) => "a list",
        _ => "another type",
    };
    Error::new(
        ErrorCode::Internal,
        format!("redis answered {kind} where {what} was due; is another program using the prefix?"),
    )
}

fn random_u128() -> u128 {
    // The operating system's generator does not fail once it has been seeded;
    // an id of zeros would collide and be refused as a duplicate, not leak.
    crate::entropy::next_u128().unwrap_or_default()
}

fn random_u32() -> u32 {
    random_u128() as u32
}

/// Eight letters and digits: the name of a client or a process.
fn random_name() -> [u8; 8] {
    let id = JobId { random: random_u128(), tombstone_min: 0, mac: 0, locator: 0 };
    let mut name = [0; 8];
    name.copy_from_slice(&id.key()[14..]);
    name
}
