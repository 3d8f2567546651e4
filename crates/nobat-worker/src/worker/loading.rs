//! The loading thread: what it is ordered to load, unload and swap.
//!
//! A load never disturbs what serves: the new sessions are open before the old
//! ones are let go, and a failed one leaves the old version serving and says why.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use nobat_core::signature::ModelState;
use nobat_queue::backend::Desk;
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::watch;

use super::{Order, Served, Shared, unready};
use crate::batch::controller::Controller;
use crate::engine::Engine;
use crate::executor::Executor;
use crate::model::{Model, Table, Version};
use crate::repository::load::{self, Prepared};
use crate::repository::manifest::Manifest;
use crate::repository::scan::{FoundModel, scan};
use crate::repository::settings::{self, ModelSettings};
use crate::runner::Runner;
use crate::sizing::{self, Resources};

/// How long jobs planned on a replaced version may keep it in memory.
const RETIRE_LIMIT: Duration = Duration::from_secs(60);
/// How often the manifest is looked at.
const MANIFEST_EVERY: Duration = Duration::from_secs(1);

impl Shared {
    pub(super) fn load_orders(
        &self,
        inbox: &Receiver<Order>,
        found: BTreeMap<SmolStr, FoundModel>,
        loaded: &watch::Sender<bool>,
    ) {
        let mut deferred = Vec::new();
        for model in found.values() {
            match inbox.try_recv() {
                Ok(Order::Stop) => return,
                Ok(order) => deferred.push(order),
                Err(_) => {}
            }
            self.load(model);
        }
        loaded.send_replace(true);
        deferred.into_iter().for_each(|order| self.obey(order));
        let mut manifest = Manifest::of(self.config.loading.manifest.clone());
        loop {
            match inbox.recv_timeout(MANIFEST_EVERY) {
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(order) => self.obey(order),
                Err(RecvTimeoutError::Timeout) if manifest.changed() => {
                    log::info!("the manifest changed; looking for changed models");
                    self.reload(None);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn obey(&self, order: Order) {
        match order {
            Order::Stop => {}
            Order::Unload(name) => self.unload(&name),
            Order::LoadAll => self.reload(None),
            Order::Load(name) => self.reload(Some(&name)),
        }
    }

    /// Scans again and loads what changed; without a name, also unloads what is gone.
    fn reload(&self, only: Option<&SmolStr>) {
        let found = match scan(&self.config.models) {
            Ok(found) => found,
            Err(error) => {
                log::error!("models are not reloaded: {error}");
                return;
            }
        };
        for model in found.values().filter(|model| only.is_none_or(|only| model.name == *only)) {
            self.load(model);
        }
        let known: Vec<SmolStr> = self.served.lock().keys().cloned().collect();
        for name in known.into_iter().filter(|name| !found.contains_key(name) && only.is_none_or(|only| name == only)) {
            self.unload(&name);
        }
    }

    fn unload(&self, name: &SmolStr) {
        let Some(served) = self.served.lock().remove(name) else { return };
        self.changed.notify_one();
        served.executors.iter().for_each(Executor::drain);
        served.executors.into_iter().for_each(Executor::join);
        log::info!(model = name.as_str(); "unloaded model `{name}`");
    }

    /// Loads a model's changed versions, then swaps them in and retires the old.
    fn load(&self, found: &FoundModel) {
        let started = Instant::now();
        let name = &found.name;
        let model = {
            let mut served = self.served.lock();
            Arc::clone(&served.entry(name.clone()).or_insert_with(|| Served::loading(found)).model)
        };
        let old = model.table();
        let mut versions: Vec<Arc<Version>> = Vec::new();
        let mut fresh: Vec<(Arc<Version>, Prepared)> = Vec::new();
        let mut pending = Vec::new();
        let settings = match settings::read(found, &self.config) {
            Ok(settings) => settings,
            Err(reason) => return self.refuse(found, &reason),
        };
        for version in settings.versions.select(&found.versions) {
            let current = old.versions.iter().find(|current| current.signature.version == version.version);
            let prepared = load::digest(&version.file)
                .map_err(|reason| load::LoadError::Unreadable { path: version.file.display().to_string(), reason })
                .and_then(|digest| match current {
                    Some(current) if current.signature.digest == digest => Ok(None),
                    _ => load::prepare(name, version, digest, &settings).map(Some),
                });
            match prepared {
                Ok(None) => versions.extend(current.cloned()),
                Ok(Some(prepared)) => {
                    let ready = Arc::new(Version::new(
                        prepared.signature.clone(),
                        Controller::new(&prepared.batching, prepared.signature.max_batch_size),
                        self.counters.of(name, &version.version),
                        prepared.batching.max_batch_bytes,
                    ));
                    versions.push(Arc::clone(&ready));
                    fresh.push((ready, prepared));
                }
                Err(error) => {
                    log::error!(model = name.as_str(), version = version.version.as_str(); "{error}");
                    versions.extend(current.cloned());
                    pending.push(unready(name, &version.version, ModelState::Failed, &error.to_string()));
                }
            }
        }
        if versions.is_empty() {
            // What served before goes on serving.
            versions.clone_from(&old.versions);
        }
        let named = settings.default_version.as_ref();
        let default = named.and_then(|named| versions.iter().position(|version| version.signature.version == *named));
        let table = Table { default: default.unwrap_or(versions.len().saturating_sub(1)), versions };
        if let Err(reason) = self.swap(found, &settings, &model, fresh, table) {
            return self.refuse(found, &reason);
        }
        if let Some(served) = self.served.lock().get_mut(name) {
            served.pending = pending;
        }
        self.changed.notify_one();
        log::info!(model = name.as_str(), ms = started.elapsed().as_millis() as u64; "model `{name}` is loaded as far as it can be");
    }

    /// Says why a model did not load; what served before goes on serving.
    fn refuse(&self, found: &FoundModel, reason: &str) {
        let name = &found.name;
        log::error!(model = name.as_str(); "model `{name}` is not loaded: {reason}");
        let version = found.versions.last().map_or("1", |version| &version.version);
        if let Some(served) = self.served.lock().get_mut(name) {
            served.pending = vec![unready(name, version, ModelState::Failed, reason)];
        }
        self.changed.notify_one();
    }

    fn swap(
        &self,
        found: &FoundModel,
        settings: &ModelSettings,
        model: &Arc<Model>,
        fresh: Vec<(Arc<Version>, Prepared)>,
        table: Table,
    ) -> Result<(), String> {
        let config = &settings.config;
        let running = self.served.lock().get(&model.name).map_or(0, |served| served.executors.len());
        let sessions = match (running, fresh.first()) {
            (0, Some((_, prepared))) => sizing::sessions(
                config.sessions,
                Resources {
                    cores: sizing::cores(),
                    free_bytes: config.loading.memory_limit_bytes.unwrap_or(u64::MAX).min(sizing::free_bytes()),
                    session_bytes: prepared.session_bytes,
                    row_s: prepared.row_s,
                    gpu: config.provider.kind == crate::config::ProviderKind::Cuda,
                },
            )?,
            (0, None) => return Ok(()),
            (running, _) => running as u32,
        };
        // One engine per session and fresh version, all opened before any is used.
        let mut engines: Vec<Vec<(Arc<Version>, Box<dyn Engine>)>> = (0..sessions).map(|_| Vec::new()).collect();
        for (version, prepared) in fresh {
            let file = found.versions.iter().find(|file| file.version == version.signature.version);
            let mut first = Some(prepared.engine);
            for own in &mut engines {
                let engine = match (first.take(), file) {
                    (Some(first), _) => first,
                    (None, Some(file)) => {
                        let again = load::open_again(file, &version.signature, config);
                        Box::new(again.map_err(|error| error.to_string())?)
                    }
                    (None, None) => continue,
                };
                own.push((Arc::clone(&version), engine));
            }
        }
        let old = model.table();
        if running == 0 {
            self.start_executors(model, engines, table)?;
        } else {
            // A runner is locked while a batch runs; the table of models must not wait for it.
            for (runner, own) in self.runners(&model.name).into_iter().zip(engines) {
                let mut runner = runner.lock();
                own.into_iter().for_each(|(version, engine)| runner.put(version, engine));
            }
            model.replace(table);
        }
        self.retire(model, &old);
        Ok(())
    }

    fn start_executors(
        &self,
        model: &Arc<Model>,
        engines: Vec<Vec<(Arc<Version>, Box<dyn Engine>)>>,
        table: Table,
    ) -> Result<(), String> {
        let short: SmolStr = self.id.chars().take(6).collect();
        let mut executors = Vec::new();
        // Jobs are decoded against the table, so it stands before the first lease.
        model.replace(table);
        for (number, own) in engines.into_iter().enumerate() {
            let desk = Arc::new(Desk::default());
            let mut runner = Runner::new(short.clone(), Arc::clone(&desk), self.watchdog.clone());
            own.into_iter().for_each(|(version, engine)| runner.put(version, engine));
            self.desks.add(model.name.clone(), &desk);
            let (queue, model, number) = (Arc::clone(&self.queue), Arc::clone(model), number as u32);
            let executor = Executor::start(queue, model, self.id.clone(), number, desk, runner)
                .map_err(|error| format!("cannot start a thread: {error}; raise the process limit"))?;
            executors.push(executor);
        }
        if let Some(served) = self.served.lock().get_mut(&model.name) {
            served.executors = executors;
        }
        Ok(())
    }

    fn runners(&self, model: &str) -> Vec<Arc<Mutex<Runner>>> {
        let served = self.served.lock();
        let executors = served.get(model).map_or(&[][..], |served| &served.executors);
        executors.iter().map(|executor| Arc::clone(&executor.runner)).collect()
    }

    /// Drops replaced versions once no planned job needs them.
    fn retire(&self, model: &Arc<Model>, old: &Table) {
        let current = model.table();
        let gone = old.versions.iter().filter(|old| !current.versions.iter().any(|now| Arc::ptr_eq(now, old)));
        for version in gone {
            let give_up = Instant::now() + RETIRE_LIMIT;
            let sessions = self.served.lock().get(&model.name).map_or(0, |served| served.executors.len());
            // One reference in `old`, one per session's engine; more are planned jobs.
            while Arc::strong_count(version) > sessions + 1 && Instant::now() < give_up {
                std::thread::sleep(Duration::from_millis(5));
            }
            // The lock is held only for the take; the engine is dropped here, on the loading thread.
            for runner in self.runners(&model.name) {
                let engine = runner.lock().remove(version);
                drop(engine);
            }
        }
    }
}
