//! A worker process's life: start, load, register, reload, drain.
//!
//! Threads: one per session ([`crate::executor`]), one that renews leases, one
//! that registers (heartbeat, commands), one that loads models, and the
//! watchdog. Loading never delays a heartbeat, inference never delays a renewal.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::Sender;
use nobat_core::signature::{ModelSignature, ModelState};
use nobat_core::statistics::WorkerReport;
use nobat_queue::queue::{LOADS, LoadProgress, WorkerCommand, WorkerInfo};
use nobat_queue::{Queue, departed};
use nobat_runtime::snapshot::Family;
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::{Notify, watch};

use crate::config::{Sessions, WorkerConfig};
use crate::engine::library::{LibraryError, environment};
use crate::example::Example;
use crate::executor::Executor;
use crate::exposition;
use crate::model::{Model, Version};
use crate::probe::Bound;
use crate::renew::{self, Desks};
use crate::repository::manifest::Manifest;
use crate::repository::scan::{Found, FoundModel, ScanError, scan};
use crate::stats::Counters;
use crate::watchdog::Watchdog;

mod install;
mod loading;

use loading::Loader;

/// A worker is forgotten so long after its last heartbeat.
const REGISTRATION_TTL: Duration = Duration::from_secs(15);
/// Models whose loads and unloads are remembered: anybody may ask for any name.
const MOST_LOADS: usize = 1_000;
/// Three heartbeats fit into the ttl.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often a drain ends the run of a load: a run may begin just after it was looked for.
const END_EVERY: Duration = Duration::from_millis(20);

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No ONNX Runtime.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The model paths hold no models.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// They hold none at all.
    #[error(
        "no model is in {0}; looked for NAME.onnx, NAME/model.onnx and NAME/VERSION/model.onnx (VERSION: 1, 2, …); a start that is to wait for models names a file to watch in worker.loading.manifest"
    )]
    NoModels(String),
    /// The system refuses a thread.
    #[error("cannot start a thread: {0}; raise the process limit")]
    Thread(#[from] std::io::Error),
}

/// The worker's entry.
pub struct Worker;

/// A running worker. Dropping it drains it: no thread of it is left inside ONNX
/// Runtime, whose clean-up at the process's end would take the ground from under it.
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
    counters: Counters,
    served: Mutex<BTreeMap<SmolStr, Served>>,
    /// By model: the loads and unloads it was told to carry out.
    loads: Mutex<BTreeMap<SmolStr, LoadProgress>>,
    changed: Notify,
    nonce: AtomicU64,
    /// Set under the lock of `served`: no executor is put there afterwards.
    draining: AtomicBool,
}

/// One model of this process.
struct Served {
    model: Arc<Model>,
    executors: Vec<Executor>,
    /// The setting that the number of executors was found by.
    asked: Sessions,
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
        // Before the scan: what is published from here on is found by it or by a reload.
        let manifest = Manifest::of(config.loading.manifest.clone());
        let found = scan(&config.models)?;
        if found.is_empty() && config.loading.manifest.is_none() {
            let paths: Vec<_> = config.models.iter().map(|path| format!("`{}`", path.display())).collect();
            return Err(StartError::NoModels(paths.join(", ")));
        }
        let shared = Arc::new(Shared {
            config,
            queue,
            id: new_id(),
            host: format!("{}:{}", host_name(), std::process::id()),
            started_at_ms: now_ms(),
            watchdog: Watchdog::start()?,
            desks: Desks::default(),
            counters: Counters::default(),
            served: Mutex::new(Served::of(&found)),
            loads: Mutex::default(),
            changed: Notify::new(),
            nonce: AtomicU64::new(0),
            draining: AtomicBool::new(false),
        });
        let (stop, stopping) = watch::channel(false);
        let (orders, inbox) = crossbeam_channel::unbounded();
        let (tell_loaded, loaded) = watch::channel(false);
        // From the first thread on, what fails ends those that run: the handle is dropped.
        let mut handle = WorkerHandle { shared, orders, stop, loaded, loader: None, registrar: None, renewer: None };
        let shared = &handle.shared;
        let (queue, desks) = (Arc::clone(&shared.queue), shared.desks.clone());
        handle.renewer = Some(renew::start(queue, desks, shared.watchdog.clone(), stopping.clone())?);
        handle.loader = {
            let loader = Loader::new(Arc::clone(shared));
            let work = move || loader.run(&inbox, found, manifest, &tell_loaded);
            Some(std::thread::Builder::new().name("nobat-load".into()).spawn(work)?)
        };
        handle.registrar = {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (shared, orders) = (Arc::clone(shared), handle.orders.clone());
            let work = move || runtime.block_on(shared.register(orders, stopping));
            Some(std::thread::Builder::new().name("nobat-register".into()).spawn(work)?)
        };
        Ok(handle)
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

    /// A request that a model's default version was seen to answer at load.
    pub fn example(&self, model: &str) -> Option<Example> {
        let served = self.shared.served.lock();
        let table = served.get(model)?.model.table();
        table.versions.get(table.default)?.example.clone()
    }

    /// Reads the counters and the batching of every version whenever it is
    /// called; nothing after the drain. For a metrics listener.
    pub fn families(&self) -> impl Fn() -> Vec<Family> + Send + Sync + 'static {
        let shared = Arc::downgrade(&self.shared);
        let batching = self.batching();
        move || {
            let statistics = shared.upgrade().map(|shared| exposition::statistics(&shared.versions()));
            statistics.into_iter().flatten().chain(batching()).collect()
        }
    }

    /// Of [`WorkerHandle::families`] the batching alone, for a process whose gateway
    /// shows the counters of every worker.
    pub fn batching(&self) -> impl Fn() -> Vec<Family> + Send + Sync + 'static {
        let shared = Arc::downgrade(&self.shared);
        move || shared.upgrade().map(|shared| exposition::batching(&shared.versions())).unwrap_or_default()
    }

    /// Looks for new, changed and removed models, in the background.
    pub fn reload(&self) {
        let _ = self.orders.send(Order::LoadAll);
    }

    /// Drains: stops leasing, finishes what runs, gives the rest back, leaves
    /// the registry. Blocks until that is done.
    pub fn drain(mut self) {
        self.end();
        log::info!(worker = self.shared.id.as_str(); "worker drained");
    }

    /// Ends and joins every thread; does nothing the second time.
    fn end(&mut self) {
        let served = {
            let mut served = self.shared.served.lock();
            self.shared.draining.store(true, Ordering::Relaxed);
            std::mem::take(&mut *served)
        };
        // The sessions first: a load may take its time, and they must lease nothing meanwhile.
        install::end(served.into_values().flat_map(|served| served.executors).collect());
        let _ = self.orders.send(Order::Stop);
        while self.loader.as_ref().is_some_and(|loader| !loader.is_finished()) {
            Bound::end(&self.shared.watchdog);
            std::thread::sleep(END_EVERY);
        }
        join(self.loader.take());
        // Only now: until here leases were still to be renewed.
        self.stop.send_replace(true);
        join(self.registrar.take());
        join(self.renewer.take());
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.end();
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
    /// What a first scan has found: models to be loaded, and what looks like one.
    fn of(found: &Found) -> BTreeMap<SmolStr, Served> {
        let loading = found.models.values().map(|model| (model.name.clone(), Served::loading(model)));
        let left_out = found.left_out.iter().map(|(name, reason)| (name.clone(), Served::left_out(name, reason)));
        loading.chain(left_out).collect()
    }

    fn left_out(name: &SmolStr, reason: &str) -> Served {
        Served {
            model: Arc::new(Model::new(name.clone())),
            executors: Vec::new(),
            asked: Sessions::default(),
            pending: vec![unready(name, "1", ModelState::Failed, reason)],
        }
    }

    fn loading(found: &FoundModel) -> Served {
        let pending =
            found.versions.iter().map(|version| unready(&found.name, &version.version, ModelState::Loading, ""));
        Served {
            model: Arc::new(Model::new(found.name.clone())),
            executors: Vec::new(),
            asked: Sessions::default(),
            pending: pending.collect(),
        }
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
        rows: Default::default(),
        max_batch_size: 1,
        max_rows: 1,
        finite: false,
        default: false,
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
                    WorkerCommand::Load { model } => {
                        self.take_up(&model);
                        let _ = orders.send(Order::Load(model));
                    }
                    WorkerCommand::Unload { model } => {
                        self.take_up(&model);
                        let _ = orders.send(Order::Unload(model));
                    }
                    WorkerCommand::Report { nonce } => self.nonce.store(nonce, Ordering::Relaxed),
                },
                _ = stop.wait_for(|&stop| stop) => break,
            }
        }
        // Before the registration ends: who sees it end knows why.
        if let Err(error) = departed::note(&*self.queue.ledger(), &self.id, &self.host).await {
            log::debug!("cannot note that this worker leaves: {error}");
        }
        if let Err(error) = self.queue.deregister_worker(&self.id).await {
            log::warn!("cannot leave the registry, which forgets this worker by itself: {error}");
        }
    }

    /// Counts a command for `model`, before it is ordered.
    fn take_up(&self, model: &SmolStr) {
        let served = self.served.lock();
        let mut loads = self.loads.lock();
        if loads.len() >= MOST_LOADS {
            // Whoever asked for a model that is nowhere has its answer by now.
            loads.retain(|name, progress| progress.done < progress.taken || served.contains_key(name));
        }
        loads.entry(model.clone()).or_default().taken += 1;
    }

    fn info(&self) -> WorkerInfo {
        // The nonce first: the counters read after it answer it.
        let nonce = self.nonce.load(Ordering::Relaxed);
        let served = self.served.lock();
        let sessions = served.values().map(|served| served.executors.len() as u32).sum();
        drop(served);
        let versions = self.versions();
        let statistics = versions.iter().map(|version| version.stats.counted().statistics).collect();
        let mut report = serde_json::to_value(WorkerReport { nonce, statistics }).unwrap_or_default();
        report[LOADS] = serde_json::to_value(&*self.loads.lock()).unwrap_or_default();
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

    /// Publishes what a version takes and gives while it loads: jobs for it can be
    /// accepted from then on. One that serves, or failed before, says more already.
    fn publish_loading(&self, signature: ModelSignature) {
        let mut served = self.served.lock();
        let pending = served.get_mut(&signature.name).into_iter().flat_map(|served| &mut served.pending);
        let own = |known: &&mut ModelSignature| {
            known.version == signature.version && known.state == ModelState::Loading && known.digest.is_empty()
        };
        if let Some(known) = pending.into_iter().find(own) {
            *known = signature;
            drop(served);
            self.changed.notify_one();
        }
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn versions(&self) -> Vec<Arc<Version>> {
        self.served.lock().values().flat_map(|served| served.model.table().versions.clone()).collect()
    }

    fn signatures(&self) -> Vec<ModelSignature> {
        let served = self.served.lock();
        let all = served.values().flat_map(|served| {
            let ready = served.model.table().signatures();
            ready.into_iter().chain(served.pending.iter().cloned())
        });
        all.collect()
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
