//! What carries a run from the scheduler that saw its tick to the one that
//! carries it out: apalis-redis between processes, apalis' in-memory backend
//! (with the run durable in the ledger) on the embedded store.
//!
//! apalis-redis 1.0 stays within its guard-rails: one poll a second, one task a
//! fetch, a heartbeat every 5 s and three missed ones, no events, no results
//! kept, an idempotency ttl always, a new worker name per start, finished tasks
//! vacuumed, and never more than a few hundred runs waiting.

use std::sync::Arc;
use std::time::Duration;

use apalis_core::backend::Vacuum;
use apalis_core::backend::ext::BackendExt;
use apalis_core::backend::memory::{MemorySink, MemoryStorage, MemoryStorageError};
use apalis_core::error::BoxDynError;
use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::task_id::{RandomId, TaskId};
use apalis_core::worker::builder::WorkerBuilder;
use apalis_redis::{Config, ConnectionManager, RedisStorage, queries};
use futures::channel::mpsc;
use futures::future::BoxFuture;
use futures::{Sink, SinkExt, StreamExt};
use nobat_core::{Error, ErrorCode, Result};
use nobat_queue::Ledger;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use tokio::sync::{Mutex, watch};

/// How long a key is remembered: longer than any scheduler looks back.
const KEY_TTL: Duration = Duration::from_secs(7 * 86_400);
const POLL: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_secs(5);
const MISSED_HEARTBEATS: usize = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Runs on the embedded store, by key; a finished one stays as [`DONE`].
const RUNS: &str = "periodic-run";
const DONE: &[u8] = b"done";
/// Unfinished runs that a start takes up again.
const MOST_RUNS: usize = 10_000;

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

type Intake = mpsc::UnboundedSender<Task<RunRequest>>;

/// Carries out one run; called by [`Carrier::work`].
pub type Handler = Arc<dyn Fn(RunRequest) -> BoxFuture<'static, ()> + Send + Sync>;

/// The way of runs between schedulers. Cheap to clone.
#[derive(Clone)]
pub enum Carrier {
    /// Between processes.
    Redis(RedisCarrier),
    /// In one process.
    Embedded(EmbeddedCarrier),
}

/// See [`Carrier::redis`].
#[derive(Clone)]
pub struct RedisCarrier {
    connection: ConnectionManager,
    config: Config,
}

/// See [`Carrier::embedded`].
#[derive(Clone)]
pub struct EmbeddedCarrier {
    ledger: Arc<dyn Ledger>,
    /// The running worker's intake; a new one with each start. The channel itself
    /// and not apalis' sink over it: that one loses a wake-up, or panics, when two
    /// threads use it at the same time.
    intake: Arc<Mutex<Option<Intake>>>,
}

impl Carrier {
    /// A carrier over apalis-redis under a key prefix.
    ///
    /// # Errors
    /// `queue_unavailable`; `invalid_parameter` for a URL that is none.
    pub async fn redis(url: &str, prefix: &str) -> Result<Carrier> {
        let connection = apalis_redis::connect(url).await.map_err(|error| unavailable(&error))?;
        let config = Config::default()
            // One slot in a cluster: the queue's name is the tag of its keys.
            .queue(format!("{prefix}{{:}}periodic"))
            .batch_size(1)
            .heartbeat_interval(HEARTBEAT)
            .missed_heartbeats(MISSED_HEARTBEATS)
            .emit_events(false)
            .persist_results(false)
            .idempotency_ttl(Some(KEY_TTL));
        Ok(Carrier::Redis(RedisCarrier { connection, config }))
    }

    /// A carrier in this process, over its ledger.
    pub fn embedded(ledger: Arc<dyn Ledger>) -> Carrier {
        Carrier::Embedded(EmbeddedCarrier { ledger, intake: Arc::default() })
    }

    /// Takes a run; `false` when its key was taken before. Durable when it returns.
    ///
    /// # Errors
    /// `queue_unavailable`; asking again is safe.
    pub async fn push(&self, run: &RunRequest) -> Result<bool> {
        let json = serde_json::to_vec(run)
            .map_err(|error| Error::new(ErrorCode::Internal, format!("a run cannot be written: {error}")))?;
        match self {
            Carrier::Redis(carrier) => {
                let task = TaskBuilder::new(json).idempotency_key(&run.key).build();
                let mut connection = carrier.connection.clone();
                let (ready, scheduled) = queries::push_tasks(&mut connection, &carrier.config, &[task])
                    .await
                    .map_err(|error| unavailable(&error))?;
                Ok(ready + scheduled > 0)
            }
            Carrier::Embedded(carrier) => {
                let intake = carrier.intake.lock().await;
                let new = carrier.ledger.add_timer(RUNS, &run.key, &json, KEY_TTL).await?;
                if let (true, Some(intake)) = (new, intake.as_ref()) {
                    // A worker that just ended reads the run from the ledger when it starts again.
                    let _ = intake.unbounded_send(task(run.clone()));
                }
                Ok(new)
            }
        }
    }

    /// Carries runs out until `stop` is true, starting again whatever ends a
    /// worker. A run that panics ends its own task only. An apalis worker's future
    /// is not provably `Send`: block a thread on this.
    pub async fn work(self, name: String, handler: Handler, mut stop: watch::Receiver<bool>) {
        let mut pause = FIRST_PAUSE;
        for start in 0usize.. {
            let began = tokio::time::Instant::now();
            let outcome = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                outcome = self.clone().work_once(format!("{name}-{start}"), handler.clone()) => outcome,
            };
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            let why = outcome.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
            log::warn!(retry_ms = pause.as_millis() as u64; "periodic: the worker starts again: {why}");
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn work_once(self, name: String, handler: Handler) -> Result<(), BoxDynError> {
        match self {
            Carrier::Redis(carrier) => carrier.work_once(name, handler).await,
            Carrier::Embedded(carrier) => carrier.work_once(name, handler).await,
        }
    }

    /// Forgets runs that finished more than `keep` ago; how many.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn vacuum(&self, keep: Duration) -> Result<usize> {
        match self {
            Carrier::Redis(carrier) => {
                let mut storage: RedisStorage<RunRequest> =
                    RedisStorage::new(carrier.connection.clone()).with_config(carrier.config.clone());
                storage.vacuum_before(keep).await.map_err(|error| unavailable(&error))
            }
            Carrier::Embedded(carrier) => {
                let mut forgotten = 0;
                for mark in carrier.ledger.take_due(RUNS, MOST_RUNS, Duration::from_secs(60)).await? {
                    if mark.value == DONE {
                        forgotten += usize::from(carrier.ledger.remove_timer(RUNS, &mark.key).await?);
                    }
                }
                Ok(forgotten)
            }
        }
    }
}

impl RedisCarrier {
    async fn work_once(self, name: String, handler: Handler) -> Result<(), BoxDynError> {
        let storage: RedisStorage<RunRequest> = RedisStorage::new(self.connection).with_config(self.config);
        let worker = WorkerBuilder::new(name)
            .backend(storage.poll_with_interval(POLL))
            .build(move |run: RunRequest| carry_out(handler.clone(), run));
        worker.run().await?;
        Ok(())
    }
}

impl EmbeddedCarrier {
    async fn work_once(self, name: String, handler: Handler) -> Result<(), BoxDynError> {
        let (intake, receiver) = mpsc::unbounded();
        let sink: Box<dyn Sink<_, Error = MemoryStorageError> + Send + Sync + Unpin> =
            Box::new(intake.clone().sink_map_err(MemoryStorageError::from));
        // Only the worker touches it; see `intake`.
        let sink = MemorySink::new(Arc::new(futures::lock::Mutex::new(sink)));
        {
            // Held until what an earlier worker left is in: a run that is
            // pushed meanwhile is either among it or comes after it.
            let mut current = self.intake.lock().await;
            for run in self.unfinished().await? {
                intake.unbounded_send(task(run))?;
            }
            *current = Some(intake);
        }
        let ledger = self.ledger;
        let worker = WorkerBuilder::new(name).backend(MemoryStorage::new_with(sink, receiver.boxed())).build(
            move |run: RunRequest| {
                let (handler, ledger) = (handler.clone(), ledger.clone());
                async move {
                    let key = run.key.clone();
                    carry_out(handler, run).await?;
                    // Stays as a mark, so that its tick is never taken again.
                    ledger.move_timer(RUNS, &key, DONE, KEY_TTL).await?;
                    Ok::<(), BoxDynError>(())
                }
            },
        );
        worker.run().await?;
        Ok(())
    }

    async fn unfinished(&self) -> Result<Vec<RunRequest>> {
        let runs = self.ledger.timers(RUNS, MOST_RUNS).await?;
        Ok(runs.iter().filter_map(|(run, _)| serde_json::from_slice(&run.value).ok()).collect())
    }
}

/// A run as apalis' in-memory backend takes it.
fn task(run: RunRequest) -> Task<RunRequest> {
    TaskBuilder::new(run).task_id(TaskId::from_string(RandomId::default())).build()
}

/// On a task of its own: a run that takes long never holds up a heartbeat.
async fn carry_out(handler: Handler, run: RunRequest) -> Result<(), BoxDynError> {
    tokio::spawn(handler(run)).await.map_err(|error| format!("the run ended early: {error}").into())
}

fn unavailable(error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorCode::QueueUnavailable, format!("periodic tasks cannot reach redis: {error}"))
        .retry_after(Duration::from_secs(1))
}
