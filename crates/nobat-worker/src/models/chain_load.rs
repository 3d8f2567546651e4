//! From a chain's file to a version ready to serve: its steps are models that this worker
//! or another one has ready. Nothing is opened and nothing runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nobat_core::chain::{Chain, ChainDefinition, Function, Known, PlanError, StepDefinition, StepWork, Wire, plan};
use nobat_core::signature::{CHAIN, ModelSignature, ModelState};
use nobat_transform::StepFunction;
use serde_json::json;
use sha2::{Digest, Sha256};
use smol_str::SmolStr;

use super::chains;
use super::scan::FoundVersion;
use super::settings::ModelSettings;
use crate::batch::controller::Controller;
use crate::chain::loaded::LoadedChain;
use crate::model::Version;
use crate::state::WorkerState;
use crate::transform_threads::TransformThreads;

/// Why a version is not loaded; one line.
#[derive(Debug)]
pub(crate) enum NotLoaded {
    /// Steps of a chain are not ready yet.
    Waits(String),
    Failed(String),
}

impl From<String> for NotLoaded {
    fn from(reason: String) -> NotLoaded {
        NotLoaded::Failed(reason)
    }
}

/// Of each ready version: name, version, digest, whether it is the default, labels, most rows.
pub(crate) type Fingerprint = BTreeSet<(SmolStr, SmolStr, String, bool, Vec<SmolStr>, u32)>;

/// Every ready version of this worker and of others.
pub(crate) struct KnownModels(Vec<ModelSignature>);

impl KnownModels {
    pub(crate) fn now(state: &WorkerState) -> KnownModels {
        let own = state.signatures().into_iter().filter(|model| model.state == ModelState::Ready);
        KnownModels(own.chain(state.fleet.lock().iter().cloned()).collect())
    }

    /// What a chain's steps go by: when it changes, chains are looked at again.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let of = |own: &ModelSignature| {
            let (name, version, digest) = (own.name.clone(), own.version.clone(), own.digest.clone());
            (name, version, digest, own.default, own.labels.clone(), own.max_rows)
        };
        self.0.iter().map(of).collect()
    }

    fn find(&self, name: &str, version: &str) -> Option<&ModelSignature> {
        let mut own = self.0.iter().filter(|model| model.name == name);
        match version {
            "" => own.clone().find(|model| model.default).or_else(|| own.next_back()),
            _ => own.find(|model| model.version == version || model.labels.iter().any(|label| label == version)),
        }
    }
}

impl Known for KnownModels {
    fn model(&self, name: &str, version: &str) -> Option<ModelSignature> {
        self.find(name, version).cloned()
    }
}

/// Loads a chain; `None` when `current` is the same already.
///
/// # Errors
/// [`NotLoaded::Waits`] naming the models that no worker has ready; else what in the file
/// does not fit, and the remedy.
pub(crate) fn load(
    state: &WorkerState,
    name: &str,
    found: &FoundVersion,
    settings: &ModelSettings,
    routed: Option<&ChainDefinition>,
    current: Option<&Arc<Version>>,
) -> Result<Option<Version>, NotLoaded> {
    let (definition, text) = match routed {
        Some(definition) => (definition.clone(), serde_json::to_string(definition).unwrap_or_default()),
        None => chains::read(&found.file)?,
    };
    let known = KnownModels::now(state);
    let planned = plan(name, &definition, &known).map_err(|error| match error {
        PlanError::Waits(reason) => NotLoaded::Waits(format!("chain `{name}` {reason}")),
        PlanError::Refused(reason) => {
            NotLoaded::Failed(format!("`{}` is not put in service: {reason}", found.file.display()))
        }
    })?;
    let digest = digest(&text, &planned, &known);
    let loaded_with = settings.of_load(found);
    if current.is_some_and(|own| own.signature.digest == digest && own.loaded_with == loaded_with) {
        return Ok(None);
    }
    let (functions, threads) = functions(state, &definition)?;
    let signature = ModelSignature {
        name: name.into(),
        version: found.version.clone(),
        digest,
        state: ModelState::Ready,
        reason: String::new(),
        inputs: planned.inputs.clone(),
        outputs: planned.outputs.clone(),
        batched: planned.batched,
        rows: planned.rows.clone(),
        max_batch_size: planned.max_batch_size,
        max_rows: planned.max_rows,
        finite: settings.finite,
        default: false,
        labels: Vec::new(),
        settings: [(CHAIN.to_owned(), published(&planned, &known))].into_iter().collect(),
        task: None,
    };
    let batching = &settings.config.batching;
    let controller = Controller::new(batching, signature.max_batch_size);
    let stats = state.counters.of(name, &found.version);
    let version = Version::new(signature, controller, stats, batching.max_batch_bytes);
    Ok(Some(version.loaded(loaded_with, None, false).chained(LoadedChain::new(planned, functions, threads))))
}

type Functions = (BTreeMap<usize, Arc<dyn StepFunction>>, Option<TransformThreads>);

fn functions(state: &WorkerState, definition: &ChainDefinition) -> Result<Functions, String> {
    let of_step = |(at, step): (usize, &StepDefinition)| {
        step.function.as_ref().map(|_| Ok((at, nobat_image::steps::function(Function::of(step)?))))
    };
    let functions: BTreeMap<usize, Arc<dyn StepFunction>> =
        definition.steps.iter().enumerate().filter_map(of_step).collect::<Result<_, String>>()?;
    let threads = (!functions.is_empty()).then(|| state.transform_threads()).transpose();
    Ok((functions, threads.map_err(|error| format!("cannot start a thread: {error}; raise the process limit"))?))
}

/// Changes with the chain's file and with the weights of any step.
fn digest(text: &str, planned: &Chain, known: &KnownModels) -> String {
    let mut hasher = Sha256::new();
    hasher.update(text);
    for step in &planned.steps {
        let StepWork::Model { name, version } = &step.work else { continue };
        if let Some(model) = known.find(name, version) {
            for part in [&*model.name, &model.version, &model.digest] {
                hasher.update((part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
            // What callers may give changes with it.
            hasher.update(model.max_rows.to_le_bytes());
        }
    }
    hasher.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the registry says of a chain beside its signature.
fn published(planned: &Chain, known: &KnownModels) -> serde_json::Value {
    let mut models = BTreeSet::new();
    let mut steps = Vec::new();
    for step in &planned.steps {
        let tensors = |wires: &[Wire]| -> serde_json::Map<String, serde_json::Value> {
            wires.iter().map(|wire| (wire.spec.name.to_string(), wire.tensor.as_str().into())).collect()
        };
        let mut shown =
            json!({ "name": step.name, "inputs": tensors(&step.inputs), "outputs": tensors(&step.outputs) });
        match &step.work {
            StepWork::Model { name, version } => {
                models.insert(name.clone());
                let own = known.find(name, version);
                models.extend(own.into_iter().flat_map(ModelSignature::runs).map(SmolStr::new));
                shown["model"] = name.as_str().into();
                if !version.is_empty() {
                    shown["version"] = version.as_str().into();
                }
            }
            StepWork::Function { name, .. } => shown["use"] = name.as_str().into(),
        }
        steps.push(shown);
    }
    json!({ "models": models, "steps": steps })
}
