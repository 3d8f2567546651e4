//! A served model: its versions, as every thread of the process sees them.
//!
//! One queue per model, any number of versions behind it. Readers take the
//! table without a lock; a load or unload swaps a whole new one in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use nobat_core::signature::{ModelSignature, digest_mark};
use nobat_core::{Error, ErrorCode};
use nobat_transform::Transform;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use smol_str::SmolStr;

use crate::batch::controller::Controller;
use crate::batch::run_cost::RunCost;
use crate::chain::loaded::LoadedChain;
use crate::chain::step_queue::StepQueue;
use crate::models::settings::LoadSettings;
use crate::stats::Stats;
use crate::tune::example::Example;
use crate::tune::samples::Samples;

/// What stands between the callers of a version and its session.
#[derive(Clone, Debug)]
pub(crate) struct Transformed {
    pub(crate) transform: Arc<dyn Transform>,
    /// Whether several rows may share a run.
    pub(crate) batched: bool,
    pub(crate) cost: RunCost,
    /// Most rows of a run times the longest of them.
    pub(crate) padded: u32,
    /// Most rows of a run.
    pub(crate) max_rows: u32,
}

/// One ready version of a model.
#[derive(Debug)]
pub(crate) struct Version {
    /// What callers give it and get from it. Its labels, its default and the owner's settings are in the
    /// [`Table`].
    pub(crate) signature: ModelSignature,
    /// Its digest, hashed, as results carry it.
    pub(crate) mark: u64,
    /// Its batch controller, shared by the model's sessions.
    pub(crate) controller: Mutex<Controller>,
    pub(crate) stats: Stats,
    pub(crate) max_batch_bytes: u64,
    pub(crate) loaded_with: LoadSettings,
    /// A request that it answered at load.
    pub(crate) example: Option<Example>,
    /// Where callers do not see the graph's own tensors.
    pub(crate) transformed: Option<Transformed>,
    /// Where its graph is other models.
    pub(crate) chain: Option<Arc<LoadedChain>>,
    /// Whether the policy lets jobs share a run.
    together: bool,
    /// Real requests for a trial, where graph and synthetic input leave it open.
    pub(crate) samples: Samples,
    /// Set when a run showed that rows are not independent after all.
    unbatched: AtomicBool,
}

impl Version {
    pub(crate) fn new(
        signature: ModelSignature,
        controller: Controller,
        stats: Stats,
        max_batch_bytes: u64,
    ) -> Version {
        Version {
            mark: digest_mark(&signature.digest),
            signature,
            together: controller.batches(),
            controller: Mutex::new(controller),
            stats,
            max_batch_bytes,
            loaded_with: LoadSettings::default(),
            example: None,
            transformed: None,
            chain: None,
            samples: Samples::default(),
            unbatched: AtomicBool::new(false),
        }
    }

    /// The same, loaded with these settings, with a request that it answered, and with real
    /// requests kept for a trial if they are wanted.
    pub(crate) fn loaded(self, with: LoadSettings, example: Option<Example>, wants_samples: bool) -> Version {
        Version { loaded_with: with, example, samples: Samples::new(wants_samples), ..self }
    }

    /// The same, with a transformation before and after its session.
    pub(crate) fn transformed(self, transformed: Option<Transformed>) -> Version {
        Version { transformed, ..self }
    }

    /// The same, whose graph is other models.
    pub(crate) fn chained(self, chain: LoadedChain) -> Version {
        Version { chain: Some(Arc::new(chain)), ..self }
    }

    /// Whether rows of different jobs may share a run.
    pub(crate) fn batches(&self) -> bool {
        self.together && self.splits()
    }

    /// Whether rows of one job may run apart.
    pub(crate) fn splits(&self) -> bool {
        let batched = self.transformed.as_ref().map_or(self.signature.batched, |own| own.batched);
        batched && !self.unbatched.load(Ordering::Relaxed)
    }

    /// Batching state beside the counters, for people and gateways.
    pub(crate) fn report(&self) -> Value {
        let mut report = self.controller.lock().report(Instant::now());
        report["model"] = self.signature.name.as_str().into();
        report["version"] = self.signature.version.as_str().into();
        report["batched"] = self.batches().into();
        let counted = self.stats.counted();
        report["back_offs"] = counted.back_offs.into();
        report["waits"] = json!({ "batch_wait": counted.batch_wait, "expired": counted.expired });
        report
    }

    /// Runs every job alone from now on.
    pub(crate) fn stop_batching(&self, why: &str) {
        if !self.unbatched.swap(true, Ordering::Relaxed) {
            let (model, version) = (self.signature.name.as_str(), self.signature.version.as_str());
            log::warn!(model, version; "running model `{model}` version {version} one job at a time: {why}");
        }
    }
}

/// A model's ready versions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) versions: Vec<Arc<Version>>,
    /// The one that answers when none is asked for.
    pub(crate) default: usize,
    /// The ready version that each label names.
    pub(crate) labels: BTreeMap<SmolStr, SmolStr>,
    /// What the gateway reads, the same for every version.
    pub(crate) settings: Map<String, Value>,
}

impl Table {
    /// The versions as they are published.
    pub(crate) fn signatures(&self) -> Vec<ModelSignature> {
        let published = |(at, version): (usize, &Arc<Version>)| {
            let own = &version.signature;
            let labels = self.labels.iter().filter(|(_, named)| **named == own.version);
            ModelSignature {
                default: at == self.default,
                labels: labels.map(|(label, _)| label.clone()).collect(),
                settings: over(&own.settings, &self.settings),
                ..own.clone()
            }
        };
        self.versions.iter().enumerate().map(published).collect()
    }

    /// Whether the sessions share their jobs' rows: any version may be transformed.
    pub(crate) fn shares_rows(&self) -> bool {
        self.versions.iter().any(|version| version.loaded_with.may_be_transformed)
    }

    fn version(&self, number: &str) -> Option<&Arc<Version>> {
        self.versions.iter().find(|version| version.signature.version == number)
    }
}

/// The file's own settings with the owner's over them; class labels are merged by output.
fn over(file: &Map<String, Value>, set: &Map<String, Value>) -> Map<String, Value> {
    let mut all = file.clone();
    for (key, value) in set {
        match (all.get_mut(key).and_then(Value::as_object_mut), value.as_object()) {
            (Some(own), Some(more)) => own.extend(more.clone()),
            _ => drop(all.insert(key.clone(), value.clone())),
        }
    }
    all
}

/// A model and its current table.
#[derive(Debug)]
pub(crate) struct Model {
    /// Its name, which is its queue's.
    pub(crate) name: SmolStr,
    table: ArcSwap<Table>,
    /// What chains of this process ask of it.
    steps: Arc<StepQueue>,
}

impl Model {
    pub(crate) fn new(name: SmolStr) -> Model {
        Model { name, table: ArcSwap::default(), steps: Arc::default() }
    }

    /// The same model for new sessions, with no version yet; what chains ask goes to both.
    pub(crate) fn renewed(&self) -> Model {
        Model { name: self.name.clone(), table: ArcSwap::default(), steps: Arc::clone(&self.steps) }
    }

    /// What chains of this process ask of it.
    pub(crate) fn steps(&self) -> &Arc<StepQueue> {
        &self.steps
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    pub(crate) fn replace(&self, table: Table) {
        self.table.store(Arc::new(table));
    }

    /// The version a request asks for: empty is the default, else a version or
    /// one of its labels.
    ///
    /// # Errors
    /// `model_not_ready` without any version, `version_not_found` naming those
    /// that are ready.
    pub(crate) fn resolve(&self, asked: &str) -> Result<Arc<Version>, Error> {
        let table = self.table.load();
        let found = match asked {
            "" => table.versions.get(table.default),
            _ => table.version(asked).or_else(|| table.version(table.labels.get(asked)?)),
        };
        if let Some(version) = found {
            return Ok(Arc::clone(version));
        }
        let name = &self.name;
        if table.versions.is_empty() {
            let message = format!("model `{name}` has no ready version on this worker");
            return Err(Error::new(ErrorCode::ModelNotReady, message));
        }
        let ready: Vec<_> = table.versions.iter().map(|version| version.signature.version.as_str()).collect();
        let message = format!("model `{name}` has no version `{asked}`; ready versions: {}", ready.join(", "));
        Err(Error::new(ErrorCode::VersionNotFound, message))
    }
}
