//! The loading thread: loads, unloads and swaps models as it is commanded.
//!
//! A load never disturbs what serves: the new sessions are open before the old
//! ones are let go, and a failed load leaves the old version serving and publishes why.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use nobat_core::ErrorCode;
use nobat_core::chain::ChainDefinition;
use nobat_core::job::JobError;
use nobat_core::signature::{ModelSignature, ModelState};
use smol_str::SmolStr;
use tokio::sync::watch;

use super::chain_load::{Fingerprint, KnownModels, NotLoaded};
use super::chains;
use super::install::Installer;
use super::manifest::Manifest;
use super::scan::{FoundModel, ScanResult, scan};
use super::settings::{self, ModelSettings};
use super::version_loads::VersionLoads;
use crate::model::{Table, Version};
use crate::state::{RoutedChains, ServedModel, WorkerState, unready};

/// How often the manifest is checked.
const MANIFEST_EVERY: Duration = Duration::from_secs(1);
/// How often replaced versions and drained sessions are checked: their memory is wanted back.
const RETIRE_EVERY: Duration = Duration::from_millis(20);

/// What the loading thread is asked to do.
pub(crate) enum LoadCommand {
    LoadAll,
    Load(SmolStr),
    Unload(SmolStr),
    Stop,
}

/// The loading thread's state.
pub(crate) struct Loader {
    state: Arc<WorkerState>,
    installer: Installer,
    /// Models that are chains, which are looked at again when their steps' models change.
    chains: BTreeMap<SmolStr, FoundModel>,
    /// The models as they were when chains were last looked at.
    seen: Fingerprint,
    /// Chains declared as routes, as they were then.
    routed: RoutedChains,
}

impl Loader {
    pub(crate) fn new(state: Arc<WorkerState>) -> Loader {
        let (chains, seen, routed) = (BTreeMap::new(), Fingerprint::new(), RoutedChains::new());
        Loader { installer: Installer::new(Arc::clone(&state)), state, chains, seen, routed }
    }

    /// Loads what was found, then follows commands until it is told to stop.
    pub(crate) fn run(
        mut self,
        inbox: &Receiver<LoadCommand>,
        found: ScanResult,
        mut manifest: Manifest,
        loaded: &watch::Sender<bool>,
    ) {
        self.load_each(found.models.values());
        self.look_at_chains();
        loaded.send_replace(true);
        while !self.state.is_draining() {
            let pause = if self.installer.is_idle() { MANIFEST_EVERY } else { RETIRE_EVERY };
            match inbox.recv_timeout(pause) {
                Ok(LoadCommand::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(LoadCommand::Unload(name)) => {
                    self.unload(&name);
                    self.carried_out(&name, None);
                }
                // What failed is logged where it failed.
                Ok(LoadCommand::LoadAll) => drop(self.reload(None)),
                Ok(LoadCommand::Load(name)) => {
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
            self.look_at_chains();
            self.installer.retire();
        }
        // Part of the drain: what these sessions run is settled while its lease is still renewed.
        self.installer.finish();
    }

    /// Models with enough real requests for a trial, which a reload makes.
    fn sampled(&self) -> Vec<SmolStr> {
        let served = self.state.served.lock();
        let due = |own: &&ServedModel| own.model.table().versions.iter().any(|version| version.samples.are_due());
        served.values().filter(due).map(|own| own.model.name.clone()).collect()
    }

    /// Loads chains anew whose steps' models have come, changed or gone, and those that were
    /// declared as routes.
    fn look_at_chains(&mut self) {
        self.look_at_routes();
        // A chain may be a step of another: each round may make the next one ready.
        for _ in 0..=self.chains.len() {
            if self.chains.is_empty() || self.state.is_draining() {
                return;
            }
            let now = KnownModels::now(&self.state).fingerprint();
            if self.seen == now {
                return;
            }
            self.seen = now;
            let chains: Vec<FoundModel> = self.chains.values().cloned().collect();
            self.load_each(chains.iter());
        }
    }

    /// Takes up chains that are declared as routes and have a step here, and lets go of those
    /// that are not any more. A folder of that name is served in the place of the route's.
    fn look_at_routes(&mut self) {
        let routed = self.state.routed.lock().clone();
        let is_news = |name: &SmolStr, chain: &Arc<ChainDefinition>| self.routed.get(name) != Some(chain);
        let gone: Vec<SmolStr> = self.routed.keys().filter(|name| !routed.contains_key(*name)).cloned().collect();
        let has_step = |chain: &ChainDefinition| {
            let served = self.state.served.lock();
            chain.steps.iter().filter_map(|step| step.model.as_ref()).any(|model| served.contains_key(model))
        };
        let is_folder = |name: &SmolStr| {
            self.state.served.lock().contains_key(name) && self.chains.get(name).is_none_or(|own| own.routed.is_none())
        };
        let news: Vec<FoundModel> = routed
            .iter()
            .filter(|(name, chain)| is_news(name, chain) && has_step(chain) && !is_folder(name))
            .map(|(name, chain)| FoundModel::of_route(name, chain))
            .collect();
        for name in &gone {
            if self.chains.get(name).is_some_and(|own| own.routed.is_some()) {
                self.unload(name);
            }
        }
        self.routed.retain(|name, _| !gone.contains(name));
        self.routed.extend(news.iter().filter_map(|own| Some((own.name.clone(), own.routed.clone()?))));
        self.load_each(news.iter());
    }

    /// Publishes that a command for `name` is done.
    fn carried_out(&self, name: &SmolStr, error: Option<JobError>) {
        if let Some(progress) = self.state.loads.lock().get_mut(name) {
            progress.done += 1;
            progress.error = error;
        }
        self.state.changed.notify_one();
    }

    /// Scans again and loads what changed; without a name, also unloads what is gone.
    ///
    /// # Errors
    /// `model_not_ready` when the scan, or a version of the model named, failed;
    /// `model_not_found` when it is in no repository.
    fn reload(&mut self, only: Option<&SmolStr>) -> Result<(), JobError> {
        let not_ready = |message| JobError { code: ErrorCode::ModelNotReady, message };
        let found = scan(&self.state.config.models).map_err(|error| {
            log::error!("models are not reloaded: {error}");
            not_ready(error.to_string())
        })?;
        let wanted = |name: &SmolStr| only.is_none_or(|only| name == only);
        self.load_each(found.models.values().filter(|model| wanted(&model.name)));
        if self.state.is_draining() {
            return Err(not_ready("this worker is draining and loads nothing; ask again when another serves".into()));
        }
        let known: Vec<SmolStr> = self.state.served.lock().keys().cloned().collect();
        // A folder that cannot be read may still hold its model.
        let is_routed = |name: &SmolStr| self.chains.get(name).is_some_and(|own| own.routed.is_some());
        let gone =
            |name: &SmolStr| !found.models.contains_key(name) && !found.unreadable.contains(name) && !is_routed(name);
        let gone = known.iter().filter(|name| wanted(name) && gone(name) && !found.left_out.contains_key(*name));
        let gone: Vec<&SmolStr> = gone.collect();
        gone.into_iter().for_each(|name| self.unload(name));
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
        let served = self.state.served.lock();
        let mut pending = served.get(only).into_iter().flat_map(|served| &served.pending);
        let failed = pending.find(|version| version.state == ModelState::Failed);
        failed.map_or(Ok(()), |version| Err(not_ready(version.reason.clone())))
    }

    fn load_each<'a>(&mut self, models: impl Iterator<Item = &'a FoundModel>) {
        // Chains last: their steps may be among the others.
        let is_chain = |model: &&FoundModel| model.versions.iter().any(|version| chains::is_chain(&version.file));
        let (last, first): (Vec<&FoundModel>, Vec<&FoundModel>) = models.partition(is_chain);
        for model in first.into_iter().chain(last) {
            if self.state.is_draining() {
                return;
            }
            // A load that panics does not stop the loading of the others.
            let outcome = catch_unwind(AssertUnwindSafe(|| self.load(model)));
            if let Err(reason) = outcome.unwrap_or_else(|_| Err("its load panicked; the log says where".into())) {
                self.publish_failure(model, &reason);
            }
            // The next one may need the memory.
            self.installer.retire();
        }
    }

    fn unload(&mut self, name: &SmolStr) {
        self.chains.remove(name);
        let Some(served) = self.state.served.lock().remove(name) else { return };
        served.model.steps().close();
        self.state.changed.notify_one();
        self.installer.drain(served.sessions);
        log::info!(model = name.as_str(); "unloaded model `{name}`");
    }

    /// Publishes why a folder that looks like a model is none, and ends what served under its name.
    fn leave_out(&mut self, name: &SmolStr, reason: &str) {
        let before = self.state.served.lock().insert(name.clone(), ServedModel::left_out(name, reason));
        self.state.changed.notify_one();
        self.chains.remove(name);
        if let Some(served) = before.filter(|served| !served.sessions.is_empty()) {
            served.model.steps().close();
            self.installer.drain(served.sessions);
            log::warn!(model = name.as_str(); "unloaded model `{name}`: {reason}");
        }
    }

    /// Loads a model's changed versions, then swaps them in and retires the old.
    fn load(&mut self, found: &FoundModel) -> Result<(), String> {
        let started = Instant::now();
        let name = &found.name;
        let state = Arc::clone(&self.state);
        let (model, running, sessions_setting, before) = {
            let mut served = state.served.lock();
            let own = served.entry(name.clone()).or_insert_with(|| ServedModel::loading(found));
            (Arc::clone(&own.model), own.sessions.len() as u32, own.sessions_setting, own.pending.clone())
        };
        let settings = settings::read(found, &state.config)?;
        let wanted = settings.select(&found.versions)?;
        if wanted.iter().any(|version| chains::is_chain(&version.file)) {
            self.chains.insert(name.clone(), found.clone());
            state.has_chains.store(true, Ordering::Relaxed);
        } else {
            self.chains.remove(name);
        }
        let old = model.table();
        let shares_rows = wanted.iter().any(|version| settings.may_transform(version));
        // New sessions need engines of every version.
        let restart =
            running == 0 || sessions_setting != settings.config.sessions || (shares_rows && !old.shares_rows());
        let sessions = (!restart).then_some(running);
        let routed = found.routed.as_deref();
        let mut loads =
            VersionLoads { state: &state, name, settings: &settings, routed, reload_all: restart, sessions };
        let (mut versions, mut loaded, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        let mut waits = false;
        for found in wanted {
            let current = old.versions.iter().find(|current| current.signature.version == found.version);
            let outcome = loads.load(found, current);
            if state.is_draining() {
                return Ok(());
            }
            match outcome {
                Ok(Some(own)) => {
                    versions.push(Arc::clone(&own.version));
                    loaded.push(own);
                }
                Ok(None) => versions.extend(current.cloned()),
                Err(NotLoaded::Failed(reason)) => {
                    // A chain is looked at again and again.
                    if !before.iter().any(|known| known.reason == reason) {
                        log::error!(model = name.as_str(), version = found.version.as_str(); "{reason}");
                    }
                    versions.extend(current.cloned());
                    failed.push(unready(name, &found.version, ModelState::Failed, &reason));
                }
                Err(NotLoaded::Waits(reason)) => {
                    waits = true;
                    failed.push(unready(name, &found.version, ModelState::Failed, &reason));
                }
            }
        }
        if waits && versions.is_empty() {
            self.suspend(name, failed);
            return Ok(());
        }
        if versions.is_empty() || (restart && loaded.len() < versions.len()) {
            // What served before goes on serving, as it was.
            loaded.clear();
            versions.clone_from(&old.versions);
        }
        let news = !self.chains.contains_key(name) || !loaded.is_empty();
        let table = table(&old, versions, &settings);
        if restart && !loaded.is_empty() {
            self.installer.restart(name, table, loaded, settings.config.sessions)?;
        } else if !table.versions.is_empty() {
            self.installer.swap(&model, table, loaded);
        }
        if let Some(served) = state.served.lock().get_mut(name) {
            if news || failed != before {
                log_outcome(name, &served.model.table().signatures(), &failed, started.elapsed());
            }
            served.pending = failed;
        }
        state.changed.notify_one();
        Ok(())
    }

    /// Publishes what a chain without any ready version waits for, and ends what served under its name.
    fn suspend(&mut self, name: &SmolStr, pending: Vec<ModelSignature>) {
        self.state.chain_waits.store(true, Ordering::Relaxed);
        let sessions = {
            let mut served = self.state.served.lock();
            let Some(served) = served.get_mut(name) else { return };
            if served.pending == pending {
                return;
            }
            let reasons: Vec<&str> = pending.iter().map(|version| version.reason.as_str()).collect();
            log::warn!(model = name.as_str(); "{}", reasons.join("; "));
            served.pending = pending;
            if !served.sessions.is_empty() {
                served.model = Arc::new(served.model.renewed());
            }
            std::mem::take(&mut served.sessions)
        };
        self.installer.drain(sessions);
        self.state.changed.notify_one();
    }

    /// Publishes why a model did not load; what served before goes on serving.
    fn publish_failure(&self, found: &FoundModel, reason: &str) {
        let name = &found.name;
        log::error!(model = name.as_str(); "model `{name}` is not loaded: {reason}");
        let version = found.versions.last().map_or("1", |version| &version.version);
        if let Some(served) = self.state.served.lock().get_mut(name) {
            served.pending = vec![unready(name, version, ModelState::Failed, reason)];
        }
        self.state.changed.notify_one();
    }
}

/// Logs which versions serve after a load, and which could not be loaded.
fn log_outcome(name: &str, served: &[ModelSignature], failed: &[ModelSignature], took: Duration) {
    let numbers = |of: &[ModelSignature]| of.iter().map(|own| own.version.as_str()).collect::<Vec<_>>().join(", ");
    let (serves, fails, ms) = (numbers(served), numbers(failed), took.as_millis() as u64);
    match (served, failed) {
        (_, []) => log::info!(model = name, ms; "model `{name}` is loaded: version {serves}"),
        ([], _) => log::warn!(model = name, ms; "model `{name}` is not served: version {fails} could not be loaded"),
        _ => log::warn!(model = name, ms; "model `{name}` is served: version {serves}; could not be loaded: {fails}"),
    }
}

/// The table of these ready versions, with labels and default as the settings say. A label
/// or default whose version is not ready keeps naming the version it named before.
fn table(old: &Table, versions: Vec<Arc<Version>>, settings: &ModelSettings) -> Table {
    let position = |number: &SmolStr| versions.iter().position(|version| version.signature.version == *number);
    let labels = settings.labels.iter().filter_map(|(label, number)| {
        let candidates = [Some(number), old.labels.get(label)];
        let number = candidates.into_iter().flatten().find(|number| position(number).is_some())?;
        Some((label.clone(), number.clone()))
    });
    let newest = versions.len().saturating_sub(1);
    let before = || old.versions.get(old.default).and_then(|version| position(&version.signature.version));
    let default =
        settings.default_version.as_ref().map_or(newest, |own| position(own).or_else(before).unwrap_or(newest));
    Table { labels: labels.collect(), default, settings: settings.gateway.clone(), versions }
}
