//! The embedded queue: a process's only end of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nobat_core::job::JobView;
use nobat_core::{Error, ErrorCode, IdIssuer, JobId, OwnerId, Result};

use super::client::SqliteClient;
use super::clock::StoreClock;
use super::consumer::{SqliteConsumer, SqliteRenewer};
use super::folder::{self, Folder, unavailable};
use super::journal::{Journal, JournalError};
use super::machine::{KeyScope, Machine, QueueNo};
use super::metadata::SqliteMetadata;
use super::startup::{damaged_logs, restore};
use super::store::{EmbeddedStore, StoreHandle, committed};
use super::writer::Writer;
use super::{disk_watchdog, read};
use crate::api::{
    Condition, Consumer, Counts, Durability, ListFilter, MetadataStore, Page, Queue, QueueClient, QueueSettings,
    Renewer, StoreHealth, WorkerCommand, WorkerInfo,
};
use crate::errors;

/// The embedded queue.
pub struct SqliteQueue {
    store: Arc<StoreHandle>,
    metadata: Arc<SqliteMetadata>,
}

impl SqliteQueue {
    /// Opens the queue in folder `dir`, creating it when it is not there. Blocks
    /// while it reads what an earlier process left: about a second per million
    /// waiting jobs.
    ///
    /// # Errors
    /// `queue_unavailable` when another process holds the folder, when it cannot
    /// be written, or when a newer version wrote it.
    pub fn open(dir: &Path, settings: QueueSettings) -> Result<Arc<SqliteQueue>> {
        settings.validate()?;
        if settings.durability == Durability::Replicated {
            return Err(Error::new(
                ErrorCode::InvalidParameter,
                "durability = \"replicated\" needs Redis with a replica: the embedded store is one folder; use \"fsync\", or set `redis`",
            ));
        }
        let folder = Folder::take(dir)?;
        let notes = damaged_logs(&folder)?;
        let broken = |e: JournalError| unavailable(dir, &format!("holds no usable queue: {e}"));
        let journal = Journal::open(&folder.journal(), settings.durability, settings.index).map_err(broken)?;
        SqliteQueue::start(folder, journal, settings, notes)
    }

    /// The process that holds folder `dir` at this moment, such as `process 4711`;
    /// none when [`open`](SqliteQueue::open) would find the folder free.
    #[must_use]
    pub fn holder(dir: &Path) -> Option<String> {
        folder::holder(dir)
    }

    pub(super) fn start(
        mut folder: Folder,
        mut journal: Journal,
        settings: QueueSettings,
        notes: Vec<String>,
    ) -> Result<Arc<SqliteQueue>> {
        let dir = folder.path().to_owned();
        let broken = |e: JournalError| unavailable(&dir, &format!("holds no usable queue: {e}"));
        let metadata = Arc::new(SqliteMetadata::open(&folder.metadata())?);
        let ids = IdIssuer::new(journal.secret().map_err(broken)?);
        let clock = StoreClock::start();
        let machine = restore(&folder, &mut journal, &settings, ids, clock.now_us()).map_err(broken)?;
        folder.watch();
        let value_max = journal.value_max();
        let store = Arc::new(EmbeddedStore::new(folder, settings, ids, clock, machine, notes, value_max));
        let mut handle = StoreHandle { store: Arc::clone(&store), threads: Vec::new() };
        let mut spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let spawned = std::thread::Builder::new().name(name.into()).spawn(run);
            let failed = |e| Error::new(ErrorCode::Internal, format!("cannot start the thread `{name}`: {e}"));
            spawned.map_err(failed).map(|thread| handle.threads.push(thread))
        };
        let writer = Writer::new(Arc::clone(&store), journal);
        spawn("nobat-journal", Box::new(move || writer.run()))?;
        spawn("nobat-disk", Box::new(move || disk_watchdog::run(store)))?;
        Ok(Arc::new(SqliteQueue { store: Arc::new(handle), metadata }))
    }

    /// Does something to a queue that exists, and waits for its commit.
    async fn change<R>(&self, model: &str, none: R, op: impl FnOnce(&mut Machine, u64, QueueNo) -> R) -> Result<R> {
        let (out, ack) = self.store.act(|state, now_us| {
            let out = state.machine.find_queue(model).map_or(none, |queue| op(&mut state.machine, now_us, queue));
            (out, state.ack())
        });
        committed(ack).await?;
        Ok(out)
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    fn settings(&self) -> &QueueSettings {
        &self.store.settings
    }

    fn ids(&self) -> IdIssuer {
        self.store.ids
    }

    fn client(&self) -> Arc<dyn QueueClient> {
        Arc::new(SqliteClient { store: Arc::clone(&self.store) })
    }

    fn metadata(&self) -> Arc<dyn MetadataStore> {
        self.metadata.clone()
    }

    async fn consumer(&self, model: &str, _worker: &str) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(SqliteConsumer::open(Arc::clone(&self.store), model)?))
    }

    async fn renewer(&self) -> Result<Box<dyn Renewer>> {
        Ok(Box::new(SqliteRenewer { store: Arc::clone(&self.store) }))
    }

    async fn get(&self, id: JobId) -> Result<Option<JobView>> {
        read::get(&self.store, id).await
    }

    async fn input(&self, id: JobId) -> Result<Option<Bytes>> {
        read::input(&self.store, id).await
    }

    async fn cancel(&self, id: JobId) -> Result<JobView> {
        let store = &self.store;
        let cancelled = store.act(|state, now_us| state.machine.cancel(now_us, id).map(|()| state.ack()));
        let ended_before = match cancelled {
            Ok(ack) => committed(ack).await.map(|()| false)?,
            // What memory does not know may have ended long ago.
            Err(Error { code: ErrorCode::JobNotFound, .. }) => true,
            Err(error) => return Err(error),
        };
        match read::get(store, id).await? {
            Some(view) if ended_before => Err(errors::already_finished(id, view.state)),
            Some(view) => Ok(view),
            None => Err(errors::not_found(id)),
        }
    }

    async fn find_idempotent(&self, model: &str, owner: OwnerId, key: &str) -> Result<Option<JobId>> {
        Ok(self.store.act(|state, now_us| {
            let queue = state.machine.find_queue(model)?;
            state.machine.job_of_key(now_us, &KeyScope { owner, queue, key: key.into() })
        }))
    }

    async fn list(&self, filter: &ListFilter, cursor: Option<&str>, limit: usize) -> Result<Page> {
        read::list(&self.store, filter, cursor, limit).await
    }

    async fn counts(&self, model: &str) -> Result<Counts> {
        Ok(self.store.act(|state, now_us| {
            let queue = state.machine.find_queue(model);
            queue.map_or_else(Counts::default, |queue| state.machine.counts(now_us, queue))
        }))
    }

    async fn redrive(&self, model: &str, ids: &[JobId], limit: usize) -> Result<u64> {
        self.change(model, 0, |machine, now_us, queue| machine.redrive(now_us, queue, ids, limit)).await
    }

    async fn purge(&self, model: &str, ids: &[JobId], limit: usize) -> Result<u64> {
        self.change(model, 0, |machine, _, queue| machine.purge(queue, ids, limit)).await
    }

    async fn set_paused(&self, model: &str, paused: bool) -> Result<()> {
        let ack = self.store.act(|state, _| {
            let queue = state.machine.queue(model);
            state.machine.set_paused(queue, paused);
            state.ack()
        });
        committed(ack).await
    }

    async fn register_worker(&self, info: &WorkerInfo, ttl: Duration) -> Result<()> {
        self.store.registry.register(info, ttl);
        Ok(())
    }

    async fn deregister_worker(&self, id: &str) -> Result<()> {
        self.store.registry.deregister(id);
        Ok(())
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        Ok(self.store.registry.workers())
    }

    async fn registry_changed(&self, seen: u64) -> u64 {
        self.store.registry.signals.changed(seen).await
    }

    async fn command(&self, command: &WorkerCommand) -> Result<()> {
        self.store.registry.signals.command(command.clone());
        Ok(())
    }

    async fn next_command(&self) -> WorkerCommand {
        self.store.registry.signals.next_command().await
    }

    fn max_value_bytes(&self) -> usize {
        self.store.value_max
    }

    async fn health(&self) -> Result<StoreHealth> {
        let store = &self.store;
        if let Some(down) = &store.state.lock().down {
            return Err(down.clone());
        }
        Ok(StoreHealth {
            store: format!("sqlite {} in {}", rusqlite::version(), store.folder.path().display()),
            warnings: store.notes.clone(),
        })
    }

    fn condition(&self) -> Condition {
        self.store.refusals.watch()
    }

    fn folder(&self) -> Option<&Path> {
        Some(self.store.folder.path())
    }
}
