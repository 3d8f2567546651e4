//! The loading thread: what it is ordered to load, unload and swap.
//!
//! A load never disturbs what serves: the new sessions are open before the old
//! ones are let go, and a failed one leaves the old version serving and says why.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use nobat_core::ErrorCode;
use nobat_core::job::JobError;
use nobat_core::signature::{ModelSignature, ModelState};
use smol_str::SmolStr;
use tokio::sync::watch;

use super::install::{Fresh, Retired, end};
use super::{Order, Served, Shared, unready};
use crate::batch::controller::Controller;
use crate::executor::Executor;
use crate::model::{Table, Version};
use crate::probe::{Bound, RUN_LIMIT};
use crate::repository::load::{self, Load, Prepared};
use crate::repository::manifest::Manifest;
use crate::repository::memory::Memory;
use crate::repository::scan::{Found, FoundModel, FoundVersion, scan};
use crate::repository::settings::{self, ModelSettings};
use crate::sizing::{self, Resources};

/// How often the manifest is looked at.
const MANIFEST_EVERY: Duration = Duration::from_secs(1);
/// How often replaced versions and unloaded sessions are looked at: their memory is wanted back.
const RETIRE_EVERY: Duration = Duration::from_millis(20);

/// The loading thread's state.
pub(super) struct Loader {
    pub(super) shared: Arc<Shared>,
    /// Replaced versions that planned jobs may still need.
    pub(super) retired: Vec<Retired>,
    /// Drained sessions of unloaded models, and such that others replaced, which finish a batch.
    pub(super) unloaded: Vec<Executor>,
}

impl Loader {
    pub(super) fn new(shared: Arc<Shared>) -> Loader {
        Loader { shared, retired: Vec::new(), unloaded: Vec::new() }
    }

    /// Loads what was found, then obeys orders until it is told to stop.
    pub(super) fn run(
        mut self,
        inbox: &Receiver<Order>,
        found: Found,
        mut manifest: Manifest,
        loaded: &watch::Sender<bool>,
    ) {
        self.load_each(found.models.values());
        loaded.send_replace(true);
        while !self.shared.is_draining() {
            let idle = self.retired.is_empty() && self.unloaded.is_empty();
            let pause = if idle { MANIFEST_EVERY } else { RETIRE_EVERY };
            match inbox.recv_timeout(pause) {
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(Order::Unload(name)) => {
                    self.unload(&name);
                    self.carried_out(&name, None);
                }
                // What failed is logged where it failed.
                Ok(Order::LoadAll) => drop(self.reload(None)),
                Ok(Order::Load(name)) => {
                    let outcome = self.reload(Some(&name));
                    self.carried_out(&name, outcome.err());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if manifest.changed() {
                log::info!("the manifest changed; looking for changed models");
                drop(self.reload(None));
            }
            self.sampled().iter().for_each(|name| drop(self.reload(Some(name))));
            self.retire();
        }
        // Part of the drain: what they run is settled while its lease is still renewed.
        end(self.unloaded);
    }

    /// Models whose first requests are there for a trial: it is made as they are loaded anew.
    fn sampled(&self) -> Vec<SmolStr> {
        let served = self.shared.served.lock();
        let complete = |own: &&Served| own.model.table().versions.iter().any(|version| version.samples.are_due());
        served.values().filter(complete).map(|own| own.model.name.clone()).collect()
    }

    /// Tells whoever sent a command for `name` that it is done.
    fn carried_out(&self, name: &SmolStr, error: Option<JobError>) {
        if let Some(progress) = self.shared.loads.lock().get_mut(name) {
            progress.done += 1;
            progress.error = error;
        }
        self.shared.changed.notify_one();
    }

    /// Scans again and loads what changed; without a name, also unloads what is gone.
    ///
    /// # Errors
    /// `model_not_ready` when the scan, or a version of the model named, failed;
    /// `model_not_found` when it is in no repository.
    fn reload(&mut self, only: Option<&SmolStr>) -> Result<(), JobError> {
        let not_ready = |message| JobError { code: ErrorCode::ModelNotReady, message };
        let found = scan(&self.shared.config.models).map_err(|error| {
            log::error!("models are not reloaded: {error}");
            not_ready(error.to_string())
        })?;
        let wanted = |name: &SmolStr| only.is_none_or(|only| name == only);
        self.load_each(found.models.values().filter(|model| wanted(&model.name)));
        if self.shared.is_draining() {
            return Err(not_ready(
                "the worker drains and loads nothing any more; ask again when another serves".into(),
            ));
        }
        let known: Vec<SmolStr> = self.shared.served.lock().keys().cloned().collect();
        // What cannot be read is not known to be gone.
        let gone = |name: &SmolStr| !found.models.contains_key(name) && !found.unreadable.contains(name);
        for name in known.iter().filter(|name| wanted(name) && gone(name) && !found.left_out.contains_key(*name)) {
            self.unload(name);
        }
        for (name, reason) in found.left_out.iter().filter(|(name, _)| wanted(name)) {
            self.leave_out(name, reason);
        }
        let Some(only) = only else { return Ok(()) };
        if found.unreadable.contains(only) {
            return Err(not_ready(format!("the folder of model `{only}` cannot be read; see the log")));
        }
        if let Some(reason) = found.left_out.get(only) {
            return Err(not_ready(reason.clone()));
        }
        if !found.models.contains_key(only) {
            let message = format!("no folder of this worker has a model `{only}`");
            return Err(JobError { code: ErrorCode::ModelNotFound, message });
        }
        let served = self.shared.served.lock();
        let mut pending = served.get(only).into_iter().flat_map(|served| &served.pending);
        let failed = pending.find(|version| version.state == ModelState::Failed);
        failed.map_or(Ok(()), |version| Err(not_ready(version.reason.clone())))
    }

    fn load_each<'a>(&mut self, models: impl Iterator<Item = &'a FoundModel>) {
        for model in models {
            if self.shared.is_draining() {
                return;
            }
            // No model takes the loading of the others along.
            let outcome = catch_unwind(AssertUnwindSafe(|| self.load(model)));
            let outcome = outcome.unwrap_or_else(|_| Err("its load panicked; the log says where".into()));
            if let Err(reason) = outcome {
                self.refuse(model, &reason);
            }
            // The next one may need the memory.
            self.retire();
        }
    }

    fn unload(&mut self, name: &SmolStr) {
        let Some(served) = self.shared.served.lock().remove(name) else { return };
        self.shared.changed.notify_one();
        served.executors.iter().for_each(Executor::drain);
        self.unloaded.extend(served.executors);
        log::info!(model = name.as_str(); "unloaded model `{name}`");
    }

    /// Ends what served under the name of what looks like a model and is none, and says why.
    fn leave_out(&mut self, name: &SmolStr, reason: &str) {
        let before = self.shared.served.lock().insert(name.clone(), Served::left_out(name, reason));
        self.shared.changed.notify_one();
        let executors = before.map(|served| served.executors).unwrap_or_default();
        if !executors.is_empty() {
            executors.iter().for_each(Executor::drain);
            self.unloaded.extend(executors);
            log::warn!(model = name.as_str(); "unloaded model `{name}`: {reason}");
        }
    }

    /// Loads a model's changed versions, then swaps them in and retires the old.
    fn load(&mut self, found: &FoundModel) -> Result<(), String> {
        let started = Instant::now();
        let name = &found.name;
        let shared = Arc::clone(&self.shared);
        let (model, running, asked) = {
            let mut served = shared.served.lock();
            let own = served.entry(name.clone()).or_insert_with(|| Served::loading(found));
            (Arc::clone(&own.model), own.executors.len() as u32, own.asked)
        };
        let settings = settings::read(found, &shared.config)?;
        let wanted = settings.select(&found.versions)?;
        let old = model.table();
        // Sessions that are to be started need engines of every version.
        let restart = running == 0 || asked != settings.config.sessions;
        let sessions = (!restart).then_some(running);
        let mut turn = Turn { shared: &shared, name, settings: &settings, anew: restart, sessions };
        let (mut versions, mut fresh, mut pending) = (Vec::new(), Vec::new(), Vec::new());
        for found in wanted {
            let current = old.versions.iter().find(|current| current.signature.version == found.version);
            let outcome = turn.load(found, current);
            if shared.is_draining() {
                return Ok(());
            }
            match outcome {
                Ok(Some(loaded)) => {
                    versions.push(Arc::clone(&loaded.version));
                    fresh.push(loaded);
                }
                Ok(None) => versions.extend(current.cloned()),
                Err(reason) => {
                    log::error!(model = name.as_str(), version = found.version.as_str(); "{reason}");
                    versions.extend(current.cloned());
                    pending.push(unready(name, &found.version, ModelState::Failed, &reason));
                }
            }
        }
        if versions.is_empty() || (restart && fresh.len() < versions.len()) {
            // What served before goes on serving, as it was.
            fresh.clear();
            versions.clone_from(&old.versions);
        }
        let table = table(&old, versions, &settings);
        if restart && !fresh.is_empty() {
            self.restart(name, table, fresh, settings.config.sessions)?;
        } else if !table.versions.is_empty() {
            self.swap(&model, table, fresh);
        }
        tell(name, &served_of(&shared, name), &pending, started.elapsed());
        if let Some(served) = shared.served.lock().get_mut(name) {
            served.pending = pending;
        }
        shared.changed.notify_one();
        Ok(())
    }

    /// Says why a model did not load; what served before goes on serving.
    fn refuse(&self, found: &FoundModel, reason: &str) {
        let name = &found.name;
        log::error!(model = name.as_str(); "model `{name}` is not loaded: {reason}");
        let version = found.versions.last().map_or("1", |version| &version.version);
        if let Some(served) = self.shared.served.lock().get_mut(name) {
            served.pending = vec![unready(name, version, ModelState::Failed, reason)];
        }
        self.shared.changed.notify_one();
    }
}

/// The versions of one model, loaded one after the other.
struct Turn<'a> {
    shared: &'a Shared,
    name: &'a SmolStr,
    settings: &'a ModelSettings,
    /// Load each anew, changed or not.
    anew: bool,
    /// Engines per version; where nothing serves yet, the first that loads decides.
    sessions: Option<u32>,
}

impl Turn<'_> {
    /// Loads a version; `None` when `current` is the same already.
    fn load(&mut self, found: &FoundVersion, current: Option<&Arc<Version>>) -> Result<Option<Fresh>, String> {
        let files = load::read(found).map_err(|error| error.to_string())?;
        let with = self.settings.of_load(found);
        let same = |own: &Arc<Version>| own.signature.digest == files.digest && own.loaded_with == with;
        let unchanged = current.filter(|own| same(own));
        let samples = unchanged.and_then(|own| own.samples.complete());
        if !self.anew && unchanged.is_some() && samples.is_none() {
            return Ok(None);
        }
        let bound = Bound { watchdog: &self.shared.watchdog, run: RUN_LIMIT, stop: &self.shared.draining };
        let (samples, known) = (samples.as_deref(), &|signature| self.shared.publish_loading(signature));
        let (name, settings) = (self.name, self.settings);
        let load = Load { name, found, files: &files, settings, bound: &bound, samples, known };
        let prepared = load.prepare().map_err(|error| error.to_string())?;
        let sessions = match self.sessions {
            Some(sessions) => sessions,
            None => *self.sessions.insert(self.fitting(&prepared)?),
        };
        let Prepared { signature, engine, example, wants_samples, .. } = prepared;
        let engines = load.sessions(engine, &signature, sessions).map_err(|error| error.to_string())?;
        let batching = &self.settings.config.batching;
        let controller = Controller::new(batching, signature.max_batch_size);
        let version = Version::new(
            signature,
            controller,
            self.shared.counters.of(self.name, &found.version),
            batching.max_batch_bytes,
        );
        let version = version.with(with, example).sampling(wants_samples);
        Ok(Some(Fresh { version: Arc::new(version), engines }))
    }

    /// How many sessions the model gets, by what its first one took.
    fn fitting(&self, prepared: &Prepared) -> Result<u32, String> {
        let config = &self.settings.config;
        let resources = Resources {
            cores: sizing::cores(),
            free_bytes: Memory::now(config.loading.memory_limit_bytes).left(),
            session_bytes: prepared.session_bytes,
            row_s: prepared.row_s,
            gpu: prepared.gpu,
        };
        sizing::sessions(config.sessions, resources)
    }
}

/// The versions of a model that serve now.
fn served_of(shared: &Shared, name: &SmolStr) -> Vec<ModelSignature> {
    shared.served.lock().get(name).map(|served| served.model.table().signatures()).unwrap_or_default()
}

/// Says which versions serve after a load, and which do not.
fn tell(name: &str, served: &[ModelSignature], failed: &[ModelSignature], took: Duration) {
    let numbers = |of: &[ModelSignature]| of.iter().map(|own| own.version.as_str()).collect::<Vec<_>>().join(", ");
    let (serves, fails, ms) = (numbers(served), numbers(failed), took.as_millis() as u64);
    match (served, failed) {
        (_, []) => log::info!(model = name, ms; "model `{name}` is loaded: version {serves}"),
        ([], _) => log::warn!(model = name, ms; "model `{name}` is not served: version {fails} could not be loaded"),
        _ => log::warn!(model = name, ms; "model `{name}` is served: version {serves}; could not be loaded: {fails}"),
    }
}

/// The table of these ready versions, as the settings name them. What names a version
/// that is not ready stays where it was: its callers are served meanwhile.
fn table(old: &Table, versions: Vec<Arc<Version>>, settings: &ModelSettings) -> Table {
    let position = |number: &SmolStr| versions.iter().position(|version| version.signature.version == *number);
    let labels = settings.labels.iter().filter_map(|(label, number)| {
        let number =
            [Some(number), old.labels.get(label)].into_iter().flatten().find(|number| position(number).is_some())?;
        Some((label.clone(), number.clone()))
    });
    let newest = versions.len().saturating_sub(1);
    let was = || old.versions.get(old.default).and_then(|version| position(&version.signature.version));
    let default =
        settings.default_version.as_ref().map_or(newest, |named| position(named).or_else(was).unwrap_or(newest));
    Table { labels: labels.collect(), default, settings: settings.gateway.clone(), versions }
}
