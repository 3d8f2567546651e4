//! The queue in one process, on SQLite: no server, the same semantics.
//!
//! [`machine`] is the running queue, in memory and pure; [`journal`] is its
//! durable record, written by one thread in groups ([`writer`]). A caller is
//! answered after the commit that holds what it was told:
//! - an enqueue after its insert;
//! - a `call`, a `wait` and every reader after the commit of the job's end. The
//!   job itself may run before its insert is committed, and a job that ends
//!   before then is written once, as ended.
//!
//! Invariants:
//! - `kill -9` takes back nothing that was answered: what was not over is in its
//!   old place at the next start, and what was running has a death counted.
//! - One process per folder; a second is refused by a lock.
//! - SQL is in [`journal`] alone, the lock over the machine in [`shared`].
//! - Payloads past a byte budget live on disk only and are read when leased.

mod checkpoint;
mod client;
mod clock;
mod consumer;
mod folder;
mod guard;
mod journal;
mod machine;
mod metadata;
mod read;
mod recent;
mod registry;
mod rows;
mod shared;
#[cfg(test)]
mod tests;
mod wal;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nobat_core::job::JobView;
use nobat_core::{Error, ErrorCode, IdIssuer, JobId, Result};

use self::client::{SqliteClient, committed};
use self::clock::Clock;
use self::consumer::{SqliteConsumer, SqliteRenewer};
use self::folder::{Folder, unavailable};
use self::journal::{Journal, JournalError};
use self::machine::{Machine, QueueNo};
use self::metadata::SqliteMetadata;
use self::shared::{Core, Shared};
use self::wal::Damage;
use self::writer::Writer;
use crate::api::{Condition, MetadataStore};
use crate::api::{
    Consumer, Counts, Durability, ListFilter, Page, Queue, QueueClient, QueueSettings, Renewer, StoreHealth,
    WorkerCommand, WorkerInfo,
};

/// Payload bytes of waiting jobs that stay in memory.
const RESIDENT_LIMIT: u64 = 256 << 20;

/// The embedded queue.
pub struct SqliteQueue {
    core: Arc<Core>,
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
        if settings.durability == Durability::Replicated {
            return Err(Error::new(
                ErrorCode::InvalidParameter,
                "durability = \"replicated\" needs Redis with a replica: the embedded store is one folder; use \"fsync\", or set `redis`",
            ));
        }
        let folder = Folder::take(dir)?;
        let notes = damaged_logs(&folder)?;
        let broken = |e: JournalError| unavailable(dir, &format!("holds no usable queue: {e}"));
        let journal = Journal::open(&folder.journal(), settings.durability).map_err(broken)?;
        SqliteQueue::start(folder, journal, settings, notes)
    }

    /// The process that holds folder `dir` at this moment, such as `process 4711`;
    /// none when [`open`](SqliteQueue::open) would find the folder free.
    #[must_use]
    pub fn holder(dir: &Path) -> Option<String> {
        folder::holder(dir)
    }

    fn start(
        mut folder: Folder,
        mut journal: Journal,
        settings: QueueSettings,
        notes: Vec<String>,
    ) -> Result<Arc<SqliteQueue>> {
        let dir = folder.path().to_owned();
        let broken = |e: JournalError| unavailable(&dir, &format!("holds no usable queue: {e}"));
        let metadata = Arc::new(SqliteMetadata::open(&folder.metadata())?);
        let ids = IdIssuer::new(journal.secret().map_err(broken)?);
        let clock = Clock::start();
        let machine = restore(&folder, &mut journal, &settings, ids, clock.now_us()).map_err(broken)?;
        folder.watch();
        let shared = Arc::new(Shared::new(folder, settings, ids, clock, machine, notes, journal.value_max()));
        let mut core = Core { shared: Arc::clone(&shared), writer: None, guard: None };
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let spawned = std::thread::Builder::new().name(name.into()).spawn(run);
            spawned.map_err(|e| Error::new(ErrorCode::Internal, format!("cannot start the thread `{name}`: {e}")))
        };
        let writer = Writer::new(Arc::clone(&shared), journal);
        core.writer = Some(spawn("nobat-journal", Box::new(move || writer.run()))?);
        core.guard = Some(spawn("nobat-guard", Box::new(move || guard::run(shared)))?);
        Ok(Arc::new(SqliteQueue { core: Arc::new(core), metadata }))
    }

    /// Does something to a queue that exists, and waits for its commit.
    async fn change<R>(&self, model: &str, none: R, op: impl FnOnce(&mut Machine, u64, QueueNo) -> R) -> Result<R> {
        let (out, ack) = self.core.shared.act(|state, now_us| {
            let out = state.machine.find_queue(model).map_or(none, |queue| op(&mut state.machine, now_us, queue));
            (out, state.ack())
        });
        committed(ack).await?;
        Ok(out)
    }
}

/// Says which commits SQLite is about to drop, and keeps a copy of the log that had
/// them: once it is opened, they are gone.
fn damaged_logs(folder: &Folder) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for (file, what) in [
        (folder.journal(), "jobs that were accepted, settled or cancelled"),
        (folder.metadata(), "routes, periodic tasks and webhooks that were changed"),
    ] {
        let log = wal::log_of(&file);
        let unreadable = |e: std::io::Error| {
            unavailable(folder.path(), &format!("holds a log that cannot be read: {e}; look at its disk"))
        };
        let Some(damage) = wal::damage(&log).map_err(&unreadable)? else { continue };
        let mut copy = log.clone().into_os_string();
        copy.push(".damaged");
        let kept = match std::fs::copy(&log, &copy) {
            Ok(_) => format!("a copy is kept as `{}`", copy.display()),
            Err(e) => format!("no copy could be kept: {e}"),
        };
        let lost = match damage {
            Damage::Header { bytes } => format!("its header is, so all of it is dropped, {bytes} bytes"),
            Damage::From { at, commits, kept } => {
                format!("at byte {at}: {kept} commits are read, {commits} or more behind it are dropped")
            }
        };
        let note = format!(
            "the write-ahead log `{}` is damaged, {lost}; {what} last before the last process ended may be lost or run again; {kept}; look at the disk",
            log.display()
        );
        log::error!("{note}");
        notes.push(note);
        // As SQLite would, but so that the next start does not find it again.
        wal::cut(&log, damage).map_err(unreadable)?;
    }
    Ok(notes)
}

/// Builds the machine as the last process left it, and counts a death for every
/// job that it was running.
fn restore(
    folder: &Folder,
    journal: &mut Journal,
    settings: &QueueSettings,
    ids: IdIssuer,
    now_us: u64,
) -> Result<Machine, JournalError> {
    let notes = |e: std::io::Error| JournalError::Other(format!("the notes of running jobs cannot be read: {e}"));
    let mut machine = Machine::new(settings.clone(), ids, now_us, RESIDENT_LIMIT);
    for queue in journal.queues()? {
        machine.restore_queue(queue);
    }
    journal.each_job(|row, job| machine.restore_job(row, job))?;
    for key in journal.keys()? {
        machine.restore_key(key);
    }
    machine.restore_row(journal.last_row()?);
    let running = folder.were_running().map_err(notes)?;
    for &row in &running {
        machine.count_death(now_us, row);
    }
    // The deaths are durable before the notes of them go.
    loop {
        let group = machine.take_group(now_us);
        if group.is_empty() {
            break;
        }
        journal.commit(&group, None)?;
        machine.committed(group);
    }
    folder.forget_running().map_err(notes)?;
    if !running.is_empty() {
        log::warn!(
            "the last process on `{}` ended with {} jobs running; they go back to their queues",
            folder.path().display(),
            running.len()
        );
    }
    Ok(machine)
}

#[async_trait]
impl Queue for SqliteQueue {
    fn settings(&self) -> &QueueSettings {
        &self.core.shared.settings
    }

    fn ids(&self) -> IdIssuer {
        self.core.shared.ids
    }

    fn client(&self) -> Arc<dyn QueueClient> {
        Arc::new(SqliteClient { core: Arc::clone(&self.core) })
    }

    fn metadata(&self) -> Arc<dyn MetadataStore> {
        self.metadata.clone()
    }

    async fn consumer(&self, model: &str, _worker: &str) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(SqliteConsumer::open(Arc::clone(&self.core), model)?))
    }

    async fn renewer(&self) -> Result<Box<dyn Renewer>> {
        Ok(Box::new(SqliteRenewer { core: Arc::clone(&self.core) }))
    }

    async fn get(&self, id: JobId) -> Result<Option<JobView>> {
        read::get(&self.core.shared, id).await
    }

    async fn input(&self, id: JobId) -> Result<Option<Bytes>> {
        read::input(&self.core.shared, id).await
    }

    async fn cancel(&self, id: JobId) -> Result<JobView> {
        let shared = &self.core.shared;
        let cancelled = shared.act(|state, now_us| state.machine.cancel(now_us, id).map(|()| state.ack()));
        let ended_before = match cancelled {
            Ok(ack) => committed(ack).await.map(|()| false)?,
            // What memory does not know may have ended long ago.
            Err(Error { code: ErrorCode::JobNotFound, .. }) => true,
            Err(error) => return Err(error),
        };
        match read::get(shared, id).await? {
            Some(view) if ended_before => Err(machine::already_finished(id, view.state)),
            Some(view) => Ok(view),
            None => Err(machine::not_found(id)),
        }
    }

    async fn list(&self, filter: &ListFilter, cursor: Option<&str>, limit: usize) -> Result<Page> {
        read::list(&self.core.shared, filter, cursor, limit).await
    }

    async fn counts(&self, model: &str) -> Result<Counts> {
        Ok(self.core.shared.act(|state, now_us| {
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
        let ack = self.core.shared.act(|state, _| {
            let queue = state.machine.queue(model);
            state.machine.set_paused(queue, paused);
            state.ack()
        });
        committed(ack).await
    }

    async fn register_worker(&self, info: &WorkerInfo, ttl: Duration) -> Result<()> {
        self.core.shared.registry.register(info, ttl);
        Ok(())
    }

    async fn deregister_worker(&self, id: &str) -> Result<()> {
        self.core.shared.registry.deregister(id);
        Ok(())
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        Ok(self.core.shared.registry.workers())
    }

    async fn registry_changed(&self) {
        self.core.shared.registry.changed().await;
    }

    async fn command(&self, command: &WorkerCommand) -> Result<()> {
        self.core.shared.registry.command(command);
        Ok(())
    }

    async fn next_command(&self) -> WorkerCommand {
        self.core.shared.registry.next_command().await
    }

    fn max_value_bytes(&self) -> usize {
        self.core.shared.value_max
    }

    async fn health(&self) -> Result<StoreHealth> {
        let shared = &self.core.shared;
        if let Some(down) = &shared.state.lock().down {
            return Err(down.clone());
        }
        Ok(StoreHealth {
            store: format!("sqlite {} in {}", rusqlite::version(), shared.folder.path().display()),
            warnings: shared.notes.clone(),
        })
    }

    fn condition(&self) -> Condition {
        self.core.shared.refusals.watch()
    }

    fn folder(&self) -> Option<&Path> {
        Some(self.core.shared.folder.path())
    }
}
