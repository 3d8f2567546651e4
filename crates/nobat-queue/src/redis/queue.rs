//! A process's end of the deployment: administration, the registry, what gateways
//! share, and the ends that clients and consumers hold.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nobat_core::job::JobView;
use nobat_core::{Error, ErrorCode, IdIssuer, JobId, OwnerId, Result};
use parking_lot::{Mutex, RwLock};

use super::client::RedisClient;
use super::connection::{ConnectionManager, Endpoint, parse, to_error};
use super::consumer::{RedisConsumer, RedisRenewer};
use super::keys::{Prefix, key_of};
use super::metadata::RedisMetadata;
use super::store::{Background, RedisStore, random_name};
use super::sweep_schedule::SweepSchedule;
use super::{readiness, registry, scripts, startup, sweeper};
use crate::api::{
    Condition, Consumer, Counts, ListFilter, MetadataStore, Page, Queue, QueueClient, QueueSettings, RateDecision,
    Refusals, Renewer, StoreHealth, WorkerCommand, WorkerInfo,
};
use crate::errors;
use crate::worker_signals::WorkerSignals;

/// The deployment's queues on Redis. Cheap to clone behind its [`Arc`].
pub struct RedisQueue {
    pub(super) store: Arc<RedisStore>,
}

impl RedisQueue {
    /// Connects, checks that the server is fit, and starts this process's
    /// background thread (`nobat-redis`: administration, registry, sweeps).
    /// `prefix` begins every key, such as `nobat`.
    ///
    /// # Errors
    /// `queue_unavailable` when the server cannot be reached or is not fit (too
    /// old, evicting, lacking what `durability` asks for, denying a command);
    /// `invalid_parameter` for a URL or prefix that cannot be used.
    pub async fn connect(url: &str, settings: QueueSettings, prefix: &str) -> Result<Arc<RedisQueue>> {
        settings.validate()?;
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b)) {
            return Err(Error::new(
                ErrorCode::InvalidParameter,
                format!("redis prefix `{prefix}` is not usable; use letters, digits, `-`, `_`, `.` and `:`"),
            ));
        }
        let endpoint = Arc::new(Endpoint::parse(url)?);
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
        let (signals, sweeps) = (Arc::<WorkerSignals>::default(), Arc::<SweepSchedule>::default());
        let channels = vec![
            prefix.global("registry"),
            prefix.global("commands"),
            format!("{}{}", prefix.sweeper_channel(), String::from_utf8_lossy(&process)),
        ];
        let on_push = registry::on_push(channels.clone(), signals.clone(), sweeps.clone());
        let refusals = Arc::new(Refusals::default());
        let manager = ConnectionManager::new(endpoint.clone(), Some(handle.clone()))
            .subscribed(channels, on_push)
            .reporting_to(refusals.clone());
        let values = ConnectionManager::new(endpoint.clone(), Some(handle.clone()));
        let (server, secret) = startup::prepare(&manager, &prefix, &settings).await?;
        let store = Arc::new(RedisStore {
            endpoint,
            prefix,
            settings,
            ids: IdIssuer::new(secret),
            secret,
            displaced: AtomicBool::new(false),
            manager,
            values,
            queues: RwLock::default(),
            numbering: tokio::sync::Mutex::default(),
            signals,
            published: Mutex::default(),
            sweeps,
            refusals,
            accepts: AtomicBool::new(false),
            server,
            process,
            runtime,
        });
        handle.spawn(sweeper::run(Arc::downgrade(&store)));
        handle.spawn(readiness::run(Arc::downgrade(&store)));
        Ok(Arc::new(RedisQueue { store }))
    }
}

#[async_trait]
impl Queue for RedisQueue {
    fn settings(&self) -> &QueueSettings {
        &self.store.settings
    }

    fn ids(&self) -> IdIssuer {
        self.store.ids
    }

    fn client(&self) -> Arc<dyn QueueClient> {
        Arc::new(RedisClient::open(self.store.clone()))
    }

    fn metadata(&self) -> Arc<dyn MetadataStore> {
        Arc::new(RedisMetadata::new(self.store.clone()))
    }

    async fn consumer(&self, model: &str, _worker: &str) -> Result<Box<dyn Consumer>> {
        let queue = self.store.queue(model).await?;
        Ok(Box::new(RedisConsumer::new(self.store.clone(), queue)))
    }

    async fn renewer(&self) -> Result<Box<dyn Renewer>> {
        Ok(Box::new(RedisRenewer::new(self.store.clone())))
    }

    async fn get(&self, id: JobId) -> Result<Option<JobView>> {
        self.store.read(id).await
    }

    async fn input(&self, id: JobId) -> Result<Option<Bytes>> {
        self.store.input(id).await
    }

    // A cached answer and a bucket may be lost: that is a miss, and a full bucket. A
    // request waits for them, so a Redis that is away is reported at once, not waited out.

    async fn cache_get(&self, key: u128) -> Result<Option<Bytes>> {
        let cmd = redis::cmd("GET").arg(self.store.prefix.cached(key)).clone();
        let answer = self.store.manager.send(&cmd).await.map_err(|e| to_error(&e))?;
        Ok(parse::<Option<Vec<u8>>>(answer, "a cached answer")?.map(Bytes::from))
    }

    async fn cache_put(&self, key: u128, answer: &[u8], ttl: Duration) -> Result<()> {
        // An answer that is too large is made again each time.
        if answer.len() > self.store.server.value_max() {
            return Ok(());
        }
        let mut cmd = redis::cmd("SET");
        cmd.arg(self.store.prefix.cached(key)).arg(answer).arg("PX").arg(ttl.as_millis() as u64);
        self.store.manager.send(&cmd).await.map_err(|e| to_error(&e)).map(drop)
    }

    async fn take_rate(&self, owner: OwnerId, interval: Duration, window: Duration) -> Result<Option<RateDecision>> {
        let mut cmd = scripts::RATE.on(self.store.prefix.rate(owner));
        // Whole microseconds: the script keeps its state as one such number.
        cmd.arg(interval.as_micros().max(1) as u64).arg(window.as_micros().max(1) as u64);
        let reply = self.store.manager.send(&cmd).await.map_err(|e| to_error(&e))?;
        let (allowed, debt_us): (bool, u64) = parse(reply, "a rate")?;
        Ok(Some(RateDecision { allowed, debt: Duration::from_micros(debt_us) }))
    }

    async fn owe_tokens(&self, owner: OwnerId, more: Duration) -> Result<Option<Duration>> {
        let mut cmd = scripts::RATE.on(self.store.prefix.tokens(owner));
        cmd.arg(more.as_micros() as u64).arg(0);
        let reply = self.store.manager.send(&cmd).await.map_err(|e| to_error(&e))?;
        let (_, debt_us): (bool, u64) = parse(reply, "a caller's tokens")?;
        Ok(Some(Duration::from_micros(debt_us)))
    }

    async fn cancel(&self, id: JobId) -> Result<JobView> {
        let not_found = || errors::not_found(id);
        let queue = self.store.queue_of(id).await?.ok_or_else(not_found)?;
        let mut cmd = scripts::CANCEL.on(&queue.base);
        cmd.arg("any").arg(self.store.prefix.client_channel());
        cmd.arg(u8::from(self.store.settings.index)).arg(&key_of(id)[..]);
        let (verdict, record): (Option<u8>, Vec<u8>) = self.store.query(&cmd, "a cancel's reply").await?;
        let verdict = verdict.ok_or_else(not_found)?;
        let view = self.store.view(&queue, id, record.into()).await?;
        if verdict == 1 { Ok(view) } else { Err(errors::already_finished(id, view.state)) }
    }

    async fn find_idempotent(&self, model: &str, owner: OwnerId, key: &str) -> Result<Option<JobId>> {
        self.store.job_of_key(model, owner, key).await
    }

    async fn list(&self, filter: &ListFilter, cursor: Option<&str>, limit: usize) -> Result<Page> {
        self.store.list(filter, cursor, limit).await
    }

    async fn counts(&self, model: &str) -> Result<Counts> {
        self.store.counts(model).await
    }

    async fn redrive(&self, model: &str, ids: &[JobId], limit: usize) -> Result<u64> {
        let Some(queue) = self.store.existing_queue(model).await? else { return Ok(0) };
        let step_us = self.store.settings.aging().step_us();
        let call = |count| scripts::REDRIVE.on(&queue.base).arg(step_us).arg(count).clone();
        self.store.move_dead(ids, limit, call).await
    }

    async fn purge(&self, model: &str, ids: &[JobId], limit: usize) -> Result<u64> {
        let Some(queue) = self.store.existing_queue(model).await? else { return Ok(0) };
        self.store.move_dead(ids, limit, |count| scripts::PURGE.on(&queue.base).arg(count).clone()).await
    }

    async fn set_paused(&self, model: &str, paused: bool) -> Result<()> {
        let queue = self.store.queue(model).await?;
        self.store.send(redis::cmd("HSET").arg(queue.own("meta")).arg("paused").arg(u8::from(paused))).await?;
        if !paused {
            // Whoever wakes finds out whether there is work.
            self.store.send(redis::cmd("ZADD").arg(queue.own("marker")).arg(0).arg(0)).await?;
        }
        Ok(())
    }

    async fn register_worker(&self, info: &WorkerInfo, ttl: Duration) -> Result<()> {
        self.store.register(info, ttl).await
    }

    async fn deregister_worker(&self, id: &str) -> Result<()> {
        self.store.deregister(id).await
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.store.live_workers().await
    }

    async fn registry_changed(&self, seen: u64) -> u64 {
        self.store.signals.changed(seen).await
    }

    async fn command(&self, command: &WorkerCommand) -> Result<()> {
        self.store.publish_command(command).await
    }

    async fn next_command(&self) -> WorkerCommand {
        self.store.signals.next_command().await
    }

    async fn health(&self) -> Result<StoreHealth> {
        startup::health(&self.store.manager, &self.store.server, self.store.settings.durability).await
    }

    fn max_value_bytes(&self) -> usize {
        self.store.server.value_max()
    }

    fn condition(&self) -> Condition {
        self.store.refusals.watch()
    }
}
