//! A worker process's life: start, load, register, reload, drain.
//!
//! Threads: one per session ([`crate::run::session`]), one that renews leases, one
//! that registers (heartbeat, commands), one that loads models, and the
//! watchdog. Loading never delays a heartbeat, inference never delays a renewal.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;
use nobat_core::signature::{ModelSignature, ModelState};
use nobat_queue::Queue;
use nobat_runtime::now_ms;
use nobat_runtime::snapshot::Family;
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::watch;

use crate::config::WorkerConfig;
use crate::engine::library::{LibraryError, environment};
use crate::exporter;
use crate::fleet::follow_fleet;
use crate::models::loader::{LoadCommand, Loader};
use crate::models::manifest::Manifest;
use crate::models::scan::{ScanError, scan};
use crate::registration::register;
use crate::run::renewal;
use crate::run::session::drain_all;
use crate::state::{ServedModel, WorkerState};
use crate::tune::example::Example;
use crate::tune::limit::LoadLimit;
use crate::watchdog::Watchdog;

/// How often a drain ends the run of a load: the next run may begin just after one was ended.
const END_LOAD_EVERY: Duration = Duration::from_millis(20);

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No ONNX Runtime.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A model path cannot be read, or two models have one name.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The model paths hold no models.
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

/// A running worker. Dropping it drains it: a thread left inside ONNX Runtime would
/// crash when the library cleans up at the process's end.
pub struct WorkerHandle {
    state: Arc<WorkerState>,
    commands: Sender<LoadCommand>,
    stop: watch::Sender<bool>,
    loaded: watch::Receiver<bool>,
    loader: Option<JoinHandle<()>>,
    registrar: Option<JoinHandle<()>>,
    renewer: Option<JoinHandle<()>>,
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
        // Before the scan: a model published from here on is found by the scan or by a reload.
        let manifest = Manifest::of(config.loading.manifest.clone());
        let found = scan(&config.models)?;
        if found.is_empty() && config.loading.manifest.is_none() {
            let paths: Vec<_> = config.models.iter().map(|path| format!("`{}`", path.display())).collect();
            return Err(StartError::NoModels(paths.join(", ")));
        }
        let state = Arc::new(WorkerState {
            config,
            queue,
            id: new_id(),
            host: format!("{}:{}", host_name(), std::process::id()),
            started_at_ms: now_ms(),
            watchdog: Watchdog::start()?,
            trackers: Default::default(),
            counters: Default::default(),
            served: Mutex::new(ServedModel::of_scan(&found)),
            loads: Default::default(),
            changed: Default::default(),
            nonce: Default::default(),
            transform_threads: Default::default(),
            fleet: Default::default(),
            routed: Default::default(),
            has_chains: Default::default(),
            chain_waits: Default::default(),
            draining: Default::default(),
        });
        let (stop, stopping) = watch::channel(false);
        let (commands, inbox) = crossbeam_channel::unbounded();
        let (set_loaded, loaded) = watch::channel(false);
        // From the first thread on, an error ends the threads that run: it drops the handle.
        let mut handle = WorkerHandle { state, commands, stop, loaded, loader: None, registrar: None, renewer: None };
        let state = &handle.state;
        let (queue, trackers) = (Arc::clone(&state.queue), state.trackers.clone());
        handle.renewer = Some(renewal::start(queue, trackers, state.watchdog.clone(), stopping.clone())?);
        handle.loader = {
            let loader = Loader::new(Arc::clone(state));
            let work = move || loader.run(&inbox, found, manifest, &set_loaded);
            Some(std::thread::Builder::new().name("nobat-load".into()).spawn(work)?)
        };
        handle.registrar = {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (state, commands) = (Arc::clone(state), handle.commands.clone());
            let work = move || {
                let fleet = follow_fleet(Arc::clone(&state), stopping.clone());
                runtime.block_on(async { tokio::join!(register(state, commands, stopping), fleet) });
            };
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
        let failed = self.signatures().into_iter().filter(|model| model.state == ModelState::Failed);
        failed.map(|model| model.reason).collect()
    }

    /// Whether a chain of this worker waited for models that other workers may bring.
    pub fn waits_for_others(&self) -> bool {
        self.state.chain_waits.load(Ordering::Relaxed)
    }

    /// This worker's id in the registry.
    pub fn id(&self) -> &str {
        &self.state.id
    }

    /// Every version, ready or not, as it is published.
    pub fn signatures(&self) -> Vec<ModelSignature> {
        self.state.signatures()
    }

    /// A request that a model's default version was seen to answer at load.
    pub fn example(&self, model: &str) -> Option<Example> {
        let served = self.state.served.lock();
        let table = served.get(model)?.model.table();
        table.versions.get(table.default)?.example.clone()
    }

    /// Reads the counters and the batching of every version whenever it is
    /// called; nothing after the drain. For a metrics listener.
    pub fn families(&self) -> impl Fn() -> Vec<Family> + Send + Sync + 'static {
        let state = Arc::downgrade(&self.state);
        let batching = self.batching();
        move || {
            let statistics = state.upgrade().map(|state| exporter::statistics(&state.versions()));
            statistics.into_iter().flatten().chain(batching()).collect()
        }
    }

    /// Of [`WorkerHandle::families`] the batching alone, for a process whose gateway
    /// shows the counters of every worker.
    pub fn batching(&self) -> impl Fn() -> Vec<Family> + Send + Sync + 'static {
        let state = Arc::downgrade(&self.state);
        move || state.upgrade().map(|state| exporter::batching(&state.versions())).unwrap_or_default()
    }

    /// Looks for new, changed and removed models, in the background.
    pub fn reload(&self) {
        let _ = self.commands.send(LoadCommand::LoadAll);
    }

    /// Drains: stops leasing, finishes what runs, gives the rest back, leaves
    /// the registry. Blocks until that is done.
    pub fn drain(mut self) {
        self.end();
        log::info!(worker = self.state.id.as_str(); "worker drained");
    }

    /// Ends and joins every thread; does nothing the second time.
    fn end(&mut self) {
        let served = {
            let mut served = self.state.served.lock();
            self.state.draining.store(true, Ordering::Relaxed);
            std::mem::take(&mut *served)
        };
        // The sessions first: they lease nothing while a long load is ended.
        drain_all(served.into_values().flat_map(|served| served.sessions).collect());
        let _ = self.commands.send(LoadCommand::Stop);
        while self.loader.as_ref().is_some_and(|loader| !loader.is_finished()) {
            LoadLimit::end_run(&self.state.watchdog);
            std::thread::sleep(END_LOAD_EVERY);
        }
        join(self.loader.take());
        // Only now: until here leases had to be renewed.
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

/// Twelve random characters; their first six name the worker in results.
fn new_id() -> SmolStr {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let random = getrandom::u64().unwrap_or_else(|_| now_ms() ^ u64::from(std::process::id()) << 40);
    (0..12).map(|at| DIGITS[(random >> (at * 5)) as usize % 32] as char).collect()
}

fn host_name() -> String {
    let from_kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = from_kernel().or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    match name.trim() {
        "" => "unknown".to_owned(),
        name => name.to_owned(),
    }
}
