//! Workers as they register themselves, and the commands that reach them.

use nobat_core::job::JobError;
use nobat_core::signature::ModelSignature;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// A live worker, as it registers itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// Unique per start.
    pub id: SmolStr,
    /// Host name and process id, for people.
    pub host: String,
    /// Started, milliseconds since 1970.
    pub started_at_ms: u64,
    /// Sessions it runs.
    pub sessions: u32,
    /// Every model version it has loaded, is loading or failed to load.
    pub models: Vec<ModelSignature>,
    /// A [`WorkerReport`](nobat_core::statistics::WorkerReport) and anything else
    /// a reader may want, as one JSON object.
    #[serde(default)]
    pub report: serde_json::Value,
}

/// Where a worker stands with the loads and unloads of one model that it was
/// sent: an entry, by the model's name, of [`LOADS`] in its report. A worker
/// carries them out in turn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadProgress {
    /// Commands for this model taken up since it started.
    pub taken: u64,
    /// Those of them that are carried out.
    pub done: u64,
    /// Why the last of those failed: `model_not_found` where its repository has
    /// no such model, else what kept a version from loading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
}

/// Name of the [`LoadProgress`] entries in a worker's report; a worker that knows
/// them has it from its start.
pub const LOADS: &str = "loads";
/// Name, in a worker's report, of how many jobs it holds under leases.
pub const LEASES: &str = "leases";
/// Name, in a worker's report, of the resident memory of its process, bytes.
pub const RESIDENT_BYTES: &str = "resident_bytes";

impl WorkerInfo {
    /// Jobs that it holds under leases; `None` when it is of a build that does not say.
    pub fn leases(&self) -> Option<u64> {
        self.report.get(LEASES)?.as_u64()
    }

    /// Resident memory of its process, bytes; `None` when it does not say.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.report.get(RESIDENT_BYTES)?.as_u64()
    }

    /// Where this worker stands with `model`; `None` when it is of a build that does
    /// not say.
    pub fn load_progress(&self, model: &str) -> Option<LoadProgress> {
        match self.report.get(LOADS)?.get(model) {
            None => Some(LoadProgress::default()),
            Some(progress) => LoadProgress::deserialize(progress).ok(),
        }
    }
}

/// A request to a worker that travels through the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum WorkerCommand {
    /// Load, or load again, a model (all its versions by policy).
    Load {
        /// Which model.
        model: SmolStr,
    },
    /// Unload a model.
    Unload {
        /// Which model.
        model: SmolStr,
    },
    /// Register again at once, with fresh statistics and this nonce in
    /// [`WorkerReport::nonce`](nobat_core::statistics::WorkerReport::nonce).
    Report {
        /// Tells an answer to this request from an earlier one.
        nonce: u64,
    },
}
