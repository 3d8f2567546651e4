//! Sessions: one OS thread each, with its own runtime, consumer and apalis worker.
//! Inference runs inline on that thread.
//!
//! Invariants:
//! - A session ends only when it is drained: an apalis worker that ended for another
//!   reason is built anew.
//! - After a drain every lease that the session held is settled or given back.

use std::convert::Infallible;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use apalis::layers::WorkerBuilderExt;
use apalis_core::error::WorkerError;
use apalis_core::worker::builder::WorkerBuilder;
use nobat_core::retry::Backoff;
use nobat_queue::Queue;
use nobat_queue::backend::{LeaseBackend, LeaseTracker};
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::watch;

use crate::batch::queue::{BatchQueue, Work};
use crate::batch::row_pool::RowPool;
use crate::chain::site::Site;
use crate::engine::Engine;
use crate::model::{Model, Version};
use crate::run::executor::Executor;

/// Pauses before a session that stopped starts again.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A session's engines. Adding one never waits for a batch that runs.
pub(crate) struct SessionEngines {
    /// Locked by the session's thread while a batch runs.
    executor: Mutex<Executor>,
    /// Added since the last batch began; moved to the executor before the next one.
    added: Mutex<Vec<(Arc<Version>, Box<dyn Engine>)>>,
}

impl SessionEngines {
    /// Adds a version's engine for the batches that are planned from now on.
    pub(crate) fn add(&self, version: Arc<Version>, engine: Box<dyn Engine>) {
        self.added.lock().push((version, engine));
    }

    /// Drops a version's engine; false, and nothing is done, when a batch runs for
    /// longer than `patience`. The engine is dropped after the locks are released.
    pub(crate) fn drop_engine(&self, version: &Arc<Version>, patience: Duration) -> bool {
        let taken = self.executor.try_lock_for(patience).map(|mut executor| {
            self.take_added(&mut executor);
            executor.remove(version)
        });
        taken.is_some()
    }

    fn run(&self, work: Work) {
        let mut executor = self.executor.lock();
        self.take_added(&mut executor);
        executor.run(work);
    }

    fn take_added(&self, executor: &mut Executor) {
        self.added.lock().drain(..).for_each(|(version, engine)| executor.put(version, engine));
    }
}

pub(crate) struct Session {
    pub(crate) engines: Arc<SessionEngines>,
    drain: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Session {
    /// Starts a thread that leases `model`'s jobs in the name of `worker`; `pool` holds the
    /// rows of a transformed model, under the same tracker; `site` is for versions that are chains.
    pub(crate) fn start(
        queue: Arc<dyn Queue>,
        model: Arc<Model>,
        worker: SmolStr,
        number: u32,
        (tracker, pool): (Arc<LeaseTracker>, Option<Arc<RowPool>>),
        site: Site,
        executor: Executor,
    ) -> std::io::Result<Session> {
        let engines = Arc::new(SessionEngines { executor: Mutex::new(executor), added: Mutex::default() });
        let (drain, draining) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let session = SessionThread {
            queue,
            model,
            worker,
            number,
            tracker,
            pool,
            site: Arc::new(site),
            engines: Arc::clone(&engines),
        };
        let name = format!("nobat-run-{number}");
        let thread = std::thread::Builder::new().name(name).spawn(move || runtime.block_on(session.serve(draining)))?;
        Ok(Session { engines, drain, thread: Some(thread) })
    }

    /// Asks the thread to finish its batch, give back the rest and end.
    pub(crate) fn drain(&self) {
        self.drain.send_replace(true);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the drained thread's end.
    pub(crate) fn join(mut self) {
        self.drain();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("a session's thread panicked; its leases expire by themselves");
        }
    }
}

/// Drains sessions, all at once, and waits for their ends.
pub(crate) fn drain_all(sessions: Vec<Session>) {
    sessions.iter().for_each(Session::drain);
    sessions.into_iter().for_each(Session::join);
}

/// What the session's thread needs.
struct SessionThread {
    queue: Arc<dyn Queue>,
    model: Arc<Model>,
    worker: SmolStr,
    number: u32,
    tracker: Arc<LeaseTracker>,
    pool: Option<Arc<RowPool>>,
    site: Arc<Site>,
    engines: Arc<SessionEngines>,
}

impl SessionThread {
    async fn serve(self, mut draining: watch::Receiver<bool>) {
        let mut backoff = Backoff::new(SHORTEST_PAUSE, LONGEST_PAUSE);
        loop {
            let consumer = tokio::select! {
                biased;
                () = drained(&mut draining) => return,
                consumer = self.queue.consumer(&self.model.name, &self.worker) => consumer,
            };
            let outcome = match consumer {
                Ok(consumer) => {
                    backoff.reset();
                    let batches =
                        BatchQueue::new(Arc::clone(&self.model), Arc::clone(&self.tracker), self.pool.clone())
                            .with_chains(Arc::clone(&self.site));
                    let backend = LeaseBackend::new(consumer, batches, Arc::clone(&self.tracker));
                    self.run(backend, draining.clone()).await.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = outcome {
                let pause = backoff.pause();
                let (model, retry_ms) = (self.model.name.as_str(), pause.as_millis() as u64);
                log::warn!(model, session = self.number, retry_ms; "a session stopped and starts again: {reason}");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = drained(&mut draining) => return,
                }
            }
        }
    }

    async fn run(
        &self,
        backend: LeaseBackend<BatchQueue>,
        mut draining: watch::Receiver<bool>,
    ) -> Result<(), WorkerError> {
        let engines = Arc::clone(&self.engines);
        WorkerBuilder::new(&*format!("{}/{}#{}", self.worker, self.model.name, self.number))
            .backend(backend)
            .catch_panic()
            // Runs when the future is polled, where the panic layer watches.
            .build(move |work: Work| {
                let engines = Arc::clone(&engines);
                async move {
                    engines.run(work);
                    Ok::<(), Infallible>(())
                }
            })
            .run_until(async move {
                drained(&mut draining).await;
                Ok::<(), WorkerError>(())
            })
            .await
    }
}

/// Waits for the drain. An error means that the [`Session`] was dropped, which is a drain too.
async fn drained(draining: &mut watch::Receiver<bool>) {
    let _ = draining.wait_for(|&drain| drain).await;
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use nobat_queue::QueueSettings;
    use nobat_queue::sqlite::SqliteQueue;

    use super::*;
    use crate::watchdog::Watchdog;

    #[test]
    fn a_session_that_nobody_holds_ends() {
        let data = tempfile::tempdir().expect("a folder");
        let queue = SqliteQueue::open(data.path(), QueueSettings::default()).expect("a queue");
        let tracker = Arc::new(LeaseTracker::default());
        let watchdog = Watchdog::start().expect("a thread");
        let executor = Executor::new("w".into(), Arc::clone(&tracker), watchdog.clone(), 1 << 20);
        let site = Site::new(queue.clone(), Arc::new(|_| None), watchdog, "w".into(), 1 << 20);
        let model = Arc::new(Model::new("m".into()));
        let session = Session::start(queue, model, "w".into(), 0, (tracker, None), site, executor).expect("a thread");
        let Session { drain, thread, .. } = session;
        drop(drain);
        let (thread, give_up) = (thread.expect("a thread"), Instant::now() + Duration::from_secs(30));
        while !thread.is_finished() {
            assert!(Instant::now() < give_up, "it runs on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
