//! A worker process's life: start, load, register, reload, drain.
//!
//! Threads: one per session ([`crate::executor`]), one that renews leases, one
//! that registers (heartbeat, commands), one that loads models, and the
//! watchdog. Loading never delays a heartbeat, inference never delays a renewal.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender};
use nobat_core::signature::{ModelSignature, ModelState};
use nobat_core::statistics::{ModelStatistics, WorkerReport};
use nobat_queue::Queue;
use nobat_queue::backend::Desk;
use nobat_queue::queue::{WorkerCommand, WorkerInfo};
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::{Notify, watch};

use crate::batch::controller::Controller;
use crate::config::WorkerConfig;
use crate::engine::Engine;
use crate::engine::library::{LibraryError, environment};
use crate::executor::Executor;
use crate::model::{Model, Table, Version};
use crate::renew::{self, Desks};
use crate::repository::load::{self, Prepared};
use crate::repository::scan::{FoundModel, ScanError, scan};
use crate::runner::Runner;
use crate::sizing::{self, Resources};
use crate::stats::Stats;
use crate::watchdog::Watchdog;

/// A worker is forgotten so long after its last heartbeat.
const REGISTRATION_TTL: Duration = Duration::from_secs(15);
/// Three heartbeats fit into the ttl.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long jobs planned on a replaced version may keep it in memory.
const RETIRE_LIMIT: Duration = Duration::from_secs(60);

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No ONNX Runtime.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The model paths hold no models.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The system refuses a thread.
    #[error("cannot start a thread: {0}; raise the process limit")]
    Thread(#[from] std::io::Error),
}

/// The worker's entry.
pub struct Worker;

/// A running worker. Drain it before dropping it: a dropped handle leaves the
/// leases to expire by themselves.
pub struct WorkerHandle {
    shared: Arc<Shared>,
    orders: Sender<Order>,
    stop: watch::Sender<bool>,
    loaded: watch::Receiver<bool>,
    loader: Option<JoinHandle<()>>,
    registrar: Option<JoinHandle<()>>,
    renewer: Option<JoinHandle<()>>,
}

/// What the loading thread is asked to do.
enum Order {
    LoadAll,
    Load(SmolStr),
    Unload(SmolStr),
    Stop,
}

/// What the worker's threads share.
struct Shared {
    config: WorkerConfig,
    queue: Arc<dyn Queue>,
    id: SmolStr,
    host: String,
    started_at_ms: u64,
    watchdog: Watchdog,
    desks: Desks,
    served: Mutex<BTreeMap<SmolStr, Served>>,
    changed: Notify,
    nonce: AtomicU64,
}

/// One model of this process.
struct Served {
    model: Arc<Model>,
    executors: Vec<Executor>,
    /// Versions that are loading or failed to load.
    pending: Vec<ModelSignature>,
}

impl Worker {
    /// Starts a worker: loads the library, finds the models and starts loading
    /// and serving them. Returns before they are loaded (see
    /// [`WorkerHandle::ready`]).
    ///
    /// # Errors
    /// [`StartError`], one line that says what to mend.
    pub fn start(config: WorkerConfig, queue: Arc<dyn Queue>) -> Result<WorkerHandle, StartError> {
        environment()?;
        let found = scan(&config.models)?;
        let shared = Arc::new(Shared {
            config,
            queue,
            id: new_id(),
            host: format!("{}:{}", host_name(), std::process::id()),
            started_at_ms: now_ms(),
            watchdog: Watchdog::start()?,
            desks: Desks::default(),
            served: Mutex::new(found.values().map(|model| (model.name.clone(), Served::loading(model))).collect()),
            changed: Notify::new(),
            nonce: AtomicU64::new(0),
        });
        let (stop, stopping) = watch::channel(false);
        let (orders, inbox) = crossbeam_channel::unbounded();
        let (tell_loaded, loaded) = watch::channel(false);
        let renewer = renew::start(Arc::clone(&shared.queue), shared.desks.clone(), stopping.clone())?;
        let loader = {
            let shared = Arc::clone(&shared);
            let work = move || shared.load_orders(&inbox, found, &tell_loaded);
            std::thread::Builder::new().name("nobat-load".into()).spawn(work)?
        };
        let registrar = {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (shared, orders) = (Arc::clone(&shared), orders.clone());
            let work = move || runtime.block_on(shared.register(orders, stopping));
            std::thread::Builder::new().name("nobat-register".into()).spawn(work)?
        };
        Ok(WorkerHandle {
            shared,
            orders,
            stop,
            loaded,
            loader: Some(loader),
            registrar: Some(registrar),
            renewer: Some(renewer),
        })
    }
}

impl WorkerHandle {
    /// Waits until every model found at start has loaded or failed to; returns
    /// the reasons of those that failed.
    pub async fn ready(&self) -> Vec<String> {
        let mut loaded = self.loaded.clone();
        // An error means the loader ended, after which nothing changes.
        let _ = loaded.wait_for(|&loaded| loaded).await;
        self.signatures()
            .into_iter()
            .filter(|model| model.state == ModelState::Failed)
            .map(|model| model.reason)
            .collect()
    }

    /// This worker's id in the registry.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Every version, ready or not, as it is published.
    pub fn signatures(&self) -> Vec<ModelSignature> {
        self.shared.signatures()
    }

    /// Reads the counters of every version whenever it is called; nothing after
    /// the drain. For a metrics listener.
    pub fn statistics(&self) -> impl Fn() -> Vec<ModelStatistics> + Send + Sync + 'static {
        let shared = Arc::downgrade(&self.shared);
        move || shared.upgrade().map(|shared| shared.statistics()).unwrap_or_default()
    }

    /// Looks for new, changed and removed models, in the background.
    pub fn reload(&self) {
        let _ = self.orders.send(Order::LoadAll);
    }

    /// Drains: stops leasing, finishes what runs, gives the rest back, leaves
    /// the registry. Blocks until that is done.
    pub fn drain(mut self) {
        let _ = self.orders.send(Order::Stop);
        join(self.loader.take());
        let served = std::mem::take(&mut *self.shared.served.lock());
        let executors: Vec<Executor> = served.into_values().flat_map(|served| served.executors).collect();
        executors.iter().for_each(Executor::drain);
        executors.into_iter().for_each(Executor::join);
        // Only now: until here leases were still to be renewed.
        self.stop.send_replace(true);
        join(self.registrar.take());
        join(self.renewer.take());
        log::info!(worker = self.shared.id.as_str(); "worker drained");
    }
}

fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread
        && thread.join().is_err()
    {
        log::error!("a thread of the worker panicked");
    }
}

impl Served {
    fn loading(found: &FoundModel) -> Served {
        let pending =
            found.versions.iter().map(|version| unready(&found.name, &version.version, ModelState::Loading, ""));
        Served { model: Arc::new(Model::new(found.name.clone())), executors: Vec::new(), pending: pending.collect() }
    }
}

/// The signature of a version that does not serve.
fn unready(name: &str, version: &str, state: ModelState, reason: &str) -> ModelSignature {
    ModelSignature {
        name: name.into(),
        version: version.into(),
        digest: String::new(),
        state,
        reason: reason.to_owned(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        batched: false,
        max_batch_size: 1,
        max_rows: 1,
        finite: false,
        labels: Vec::new(),
        settings: serde_json::Map::new(),
    }
}

// Registration.
impl Shared {
    async fn register(self: Arc<Shared>, orders: Sender<Order>, mut stop: watch::Receiver<bool>) {
        loop {
            if let Err(error) = self.queue.register_worker(&self.info(), REGISTRATION_TTL).await {
                log::warn!(code = error.code.as_str(); "cannot register this worker: {error}");
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(HEARTBEAT) => {}
                command = self.queue.next_command() => match command {
                    WorkerCommand::Load { model } => drop(orders.send(Order::Load(model))),
                    WorkerCommand::Unload { model } => drop(orders.send(Order::Unload(model))),
                    WorkerCommand::Report { nonce } => self.nonce.store(nonce, Ordering::Relaxed),
                },
                _ = stop.wait_for(|&stop| stop) => break,
            }
        }
        if let Err(error) = self.queue.deregister_worker(&self.id).await {
            log::warn!("cannot leave the registry, which forgets this worker by itself: {error}");
        }
    }

    fn info(&self) -> WorkerInfo {
        // The nonce first: the counters read after it answer it.
        let nonce = self.nonce.load(Ordering::Relaxed);
        let served = self.served.lock();
        let sessions = served.values().map(|served| served.executors.len() as u32).sum();
        drop(served);
        let versions = self.versions();
        let statistics = versions.iter().map(|version| version.stats.counted()).collect();
        let mut report = serde_json::to_value(WorkerReport { nonce, statistics }).unwrap_or_default();
        report["batching"] = versions.iter().map(|version| version.report()).collect();
        WorkerInfo {
            id: self.id.clone(),
            host: self.host.clone(),
            started_at_ms: self.started_at_ms,
            sessions,
            models: self.signatures(),
            report,
        }
    }

    fn versions(&self) -> Vec<Arc<Version>> {
        self.served.lock().values().flat_map(|served| served.model.table().versions.clone()).collect()
    }

    fn statistics(&self) -> Vec<ModelStatistics> {
        self.versions().iter().map(|version| version.stats.counted()).collect()
    }

    fn signatures(&self) -> Vec<ModelSignature> {
        let served = self.served.lock();
        let all = served.values().flat_map(|served| {
            let table = served.model.table();
            let ready = table.versions.iter().map(|version| version.signature.clone()).collect::<Vec<_>>();
            ready.into_iter().chain(served.pending.iter().cloned())
        });
        all.collect()
    }
}

// Loading.
impl Shared {
    fn load_orders(&self, inbox: &Receiver<Order>, found: BTreeMap<SmolStr, FoundModel>, loaded: &watch::Sender<bool>) {
        for model in found.values() {
            if matches!(inbox.try_recv(), Ok(Order::Stop)) {
                return;
            }
            self.load(model);
        }
        loaded.send_replace(true);
        while let Ok(order) = inbox.recv() {
            match order {
                Order::Stop => return,
                Order::Unload(name) => self.unload(&name),
                Order::LoadAll => self.reload(None),
                Order::Load(name) => self.reload(Some(&name)),
            }
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
        // The latest version serves.
        for version in found.versions.iter().rev().take(1) {
            let current = old.versions.iter().find(|current| current.signature.version == version.version);
            let prepared = load::digest(&version.file)
                .map_err(|reason| load::LoadError::Unreadable { path: version.file.display().to_string(), reason })
                .and_then(|digest| match current {
                    Some(current) if current.signature.digest == digest => Ok(None),
                    _ => load::prepare(name, version, digest, &self.config).map(Some),
                });
            match prepared {
                Ok(None) => versions.extend(current.cloned()),
                Ok(Some(prepared)) => {
                    let counted =
                        current.map_or_else(|| ModelStatistics::new(name, &version.version), |old| old.stats.counted());
                    let ready = Arc::new(Version::new(
                        prepared.signature.clone(),
                        Controller::new(&prepared.batching, prepared.signature.max_batch_size),
                        Stats::new(counted),
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
        if let Err(reason) = self.swap(found, &model, fresh, versions) {
            log::error!(model = name.as_str(); "model `{name}` is not loaded: {reason}");
            let version = found.versions.last().map_or("1", |version| &version.version);
            pending.push(unready(name, version, ModelState::Failed, &reason));
        }
        if let Some(served) = self.served.lock().get_mut(name) {
            served.pending = pending;
        }
        self.changed.notify_one();
        log::info!(model = name.as_str(), ms = started.elapsed().as_millis() as u64; "model `{name}` is loaded as far as it can be");
    }

    fn swap(
        &self,
        found: &FoundModel,
        model: &Arc<Model>,
        fresh: Vec<(Arc<Version>, Prepared)>,
        versions: Vec<Arc<Version>>,
    ) -> Result<(), String> {
        let running = self.served.lock().get(&model.name).map_or(0, |served| served.executors.len());
        let sessions = match (running, fresh.first()) {
            (0, Some((_, prepared))) => sizing::sessions(
                self.config.sessions,
                Resources {
                    cores: sizing::cores(),
                    free_bytes: self.config.loading.memory_limit_bytes.unwrap_or(u64::MAX).min(sizing::free_bytes()),
                    session_bytes: prepared.session_bytes,
                    row_s: prepared.row_s,
                    gpu: self.config.provider.kind == crate::config::ProviderKind::Cuda,
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
                    (None, Some(file)) => Box::new(load::open(file, &self.config).map_err(|error| error.to_string())?),
                    (None, None) => continue,
                };
                own.push((Arc::clone(&version), engine));
            }
        }
        let old = model.table();
        if running == 0 {
            self.start_executors(model, engines, versions)?;
        } else {
            let served = self.served.lock();
            let Some(served) = served.get(&model.name) else { return Ok(()) };
            for (executor, own) in served.executors.iter().zip(engines) {
                let mut runner = executor.runner.lock();
                own.into_iter().for_each(|(version, engine)| runner.put(version, engine));
            }
            model.replace(Table { default: versions.len().saturating_sub(1), versions });
        }
        self.retire(model, &old);
        Ok(())
    }

    fn start_executors(
        &self,
        model: &Arc<Model>,
        engines: Vec<Vec<(Arc<Version>, Box<dyn Engine>)>>,
        versions: Vec<Arc<Version>>,
    ) -> Result<(), String> {
        let short: SmolStr = self.id.chars().take(6).collect();
        let mut executors = Vec::new();
        // Jobs are decoded against the table, so it stands before the first lease.
        model.replace(Table { default: versions.len().saturating_sub(1), versions });
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
            let served = self.served.lock();
            let executors = served.get(&model.name).map_or(&[][..], |served| &served.executors);
            let runners: Vec<_> = executors.iter().map(|executor| Arc::clone(&executor.runner)).collect();
            drop(served);
            // The lock is held only for the take; the engine is dropped here, on the loading thread.
            for runner in runners {
                let engine = runner.lock().remove(version);
                drop(engine);
            }
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Twelve random characters; their first six name the worker in results.
fn new_id() -> SmolStr {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let random = getrandom::u64().unwrap_or_else(|_| now_ms() ^ u64::from(std::process::id()) << 40);
    (0..12).map(|at| DIGITS[(random >> (at * 5)) as usize % 32] as char).collect()
}

fn host_name() -> String {
    let from_kernel = || std::fs::read_to_string(PathBuf::from("/proc/sys/kernel/hostname")).ok();
    let name = from_kernel().or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    match name.trim() {
        "" => "unknown".to_owned(),
        name => name.to_owned(),
    }
}
