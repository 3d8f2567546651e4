//! What carries a run from the scheduler that saw its tick to the one that
//! carries it out. The run is a timer in the ledger. Around one plain Redis server
//! apalis-redis carries it between processes (`redis`); around a cluster, Sentinel
//! and the embedded store the timer itself does, and apalis' in-memory worker
//! carries out what a process has taken.
//!
//! ```text
//! push -> timer ─┬─ apalis-redis ─────────────────────────┬─> its key taken -> the handler
//!                └─ due -> taken -> apalis' memory worker ┘      └─ renewed ────────┘ -> mark
//! ```
//!
//! Invariants:
//! - Time is the store's: a host whose clock is wrong neither delays a run nor
//!   carries out one that another process is carrying out.
//! - A key is new once, in the very call that stores the run. A run is carried out by
//!   whoever swaps its timer's value for one of their own, whichever way it came, and
//!   the key stays for [`KEPT`] after the run has ended.
//! - A run whose process died is due again when its lease ends: at least once. One
//!   that is stopped in good order is due again at once.

mod redis;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apalis_core::backend::memory::{MemorySink, MemoryStorage, MemoryStorageError};
use apalis_core::error::BoxDynError;
use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::task_id::{RandomId, TaskId};
use apalis_core::worker::builder::WorkerBuilder;
use bytes::Bytes;
use futures::channel::mpsc;
use futures::future::BoxFuture;
use futures::{Sink, SinkExt, StreamExt};
use nobat_core::{Error, ErrorCode, Result};
use nobat_queue::Ledger;
use nobat_queue::ledger::Due;
use nobat_queue::redis::single_server;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::scheduler::unique;

/// How long a key is remembered after its run: longer than a tick can be seen
/// again, by another scheduler or after a clock was set back.
const KEPT: Duration = Duration::from_secs(86_400);
/// What a `vacuum` leaves of it at least.
const KEPT_LEAST: Duration = Duration::from_secs(3_600);
/// How long a run is its taker's, and how often that is renewed.
const LEASE: Duration = Duration::from_secs(15);
const RENEW: Duration = Duration::from_secs(5);
/// Looked at without being woken: a run that another process pushed.
const POLL: Duration = Duration::from_secs(1);
/// Pause after the ledger could not be reached.
const AWAY: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The ledger's set of runs, by key; one that has ended stays as [`DONE`].
const RUNS: &str = "periodic-run";
const DONE: &[u8] = b"done";
/// Runs taken in one go, and most that one process carries out at once.
const AT_ONCE: usize = 32;
const MOST_RUNNING: usize = 1_000;
/// Marks looked at by one `vacuum`.
const MOST_MARKS: usize = 100_000;

/// One run to carry out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// Which task.
    pub task: SmolStr,
    /// The tick, or the instant of the request, Unix seconds.
    pub tick: i64,
    /// Whether somebody asked for it outside the schedule.
    pub manual: bool,
    /// The same for every scheduler that sees this tick.
    pub key: String,
}

impl RunRequest {
    /// As it is stored until somebody carries it out.
    fn to_json(&self) -> Result<Vec<u8>> {
        json(self)
    }

    /// As it is stored while one carrier, and no other, carries it out.
    fn to_held(&self) -> Result<Vec<u8>> {
        json(&Held { run: self, holder: unique() })
    }
}

/// Reads as the run that it is.
#[derive(Serialize)]
struct Held<'a> {
    #[serde(flatten)]
    run: &'a RunRequest,
    holder: String,
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::new(ErrorCode::Internal, format!("a run cannot be written: {error}")))
}

/// Carries out one run; called by [`Carrier::work`].
pub type Handler = Arc<dyn Fn(RunRequest) -> BoxFuture<'static, ()> + Send + Sync>;

/// A run whose timer fell due, and what stood in it.
#[derive(Clone)]
struct Taken {
    run: RunRequest,
    value: Bytes,
}

type Intake = mpsc::UnboundedSender<Task<Taken>>;

/// The way of runs between schedulers. Cheap to clone.
#[derive(Clone)]
pub struct Carrier {
    ledger: Arc<dyn Ledger>,
    shared: Arc<Shared>,
    way: Way,
}

#[derive(Clone)]
enum Way {
    /// The ledger's timers alone.
    Ledger,
    /// apalis-redis, and the timers for what it does not carry.
    Redis(redis::Server),
}

#[derive(Default)]
struct Shared {
    /// Runs this process is carrying out, by key.
    // Held for a look-up.
    running: parking_lot::Mutex<HashMap<String, Running>>,
    /// Rung when this process pushed a run.
    pushed: Notify,
}

struct Running {
    untaken: Vec<u8>,
    held: Vec<u8>,
    task: AbortHandle,
}

impl Carrier {
    /// A carrier over a deployment's ledger alone.
    pub fn new(ledger: Arc<dyn Ledger>) -> Carrier {
        Carrier { ledger, shared: Arc::default(), way: Way::Ledger }
    }

    /// The carrier for a deployment around the Redis at `url`, or none.
    pub fn around(ledger: Arc<dyn Ledger>, url: &str, prefix: &str) -> Carrier {
        let way = single_server(url).map_or(Way::Ledger, |url| Way::Redis(redis::Server::new(url, prefix)));
        Carrier { way, ..Carrier::new(ledger) }
    }

    /// Takes a run; `false` when its key was taken before. Durable when it returns.
    ///
    /// # Errors
    /// `queue_unavailable`; asking again is safe.
    pub async fn push(&self, run: &RunRequest) -> Result<bool> {
        let json = run.to_json()?;
        let server = match &self.way {
            Way::Redis(server) if redis::is_right(&*self.ledger).await? => Some(server),
            _ => None,
        };
        // Killed right after this, or without luck below: the timer carries it.
        let delay = if server.is_some() { redis::HANDOVER } else { Duration::ZERO };
        let new = self.ledger.add_timer(RUNS, &run.key, &json, delay).await?;
        match server {
            _ if !new => {}
            None => self.shared.pushed.notify_one(),
            Some(server) => {
                if let Err(error) = server.push(&run.key, json).await {
                    log::debug!("periodic: the ledger carries a run that apalis-redis did not take: {error}");
                }
            }
        }
        Ok(new)
    }

    /// Carries runs out until `stop` is true. A run that panics ends its own task
    /// only. An apalis worker's future is not provably `Send`: block a thread on this.
    pub async fn work(self, name: String, handler: Handler, stop: watch::Receiver<bool>) {
        let timers = self.keep_working(&Way::Ledger, &name, &handler, stop.clone());
        match &self.way {
            Way::Ledger => timers.await,
            way => {
                let name = format!("{name}-redis");
                futures::join!(timers, self.keep_working(way, &name, &handler, stop));
            }
        }
        self.give_back().await;
    }

    /// Starts a worker again whatever ends it; what it was carrying out goes on.
    async fn keep_working(&self, way: &Way, name: &str, handler: &Handler, mut stop: watch::Receiver<bool>) {
        let mut pause = FIRST_PAUSE;
        let mut said = String::new();
        for start in 0usize.. {
            let began = tokio::time::Instant::now();
            let name = format!("{name}-{start}");
            let work = async {
                match way {
                    Way::Ledger => self.work_once(name, handler).await,
                    Way::Redis(server) => server.work_once(name, self, handler).await,
                }
            };
            let outcome = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                outcome = work => outcome,
            };
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            let why = outcome.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
            // Said once: what lasts is one thing.
            let level = if why == said { log::Level::Debug } else { log::Level::Warn };
            log::log!(level, retry_ms = pause.as_millis() as u64; "periodic: the worker starts again: {why}");
            said = why;
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn work_once(&self, name: String, handler: &Handler) -> Result<(), BoxDynError> {
        let (intake, receiver) = mpsc::unbounded();
        // The worker takes from the channel; apalis' sink over it is nobody's.
        let sink: Box<dyn Sink<_, Error = MemoryStorageError> + Send + Sync + Unpin> =
            Box::new(intake.clone().sink_map_err(MemoryStorageError::from));
        let sink = MemorySink::new(Arc::new(futures::lock::Mutex::new(sink)));
        let (carrier, handler) = (self.clone(), handler.clone());
        let worker = WorkerBuilder::new(name).backend(MemoryStorage::new_with(sink, receiver.boxed())).build(
            move |Taken { run, value }: Taken| {
                let (carrier, handler) = (carrier.clone(), handler.clone());
                async move {
                    carrier.carry_out(handler, run, &value).await;
                    Ok::<(), BoxDynError>(())
                }
            },
        );
        tokio::select! {
            ended = worker.run() => Ok(ended?),
            error = self.feed(&intake) => Err(error),
        }
    }

    /// Takes due runs for as long as the worker lives; returns why it cannot.
    async fn feed(&self, intake: &Intake) -> BoxDynError {
        loop {
            let room = MOST_RUNNING.saturating_sub(self.shared.running.lock().len()).min(AT_ONCE);
            let taken = match self.ledger.take_due(RUNS, room, LEASE).await {
                Ok(taken) => taken,
                Err(error) => {
                    log::debug!("periodic: waiting for the ledger: {error}");
                    tokio::time::sleep(AWAY).await;
                    continue;
                }
            };
            let more = taken.len() == AT_ONCE;
            for due in taken {
                if let Err(error) = self.take(due, intake).await {
                    return error;
                }
            }
            if !more {
                let _ = tokio::time::timeout(POLL, self.shared.pushed.notified()).await;
            }
        }
    }

    async fn take(&self, due: Due, intake: &Intake) -> Result<(), BoxDynError> {
        let Ok(run) = serde_json::from_slice::<RunRequest>(&due.value) else {
            if due.value != DONE {
                log::warn!(run = due.key.as_str(); "periodic: dropping a run that cannot be read");
            }
            // A mark has been kept for long enough. If this fails it is due again.
            let _ = self.ledger.remove_timer(RUNS, &due.key).await;
            return Ok(());
        };
        // One of ours whose renewal came too late is renewed by having been taken.
        let is_ours = self.shared.running.lock().contains_key(&due.key);
        if !is_ours {
            let taken = Taken { run, value: due.value };
            intake.unbounded_send(TaskBuilder::new(taken).task_id(TaskId::from_string(RandomId::default())).build())?;
        }
        Ok(())
    }

    /// Carries a run out if its timer still holds `value`: nobody else has taken it,
    /// and it has not ended. Returns at its end; dropped before, the run goes on.
    async fn carry_out(&self, handler: Handler, run: RunRequest, value: &[u8]) {
        let (Ok(untaken), Ok(held)) = (run.to_json(), run.to_held()) else { return };
        match self.ledger.swap_timer(RUNS, &run.key, value, &held, LEASE).await {
            Ok(true) => {}
            Ok(false) => return log::debug!(run = run.key.as_str(); "periodic: a run is another's, or has ended"),
            // Its timer falls due again.
            Err(error) => return log::debug!(run = run.key.as_str(); "periodic: a run is taken later: {error}"),
        }
        let key = run.key.clone();
        let task = {
            let mut running = self.shared.running.lock();
            let task = tokio::spawn(self.clone().hold(handler, run, held.clone()));
            running.insert(key, Running { untaken, held, task: task.abort_handle() });
            task
        };
        let _ = task.await;
    }

    /// Runs `handler` and keeps the run's lease.
    async fn hold(self, handler: Handler, run: RunRequest, held: Vec<u8>) {
        // On a task of its own: a run that takes long, or panics, holds up nobody.
        let mut running = Aborted(tokio::spawn(handler(run.clone())));
        loop {
            tokio::select! {
                ended = &mut running.0 => {
                    if let Err(error) = ended {
                        log::error!(task = run.task.as_str(); "periodic: a run of `{}` ended early: {error}", run.task);
                    }
                    break;
                }
                () = tokio::time::sleep(RENEW) => {
                    if let Err(error) = self.ledger.swap_timer(RUNS, &run.key, &held, &held, LEASE).await {
                        log::debug!("periodic: a run's lease is renewed later: {error}");
                    }
                }
            }
        }
        // Stays as a mark, so that its tick is never taken again.
        while let Err(error) = self.ledger.swap_timer(RUNS, &run.key, &held, DONE, KEPT).await {
            log::debug!("periodic: the end of a run is written later: {error}");
            tokio::time::sleep(AWAY).await;
        }
        self.shared.running.lock().remove(&run.key);
    }

    /// Ends what is being carried out and makes it due at once, for another process.
    async fn give_back(&self) {
        let left = std::mem::take(&mut *self.shared.running.lock());
        for run in left.values() {
            run.task.abort();
        }
        for (key, run) in left {
            if let Err(error) = self.ledger.swap_timer(RUNS, &key, &run.held, &run.untaken, Duration::ZERO).await {
                log::debug!("periodic: the lease of a run that was stopped ends by itself: {error}");
                return;
            }
        }
    }

    /// Forgets the keys of runs that ended more than `keep` ago, an hour at least;
    /// how many. After a day they are forgotten without it.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn vacuum(&self, keep: Duration) -> Result<usize> {
        if let Way::Redis(server) = &self.way {
            server.vacuum(keep.max(KEPT_LEAST)).await?;
        }
        let mut forgotten = 0;
        for (mark, left) in self.ledger.timers(RUNS, MOST_MARKS).await? {
            if mark.value == DONE && KEPT.saturating_sub(left) >= keep.max(KEPT_LEAST) {
                forgotten += usize::from(self.ledger.remove_timer(RUNS, &mark.key).await?);
            }
        }
        Ok(forgotten)
    }
}

/// A task that ends with its owner.
struct Aborted(tokio::task::JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}
