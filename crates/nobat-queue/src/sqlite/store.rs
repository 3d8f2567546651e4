//! What the threads of one process share: the machine under its lock, who waits for
//! what, and the way to the writer.

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nobat_core::job::{JobView, NewJob};
use nobat_core::{Error, IdIssuer, JobId, Result};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

use super::clock::StoreClock;
use super::folder::{Folder, unavailable};
use super::journal::{JournalError, JournalReader};
use super::machine::{Commit, ConsumerNo, Enqueued, Machine, Row};
use super::recent::Recent;
use super::registry::WorkerRegistry;
use crate::api::{QueueSettings, Refusals};
use crate::errors::closing;

/// What bounds a value, for whoever reads why one was refused.
pub(super) const VALUE_LIMIT: &str = "SQLite: a row of 1 GB";

/// Log lines about whether jobs are taken are this far apart at least.
const LOG_EVERY_US: u64 = 2_000_000;

/// Keeps the threads alive for as long as anybody uses the queue.
pub(super) struct StoreHandle {
    pub(super) store: Arc<EmbeddedStore>,
    pub(super) threads: Vec<JoinHandle<()>>,
}

impl Deref for StoreHandle {
    type Target = Arc<EmbeddedStore>;

    fn deref(&self) -> &Arc<EmbeddedStore> {
        &self.store
    }
}

impl Drop for StoreHandle {
    fn drop(&mut self) {
        self.state.lock().stop = true;
        self.work.notify_one();
        self.ended.notify_one();
        for thread in self.threads.drain(..) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                log::error!("the queue's thread `{name}` panicked");
            }
        }
    }
}

/// One embedded queue.
pub(super) struct EmbeddedStore {
    pub(super) folder: Folder,
    pub(super) settings: QueueSettings,
    pub(super) ids: IdIssuer,
    pub(super) clock: StoreClock,
    /// A plain mutex, never held over an await, a file access or a commit:
    /// every section is a few microseconds of tree work. Held while the clock is
    /// read, so that time never goes back between two transitions.
    pub(super) state: Mutex<StoreState>,
    /// Wakes the writer.
    pub(super) work: Condvar,
    /// Wakes the disk watchdog at the end.
    pub(super) ended: Condvar,
    /// What readiness sees of [`StoreState::down`].
    pub(super) refusals: Refusals<()>,
    /// What a start found out and an operator should know.
    pub(super) notes: Vec<String>,
    pub(super) registry: WorkerRegistry,
    /// Most bytes of one value.
    pub(super) value_max: usize,
    readers: Mutex<Vec<JournalReader>>,
}

/// What the lock guards.
pub(super) struct StoreState {
    pub(super) machine: Machine,
    pub(super) waiters: HashMap<Row, Vec<Waiter>>,
    pub(super) acks: Acks,
    pub(super) wakers: HashMap<ConsumerNo, Arc<Notify>>,
    pub(super) recent: Recent,
    pub(super) writer: WriterState,
    /// Why the journal cannot be written at present.
    pub(super) down: Option<Error>,
    /// When the commit that is under way began.
    pub(super) committing_us: Option<u64>,
    /// When it was last logged whether jobs are taken, and the changes since.
    logged_us: u64,
    unlogged: u32,
    pub(super) stop: bool,
}

/// Who waits for a job's end.
pub(super) struct Waiter {
    pub(super) sender: oneshot::Sender<Result<JobView>>,
    /// Its own caller, to whom the answer is everything: told at once. Others are
    /// told with the commit.
    caller: bool,
}

/// What the writer thread is doing.
pub(super) enum WriterState {
    /// Committing, or about to look for work.
    Busy,
    /// Asleep until there is work, or until this time.
    Asleep { until_us: u64 },
}

impl StoreState {
    fn new(machine: Machine) -> StoreState {
        StoreState {
            machine,
            waiters: HashMap::new(),
            acks: Acks::default(),
            wakers: HashMap::new(),
            recent: Recent::default(),
            writer: WriterState::Busy,
            down: None,
            committing_us: None,
            logged_us: 0,
            unlogged: 0,
            stop: false,
        }
    }

    /// Accepts a job, unless the journal is down or closed.
    pub(super) fn enqueue(&mut self, now_us: u64, job: NewJob, commit: Commit) -> Result<Enqueued> {
        if let Some(down) = &self.down {
            return Err(down.clone());
        }
        self.machine.enqueue(now_us, job, rand::random(), commit)
    }

    /// Waits for the commit of everything done so far.
    pub(super) fn ack(&mut self) -> oneshot::Receiver<Result<()>> {
        let mark = self.machine.last_mark();
        self.acks.wait_for(mark)
    }

    /// Waits for a job's end; `caller`: to be told before it is committed.
    pub(super) fn wait_for(&mut self, id: JobId, caller: bool) -> oneshot::Receiver<Result<JobView>> {
        let (sender, receiver) = oneshot::channel();
        self.waiters.entry(id.locator).or_default().push(Waiter { sender, caller });
        receiver
    }

    /// The caller of a job that has just been settled, and its answer.
    pub(super) fn take_caller(&mut self, id: JobId) -> Option<(oneshot::Sender<Result<JobView>>, JobView)> {
        let waiters = self.waiters.get_mut(&id.locator)?;
        let at = waiters.iter().position(|waiter| waiter.caller)?;
        let view = self.machine.view(id).filter(|view| view.state.is_terminal())?;
        let caller = waiters.swap_remove(at);
        if waiters.is_empty() {
            self.waiters.remove(&id.locator);
        }
        Some((caller.sender, view))
    }

    /// Forgets waiters of `row` that have left; whether any are there still.
    pub(super) fn drop_waiters(&mut self, row: Row) -> bool {
        let Some(waiters) = self.waiters.get_mut(&row) else { return false };
        waiters.retain(|waiter| !waiter.sender.is_closed());
        let awaited = !waiters.is_empty();
        if !awaited {
            self.waiters.remove(&row);
        }
        awaited
    }

    /// The wakers of the consumers that have cause to wake.
    pub(super) fn take_wakers(&mut self) -> Vec<Arc<Notify>> {
        let wakes = self.machine.take_wakes();
        wakes.iter().filter_map(|consumer| self.wakers.get(consumer).cloned()).collect()
    }
}

impl EmbeddedStore {
    pub(super) fn new(
        folder: Folder,
        settings: QueueSettings,
        ids: IdIssuer,
        clock: StoreClock,
        machine: Machine,
        notes: Vec<String>,
        value_max: usize,
    ) -> EmbeddedStore {
        EmbeddedStore {
            folder,
            settings,
            ids,
            clock,
            state: Mutex::new(StoreState::new(machine)),
            work: Condvar::new(),
            ended: Condvar::new(),
            refusals: Refusals::default(),
            notes,
            registry: WorkerRegistry::default(),
            value_max,
            readers: Mutex::default(),
        }
    }

    /// Does one thing to the machine, then wakes whom it concerns.
    pub(super) fn act<R>(&self, op: impl FnOnce(&mut StoreState, u64) -> R) -> R {
        let mut state = self.state.lock();
        let now_us = self.clock.now_us();
        state.machine.advance(now_us);
        let out = op(&mut state, now_us);
        let wakers = state.take_wakers();
        let rouse = match state.writer {
            WriterState::Busy => false,
            WriterState::Asleep { until_us } => {
                (state.machine.has_marks() && state.down.is_none())
                    || state.machine.next_event().is_some_and(|at| at < until_us)
            }
        };
        if rouse {
            state.writer = WriterState::Busy;
        }
        drop(state);
        wakers.iter().for_each(|waker| waker.notify_one());
        if rouse {
            self.work.notify_one();
        }
        out
    }

    /// Takes no more jobs, until a commit succeeds; logged once.
    pub(super) fn close(&self, state: &mut StoreState, why: &str) -> Error {
        let error = unavailable(self.folder.path(), why).retry_after(Duration::from_secs(1));
        self.refusals.raise((), error.clone());
        if state.down.replace(error.clone()).is_none() {
            state.unlogged += 1;
            self.log_changes(state);
        }
        error
    }

    /// Takes jobs again.
    pub(super) fn reopen(&self, state: &mut StoreState) {
        if state.down.take().is_some() {
            self.refusals.clear(&());
            state.unlogged += 1;
            self.log_changes(state);
        }
    }

    /// Logs whether jobs are taken, if that has changed: not each time, on a disk on the
    /// brink of full it does several times a second.
    pub(super) fn log_changes(&self, state: &mut StoreState) {
        let now_us = self.clock.now_us();
        if state.unlogged == 0 || now_us < state.logged_us + LOG_EVERY_US {
            return;
        }
        state.logged_us = now_us;
        let more = match std::mem::take(&mut state.unlogged) {
            1 => String::new(),
            count => format!(" ({count} changes since the last line)"),
        };
        match &state.down {
            Some(error) => log::error!("no job is accepted: {error}{more}"),
            None => log::info!("the data folder `{}` can be written again{more}", self.folder.path().display()),
        }
    }

    /// Reads the journal on this thread, with a connection of the pool.
    pub(super) fn read<R>(&self, op: impl FnOnce(&JournalReader) -> Result<R, JournalError>) -> Result<R> {
        let failed = |e: JournalError| unavailable(self.folder.path(), &format!("cannot be read: {e}"));
        let pooled = self.readers.lock().pop();
        let reader = match pooled {
            Some(reader) => reader,
            None => JournalReader::open(&self.folder.journal()).map_err(failed)?,
        };
        let out = op(&reader).map_err(failed);
        self.readers.lock().push(reader);
        out
    }
}

/// Callers that wait for a commit, in the order of what they wait for.
#[derive(Default)]
pub(super) struct Acks {
    waiting: VecDeque<(u64, oneshot::Sender<Result<()>>)>,
    committed: u64,
}

impl Acks {
    fn wait_for(&mut self, mark: u64) -> oneshot::Receiver<Result<()>> {
        let (sender, receiver) = oneshot::channel();
        if mark <= self.committed {
            // The receiver is at hand, so this cannot fail.
            let _ = sender.send(Ok(()));
        } else {
            self.waiting.push_back((mark, sender));
        }
        receiver
    }

    /// Those who wait for marks up to `upto`; `durable` when these are committed.
    pub(super) fn take(&mut self, upto: u64, durable: bool) -> Vec<oneshot::Sender<Result<()>>> {
        if durable {
            self.committed = upto;
        }
        let count = self.waiting.iter().take_while(|(mark, _)| *mark <= upto).count();
        self.waiting.drain(..count).map(|(_, sender)| sender).collect()
    }
}

/// Waits for a commit.
pub(super) async fn committed(ack: oneshot::Receiver<Result<()>>) -> Result<()> {
    ack.await.unwrap_or_else(|_| Err(closing()))
}
