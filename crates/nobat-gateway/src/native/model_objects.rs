//! The native API's JSON objects: models, their workers and their queues.

use nobat_core::ErrorCode;
use nobat_core::signature::{ModelSignature, ModelState, Rows, TensorSpec};
use nobat_core::statistics::ModelStatistics;
use nobat_serving::Counts;
use nobat_serving::dead_letters::DeadGroups;
use nobat_serving::drift::{DriftStatus, hide_setting};
use serde::Serialize;
use utoipa::ToSchema;

use super::job_objects::known;

/// Every model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// By name.
    pub models: Vec<ModelObject>,
}

/// One model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelObject {
    /// Its name.
    #[schema(example = "digits")]
    pub name: String,
    /// The version that a caller without a wish gets; where a route has the model's
    /// name, one who asks the model by another way.
    pub default_version: String,
    /// Whether a caller without a wish is served now.
    pub ready: bool,
    /// The route that answers a caller without a wish, where one has the model's name.
    #[schema(example = "/api/v1/routes/digits")]
    pub route: Option<String>,
    /// Newest first.
    pub versions: Vec<VersionObject>,
}

/// One version of a model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VersionObject {
    /// Its name.
    pub version: String,
    /// Where it stands.
    #[schema(value_type = String, example = "ready")]
    pub state: ModelState,
    /// Why, when it failed or is not ready; when it is ready, why a worker could not
    /// load it anew, if so.
    pub reason: String,
    /// SHA-256 of the model file and its external data (first 16 bytes, hex).
    pub digest: String,
    /// Labels that name this version.
    pub labels: Vec<String>,
    /// Inputs, in the file's order.
    #[schema(value_type = Vec<TensorObject>)]
    pub inputs: Vec<TensorSpec>,
    /// Outputs, in the file's order.
    #[schema(value_type = Vec<TensorObject>)]
    pub outputs: Vec<TensorSpec>,
    /// Whether the first axis is the batch axis.
    pub batched: bool,
    /// Whether rows of different requests may share a run, and how that is known.
    #[schema(value_type = RowsObject)]
    pub rows: Rows,
    /// Most rows in one run.
    pub max_batch_size: u32,
    /// Most rows in one request.
    pub max_rows: u32,
    /// Ids of the live workers that serve it.
    pub workers: Vec<String>,
    /// Settings that the worker published.
    #[schema(value_type = Object)]
    pub settings: serde_json::Map<String, serde_json::Value>,
}

/// Whether rows of different requests may share a run.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents `Rows`, which knows no OpenAPI")]
pub(crate) struct RowsObject {
    /// `proven` by the graph, `tried` without a difference, `told` by the owner's settings; `mixed`, `no_batch_axis`
    /// and `unknown` run each request by itself.
    #[schema(example = "proven")]
    pub verdict: String,
    /// What shows it, such as the node that mixes rows.
    pub why: String,
}

/// One input or output.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents `TensorSpec`, which knows no OpenAPI")]
pub(crate) struct TensorObject {
    /// Name in the model file.
    pub name: String,
    /// Element type, as in the Open Inference Protocol.
    #[schema(example = "FP32")]
    pub datatype: String,
    /// Dimensions; -1 is any size.
    pub shape: Vec<i64>,
    /// Whether a request may leave it out.
    pub optional: bool,
}

impl VersionObject {
    /// Describes a version that these workers serve.
    pub(crate) fn new(signature: &ModelSignature, workers: Vec<String>) -> VersionObject {
        VersionObject {
            version: signature.version.to_string(),
            state: signature.state,
            reason: signature.reason.clone(),
            digest: signature.digest.clone(),
            labels: signature.labels.iter().map(|label| label.to_string()).collect(),
            inputs: signature.inputs.clone(),
            outputs: signature.outputs.clone(),
            batched: signature.batched,
            rows: signature.rows.clone(),
            max_batch_size: signature.max_batch_size,
            max_rows: signature.max_rows,
            workers,
            settings: hide_setting(&signature.settings),
        }
    }
}

/// One model with its queue, statistics and workers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelDetail {
    /// The model.
    #[serde(flatten)]
    pub model: ModelObject,
    /// Its queue.
    pub queue: QueueObject,
    /// Counters per version, summed over the live workers.
    #[schema(value_type = Vec<Object>)]
    pub statistics: Vec<ModelStatistics>,
    /// How the rows of each version with a profile stand against it, since the monitor's last look.
    #[schema(value_type = Vec<DriftObject>)]
    pub drift: Vec<DriftStatus>,
    /// The live workers that have it, with what else they report (batching
    /// controllers among it).
    pub workers: Vec<WorkerObject>,
}

/// A version's rows against its profile.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents `DriftStatus`, which knows no OpenAPI")]
pub(crate) struct DriftObject {
    /// The version.
    pub version: String,
    /// `as_profiled`, `drifting` until it is acknowledged, or `not_followed` for a profile that cannot be used.
    #[schema(example = "as_profiled")]
    pub state: String,
    /// The same in words.
    pub words: String,
    /// Rows counted, all gateways together.
    pub rows: u64,
    /// How each thing that is followed stands.
    #[schema(value_type = Vec<Object>)]
    pub findings: Vec<serde_json::Value>,
}

/// A live worker.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WorkerObject {
    /// Unique per start.
    pub id: String,
    /// Host name and process id.
    pub host: String,
    /// Started (RFC 3339).
    #[schema(example = "2030-01-31T12:00:00.000Z")]
    pub started_at: Option<String>,
    /// `started_at` in milliseconds since 1970.
    pub started_at_ms: u64,
    /// Sessions it runs.
    pub sessions: u32,
    /// What it reports beside its statistics.
    #[schema(value_type = Object)]
    pub report: serde_json::Value,
}

/// Every live worker.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WorkerList {
    /// Those that have a model which the caller may see, the newest first.
    pub workers: Vec<LiveWorkerObject>,
}

/// A live worker and what it has.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LiveWorkerObject {
    /// Unique per start.
    pub id: String,
    /// Host name and process id.
    pub host: String,
    /// Started (RFC 3339).
    #[schema(example = "2030-01-31T12:00:00.000Z")]
    pub started_at: Option<String>,
    /// `started_at` in milliseconds since 1970.
    pub started_at_ms: u64,
    /// Sessions it runs.
    pub sessions: u32,
    /// Jobs that it holds under leases; null of a worker that does not say.
    pub leases: Option<u64>,
    /// Resident memory of its process, in bytes; null of a worker that does not say.
    pub resident_bytes: Option<u64>,
    /// The versions that it has, as far as the caller may see them.
    pub models: Vec<HeldVersionObject>,
}

/// A version of a model as one worker has it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HeldVersionObject {
    /// The model.
    #[schema(example = "digits")]
    pub name: String,
    /// The version.
    #[schema(example = "1")]
    pub version: String,
    /// Where it stands in this worker.
    #[schema(value_type = String, example = "ready")]
    pub state: ModelState,
}

/// A queue's contents.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueueObject {
    /// The model whose queue it is.
    pub model: String,
    /// Ready to lease.
    pub queued: u64,
    /// Waiting for their time.
    pub scheduled: u64,
    /// Under lease.
    pub leased: u64,
    /// Dead letters.
    pub dead: u64,
    /// Payload bytes waiting.
    pub queued_bytes: u64,
    /// Age of the oldest queued job, milliseconds.
    pub oldest_ms: u64,
    /// Whether leasing is paused.
    pub paused: bool,
    /// Enqueued since the queue exists.
    pub enqueued_total: u64,
    /// Settled for good since the queue exists.
    pub finished_total: u64,
    /// Those of them that were cancelled or expired.
    pub dropped_total: u64,
}

impl QueueObject {
    /// Describes a model's queue.
    pub(crate) fn new(model: &str, counts: Counts) -> QueueObject {
        QueueObject {
            model: model.to_owned(),
            queued: counts.queued,
            scheduled: counts.scheduled,
            leased: counts.leased,
            dead: counts.dead,
            queued_bytes: counts.queued_bytes,
            oldest_ms: counts.oldest_ms,
            paused: counts.paused,
            enqueued_total: counts.enqueued_total,
            finished_total: counts.finished_total,
            dropped_total: counts.dropped_total,
        }
    }
}

/// Every queue.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueueList {
    /// One per model, by name.
    pub queues: Vec<QueueObject>,
}

/// Dead letters by what they died of.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadGroupList {
    /// The largest first.
    pub groups: Vec<DeadGroupObject>,
    /// Dead letters that were looked through, the newest of the queue.
    pub looked_through: u64,
    /// Whether there are more than that.
    pub more: bool,
}

/// Dead letters that died of the same.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadGroupObject {
    /// Names the group in redrive and purge, as `group=`.
    #[schema(example = "0f1e2d3c4b5a6978")]
    pub id: String,
    /// The error's code; null for letters that say nothing.
    #[schema(value_type = Option<String>, example = "inference_failed")]
    pub code: Option<ErrorCode>,
    /// The error's words, of the newest letter.
    pub detail: String,
    /// How many letters.
    pub count: u64,
    /// The first of them died (RFC 3339).
    pub first_at: Option<String>,
    /// The last of them died (RFC 3339).
    pub last_at: Option<String>,
    /// `first_at` in milliseconds since 1970.
    pub first_at_ms: u64,
    /// `last_at` in milliseconds since 1970.
    pub last_at_ms: u64,
    /// Ids of the newest, ten at most.
    pub samples: Vec<String>,
}

impl From<DeadGroups> for DeadGroupList {
    fn from(found: DeadGroups) -> DeadGroupList {
        let groups = found.groups.into_iter().map(|group| DeadGroupObject {
            id: group.id,
            code: group.code,
            detail: group.message,
            count: group.count,
            first_at: known(group.first_ms),
            last_at: known(group.last_ms),
            first_at_ms: group.first_ms,
            last_at_ms: group.last_ms,
            samples: group.samples.iter().map(ToString::to_string).collect(),
        });
        DeadGroupList { groups: groups.collect(), looked_through: found.looked_through, more: found.more }
    }
}

/// How many dead letters went.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Moved {
    /// Dead letters redriven or purged.
    pub count: u64,
}
