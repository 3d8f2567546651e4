//! What a worker's threads share: its models and how each stands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nobat_core::chain::ChainDefinition;
use nobat_core::signature::{ModelSignature, ModelState};
use nobat_queue::{LoadProgress, Queue};
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::Notify;

use crate::config::{Sessions, WorkerConfig};
use crate::model::{Model, Version};
use crate::models::scan::{FoundModel, ScanResult};
use crate::run::renewal::LeaseTrackers;
use crate::run::session::Session;
use crate::stats::Counters;
use crate::transform_threads::TransformThreads;
use crate::tune::sizing;
use crate::watchdog::Watchdog;

/// Chains that were declared as routes, by name.
pub(crate) type RoutedChains = BTreeMap<SmolStr, Arc<ChainDefinition>>;

/// What the worker's threads share.
pub(crate) struct WorkerState {
    pub(crate) config: WorkerConfig,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) id: SmolStr,
    pub(crate) host: String,
    pub(crate) started_at_ms: u64,
    pub(crate) watchdog: Watchdog,
    pub(crate) trackers: LeaseTrackers,
    pub(crate) counters: Counters,
    pub(crate) served: Mutex<BTreeMap<SmolStr, ServedModel>>,
    /// By model: how many load and unload commands were received and carried out.
    pub(crate) loads: Mutex<BTreeMap<SmolStr, LoadProgress>>,
    /// Wakes the registration: what is published has changed.
    pub(crate) changed: Notify,
    /// Number of the last report asked for, which the next registration answers.
    pub(crate) nonce: AtomicU64,
    /// Threads that prepare jobs; started with the first model that needs them.
    pub(crate) transform_threads: Mutex<Option<TransformThreads>>,
    /// Ready versions of other workers, for chains with steps there.
    pub(crate) fleet: Mutex<Vec<ModelSignature>>,
    /// Chains that were declared as routes.
    pub(crate) routed: Mutex<RoutedChains>,
    /// Whether this worker has a chain, for which the fleet matters.
    pub(crate) has_chains: AtomicBool,
    /// Whether a chain waited for models of its steps, which other workers may bring.
    pub(crate) chain_waits: AtomicBool,
    /// Set under the lock of `served`: no session is put there afterwards.
    pub(crate) draining: AtomicBool,
}

/// One model of this process.
pub(crate) struct ServedModel {
    pub(crate) model: Arc<Model>,
    pub(crate) sessions: Vec<Session>,
    /// The setting that decided how many sessions there are.
    pub(crate) sessions_setting: Sessions,
    /// Versions that are loading or failed to load.
    pub(crate) pending: Vec<ModelSignature>,
}

impl WorkerState {
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The threads that prepare jobs.
    pub(crate) fn transform_threads(&self) -> std::io::Result<TransformThreads> {
        let mut threads = self.transform_threads.lock();
        if let Some(started) = &*threads {
            return Ok(started.clone());
        }
        let count = match self.config.transform_threads {
            0 => sizing::cores(),
            count => count,
        };
        Ok(threads.insert(TransformThreads::start(count)?).clone())
    }

    /// Every ready version.
    pub(crate) fn versions(&self) -> Vec<Arc<Version>> {
        self.served.lock().values().flat_map(|served| served.model.table().versions.clone()).collect()
    }

    /// Every version, ready or not, as it is published.
    pub(crate) fn signatures(&self) -> Vec<ModelSignature> {
        let served = self.served.lock();
        let all = served.values().flat_map(|served| {
            let ready = served.model.table().signatures();
            ready.into_iter().chain(served.pending.iter().cloned())
        });
        all.collect()
    }

    /// Publishes the signature of a version that is still loading, so that jobs for it are
    /// accepted from then on. A version that serves, or has failed before, stays as it is.
    pub(crate) fn publish_loading(&self, signature: ModelSignature) {
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
}

impl ServedModel {
    /// The models of a first scan: those to be loaded, and folders that look like one.
    pub(crate) fn of_scan(found: &ScanResult) -> BTreeMap<SmolStr, ServedModel> {
        let loading = found.models.values().map(|model| (model.name.clone(), ServedModel::loading(model)));
        let left_out = found.left_out.iter().map(|(name, why)| (name.clone(), ServedModel::left_out(name, why)));
        loading.chain(left_out).collect()
    }

    pub(crate) fn left_out(name: &SmolStr, reason: &str) -> ServedModel {
        ServedModel::new(name, vec![unready(name, "1", ModelState::Failed, reason)])
    }

    pub(crate) fn loading(found: &FoundModel) -> ServedModel {
        let pending = found.versions.iter().map(|own| unready(&found.name, &own.version, ModelState::Loading, ""));
        ServedModel::new(&found.name, pending.collect())
    }

    fn new(name: &SmolStr, pending: Vec<ModelSignature>) -> ServedModel {
        let model = Arc::new(Model::new(name.clone()));
        ServedModel { model, sessions: Vec::new(), sessions_setting: Sessions::default(), pending }
    }
}

/// The signature of a version that does not serve.
pub(crate) fn unready(name: &str, version: &str, state: ModelState, reason: &str) -> ModelSignature {
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
        task: None,
    }
}
