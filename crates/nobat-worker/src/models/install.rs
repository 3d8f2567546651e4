//! Puts loaded versions into the sessions of a model, and drops the engines of
//! replaced ones once no job needs them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_queue::backend::LeaseTracker;
use smol_str::SmolStr;

use crate::batch::row_pool::RowPool;
use crate::chain::site::{FindModel, Site};
use crate::config::Sessions;
use crate::engine::Engine;
use crate::model::{Model, Table, Version};
use crate::run::executor::Executor;
use crate::run::session::{Session, SessionEngines, drain_all};
use crate::state::WorkerState;

/// After so long, a replaced version that is still needed is reported in the log.
const RETIRE_WARNING: Duration = Duration::from_secs(60);
/// How long to wait for a session to pause between two batches.
const PAUSE_WAIT: Duration = Duration::from_millis(5);

/// A version that loaded, with an engine for each session.
pub(crate) struct LoadedVersion {
    pub(crate) version: Arc<Version>,
    pub(crate) engines: Vec<Box<dyn Engine>>,
}

/// A replaced version whose engines are still open.
struct RetiredVersion {
    model: SmolStr,
    version: Arc<Version>,
    /// The sessions that still have an engine of it.
    sessions: Vec<Arc<SessionEngines>>,
    since: Instant,
    warned: bool,
}

/// Swaps versions and sessions, and keeps what was replaced until it is no longer used.
pub(crate) struct Installer {
    state: Arc<WorkerState>,
    /// Replaced versions that planned jobs may still need.
    retired: Vec<RetiredVersion>,
    /// Drained sessions that still finish a batch.
    draining: Vec<Session>,
}

impl Installer {
    pub(crate) fn new(state: Arc<WorkerState>) -> Installer {
        Installer { state, retired: Vec::new(), draining: Vec::new() }
    }

    /// Whether nothing waits to be dropped.
    pub(crate) fn is_idle(&self) -> bool {
        self.retired.is_empty() && self.draining.is_empty()
    }

    /// Adds versions to the sessions that run, then replaces the model's table.
    pub(crate) fn swap(&mut self, model: &Arc<Model>, table: Table, loaded: Vec<LoadedVersion>) {
        let old = model.table();
        let sessions: Vec<Arc<SessionEngines>> = {
            let served = self.state.served.lock();
            let sessions = served.get(&model.name).map_or(&[][..], |served| &served.sessions);
            sessions.iter().map(|session| Arc::clone(&session.engines)).collect()
        };
        for LoadedVersion { version, engines } in loaded {
            for (session, engine) in sessions.iter().zip(engines) {
                session.add(Arc::clone(&version), engine);
            }
        }
        let stays = |own: &&Arc<Version>| table.versions.iter().any(|now| Arc::ptr_eq(now, own));
        self.retired.extend(old.versions.iter().filter(|own| !stays(own)).map(|own| RetiredVersion {
            model: model.name.clone(),
            version: Arc::clone(own),
            sessions: sessions.clone(),
            since: Instant::now(),
            warned: false,
        }));
        model.replace(table);
    }

    /// Starts sessions of these versions in the place of those that run, which finish
    /// what they hold; a long run of theirs holds up no other model.
    pub(crate) fn restart(
        &mut self,
        name: &SmolStr,
        table: Table,
        loaded: Vec<LoadedVersion>,
        setting: Sessions,
    ) -> Result<(), String> {
        // A model of its own: the old sessions have no engines of this table's versions.
        let model = match self.state.served.lock().get(name) {
            Some(served) => Arc::new(served.model.renewed()),
            None => Arc::new(Model::new(name.clone())),
        };
        model.replace(table);
        let started = self.start(&model, loaded)?;
        let replaced = {
            let mut served = self.state.served.lock();
            match served.get_mut(name) {
                // A drain takes the sessions under the same lock; sessions put here later would outlive it.
                Some(served) if !self.state.is_draining() => {
                    (served.model, served.sessions_setting) = (model, setting);
                    std::mem::replace(&mut served.sessions, started)
                }
                _ => started,
            }
        };
        self.drain(replaced);
        Ok(())
    }

    /// Starts the sessions, each with its own engine of every version.
    fn start(&self, model: &Arc<Model>, loaded: Vec<LoadedVersion>) -> Result<Vec<Session>, String> {
        let state = &self.state;
        // A chain has no engine, and a session all the same.
        let count = loaded.iter().map(|loaded| loaded.engines.len()).max().map_or(0, |count| count.max(1));
        let mut by_session: Vec<Vec<(Arc<Version>, Box<dyn Engine>)>> = (0..count).map(|_| Vec::new()).collect();
        for LoadedVersion { version, engines } in loaded {
            by_session.iter_mut().zip(engines).for_each(|(own, engine)| own.push((Arc::clone(&version), engine)));
        }
        let worker: SmolStr = state.id.chars().take(6).collect();
        let max_bytes = state.config.result_bytes(state.queue.max_value_bytes());
        let shared = model.table().shares_rows().then(|| self.pool(model, &worker, max_bytes)).transpose()?;
        let mut sessions = Vec::new();
        for (number, engines) in by_session.into_iter().enumerate() {
            let (tracker, pool) = match &shared {
                Some((tracker, pool)) => (Arc::clone(tracker), Some(Arc::clone(pool))),
                None => (tracker(model), None),
            };
            let mut executor = Executor::new(worker.clone(), Arc::clone(&tracker), state.watchdog.clone(), max_bytes);
            engines.into_iter().for_each(|(version, engine)| executor.put(version, engine));
            if number == 0 || pool.is_none() {
                state.trackers.add(model.name.clone(), &tracker);
            }
            let (queue, model) = (Arc::clone(&state.queue), Arc::clone(model));
            let site = Site::new(Arc::clone(&queue), self.find(), state.watchdog.clone(), worker.clone(), max_bytes);
            match Session::start(queue, model, state.id.clone(), number as u32, (tracker, pool), site, executor) {
                Ok(session) => sessions.push(session),
                Err(error) => {
                    drain_all(sessions);
                    return Err(no_thread(&error));
                }
            }
        }
        Ok(sessions)
    }

    /// Finds the models that chains have for steps.
    fn find(&self) -> FindModel {
        let state = Arc::downgrade(&self.state);
        Arc::new(move |name| {
            let state = state.upgrade()?;
            let served = state.served.lock();
            served.get(name).filter(|own| !own.sessions.is_empty()).map(|own| Arc::clone(&own.model))
        })
    }

    /// The pool of a transformed model's sessions, and the tracker that they share.
    fn pool(
        &self,
        model: &Model,
        worker: &SmolStr,
        max_bytes: usize,
    ) -> Result<(Arc<LeaseTracker>, Arc<RowPool>), String> {
        let state = &self.state;
        let threads = state.transform_threads().map_err(|error| no_thread(&error))?;
        let (tracker, aging) = (tracker(model), state.queue.settings().aging());
        let pool = RowPool::new(Arc::clone(&tracker), threads, worker.clone(), max_bytes, aging);
        Ok((tracker, Arc::new(pool)))
    }

    /// Drains sessions; [`Installer::retire`] joins them once their batches are done.
    pub(crate) fn drain(&mut self, sessions: Vec<Session>) {
        sessions.iter().for_each(Session::drain);
        self.draining.extend(sessions);
    }

    /// Drops replaced versions that no planned job needs any more, and joins drained
    /// sessions whose last batch is done. The others stay, for as long as it takes.
    pub(crate) fn retire(&mut self) {
        self.retired.retain_mut(|RetiredVersion { model, version, sessions, since, warned }| {
            // One reference here, one per engine; more are a table in use, or planned jobs.
            if Arc::strong_count(version) <= sessions.len() + 1 {
                // A session that is busy for longer is tried again at the next call.
                sessions.retain(|session| !session.drop_engine(version, PAUSE_WAIT));
            }
            if !sessions.is_empty() && !*warned && since.elapsed() > RETIRE_WARNING {
                *warned = true;
                let version = version.signature.version.as_str();
                log::warn!(model = model.as_str(), version; "a replaced version of model `{model}` stays in memory: jobs that were leased for it still wait or run");
            }
            !sessions.is_empty()
        });
        self.draining.extract_if(.., |session| session.has_ended()).for_each(Session::join);
    }

    /// Waits for every drained session's end.
    pub(crate) fn finish(self) {
        drain_all(self.draining);
    }
}

/// Holds the leases of a model's jobs, and answers what chains of this process ask of it.
fn tracker(model: &Model) -> Arc<LeaseTracker> {
    let steps = Arc::clone(model.steps());
    Arc::new(LeaseTracker::with_local(Arc::new(move |settlement| steps.settle(settlement))))
}

fn no_thread(error: &std::io::Error) -> String {
    format!("cannot start a thread: {error}; raise the process limit")
}
