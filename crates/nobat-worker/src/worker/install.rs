//! Puts loaded versions into the sessions of a model, and takes replaced ones
//! out once no job needs them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_queue::backend::Desk;
use smol_str::SmolStr;

use super::Shared;
use super::loading::Loader;
use crate::config::Sessions;
use crate::engine::Engine;
use crate::executor::{Engines, Executor};
use crate::model::{Model, Table, Version};
use crate::runner::Runner;

/// A replaced version that is still needed after so long is worth a line in the log.
const RETIRE_WARNING: Duration = Duration::from_secs(60);
/// How long a session's next pause between two batches is waited for.
const RETIRE_PATIENCE: Duration = Duration::from_millis(5);

/// A version that loaded, with an engine for each session.
pub(super) struct Fresh {
    pub(super) version: Arc<Version>,
    pub(super) engines: Vec<Box<dyn Engine>>,
}

/// A replaced version whose engines are still there.
pub(super) struct Retired {
    model: SmolStr,
    version: Arc<Version>,
    /// The sessions that have an engine of it yet.
    sessions: Vec<Arc<Engines>>,
    since: Instant,
    told: bool,
}

impl Loader {
    /// Puts fresh versions into the sessions that run, and a new table before them.
    pub(super) fn swap(&mut self, model: &Arc<Model>, table: Table, fresh: Vec<Fresh>) {
        let old = model.table();
        let sessions = self.shared.sessions(&model.name);
        for Fresh { version, engines } in fresh {
            for (session, engine) in sessions.iter().zip(engines) {
                session.add(Arc::clone(&version), engine);
            }
        }
        let stays = |own: &&Arc<Version>| table.versions.iter().any(|now| Arc::ptr_eq(now, own));
        let gone = old.versions.iter().filter(|own| !stays(own));
        self.retired.extend(gone.map(|own| Retired {
            model: model.name.clone(),
            version: Arc::clone(own),
            sessions: sessions.clone(),
            since: Instant::now(),
            told: false,
        }));
        model.replace(table);
    }

    /// Starts sessions of these versions, in the place of those that run, if any. Those
    /// finish what they hold, and a long run of theirs holds nobody up.
    pub(super) fn restart(
        &mut self,
        name: &SmolStr,
        table: Table,
        fresh: Vec<Fresh>,
        asked: Sessions,
    ) -> Result<(), String> {
        // Theirs alone: a session of before has no engines of this table's versions.
        let model = Arc::new(Model::new(name.clone()));
        model.replace(table);
        let started = self.start(&model, fresh)?;
        let left = {
            let mut served = self.shared.served.lock();
            match served.get_mut(name) {
                // A drain takes what stands here under the same lock; what comes later would outlive it.
                Some(served) if !self.shared.is_draining() => {
                    (served.model, served.asked) = (model, asked);
                    std::mem::replace(&mut served.executors, started)
                }
                _ => started,
            }
        };
        left.iter().for_each(Executor::drain);
        self.unloaded.extend(left);
        Ok(())
    }

    /// One executor per session, each with its own engine of every version.
    fn start(&self, model: &Arc<Model>, fresh: Vec<Fresh>) -> Result<Vec<Executor>, String> {
        let shared = &self.shared;
        let count = fresh.first().map_or(0, |fresh| fresh.engines.len());
        let mut own: Vec<Vec<(Arc<Version>, Box<dyn Engine>)>> = (0..count).map(|_| Vec::new()).collect();
        for Fresh { version, engines } in fresh {
            own.iter_mut().zip(engines).for_each(|(own, engine)| own.push((Arc::clone(&version), engine)));
        }
        let short: SmolStr = shared.id.chars().take(6).collect();
        let mut executors = Vec::new();
        for (number, own) in own.into_iter().enumerate() {
            let desk = Arc::new(Desk::default());
            let most = shared.config.result_bytes(shared.queue.max_value_bytes());
            let mut runner = Runner::new(short.clone(), Arc::clone(&desk), shared.watchdog.clone()).bounded(most);
            own.into_iter().for_each(|(version, engine)| runner.put(version, engine));
            shared.desks.add(model.name.clone(), &desk);
            let (queue, of) = (Arc::clone(&shared.queue), Arc::clone(model));
            match Executor::start(queue, of, shared.id.clone(), number as u32, desk, runner) {
                Ok(executor) => executors.push(executor),
                Err(error) => {
                    end(executors);
                    return Err(format!("cannot start a thread: {error}; raise the process limit"));
                }
            }
        }
        Ok(executors)
    }

    /// Drops replaced versions that no planned job needs any more, and sessions of
    /// unloaded models whose last batch is done. The others stay, for as long as it takes.
    pub(super) fn retire(&mut self) {
        self.retired.retain_mut(|Retired { model, version, sessions, since, told }| {
            // One reference here, one per engine; more are a table still read, or planned jobs.
            if Arc::strong_count(version) <= sessions.len() + 1 {
                // A session that is busy for longer is looked at again.
                sessions.retain(|session| !session.drop_engine(version, RETIRE_PATIENCE));
            }
            if !sessions.is_empty() && !*told && since.elapsed() > RETIRE_WARNING {
                *told = true;
                let version = version.signature.version.as_str();
                log::warn!(model = model.as_str(), version; "a replaced version of model `{model}` stays in memory: jobs leased before still wait to run on it, or run");
            }
            !sessions.is_empty()
        });
        for executor in self.unloaded.extract_if(.., |executor| executor.has_ended()) {
            executor.join();
        }
    }
}

impl Shared {
    fn sessions(&self, model: &str) -> Vec<Arc<Engines>> {
        let served = self.served.lock();
        let executors = served.get(model).map_or(&[][..], |served| &served.executors);
        executors.iter().map(|executor| Arc::clone(&executor.engines)).collect()
    }
}

/// Drains executors, all at once, and waits for their ends.
pub(super) fn end(executors: Vec<Executor>) {
    executors.iter().for_each(Executor::drain);
    executors.into_iter().for_each(Executor::join);
}
