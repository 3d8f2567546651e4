//! The native API's JSON objects.

use nobat_core::ErrorCode;
use nobat_core::explain::Explain;
use nobat_core::job::{JobState, JobView};
use nobat_core::signature::{ModelSignature, ModelState, Rows, TensorSpec};
use nobat_core::statistics::ModelStatistics;
use nobat_serving::cache::CacheOutcome;
use nobat_serving::{Counts, shown_model};
use nobat_webhooks::rfc3339;
use serde::Serialize;
use smol_str::SmolStr;
use utoipa::ToSchema;

/// A job as its caller sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobObject {
    /// Unguessable; belongs to the caller that made it.
    #[schema(example = "0aQk2mXc9TQ5W8vYb3Lr7e0Zx1Cw0000001")]
    pub id: String,
    /// The model whose queue it is in.
    #[schema(example = "digits")]
    pub model: String,
    /// Where it stands.
    #[schema(value_type = JobStateName)]
    pub state: JobState,
    /// 0..=255; 10 runs before 1.
    pub priority: u8,
    /// Attempts begun.
    pub attempts: u32,
    /// Enqueued, by the store's clock (RFC 3339); null where it no longer knows.
    #[schema(example = "2030-01-31T12:00:00.000Z")]
    pub created_at: Option<String>,
    /// Settled for good (RFC 3339).
    pub finished_at: Option<String>,
    /// `created_at` in milliseconds since 1970; 0 where it is null.
    pub created_at_ms: u64,
    /// `finished_at` in milliseconds since 1970.
    pub finished_at_ms: Option<u64>,
    /// Its last error.
    pub error: Option<JobErrorObject>,
    /// How the result came about, once succeeded.
    pub explain: Option<ExplainObject>,
    /// Where its result is.
    #[schema(example = "/api/v1/jobs/0aQk2mXc9TQ5W8vYb3Lr7e0Zx1Cw0000001/result")]
    pub result_url: String,
}

/// A job's states.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code, reason = "documents `JobState`, which knows no OpenAPI")]
pub enum JobStateName {
    /// Waits for its time.
    Scheduled,
    /// Waits for a worker.
    Queued,
    /// A worker holds it under a lease.
    Leased,
    /// Its last attempt failed; it waits to run again.
    Failed,
    /// Has a result.
    Succeeded,
    /// Failed for good; kept as a dead letter.
    Dead,
    /// Cancelled by its caller.
    Cancelled,
    /// Its deadline passed before it finished.
    Expired,
}

/// Why an attempt or a job failed.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobErrorObject {
    /// What to match on.
    #[schema(value_type = String, example = "inference_failed")]
    pub code: ErrorCode,
    /// What happened and what to do about it.
    pub detail: String,
    /// `detail` by its older name.
    pub message: String,
}

impl JobErrorObject {
    /// An error of this code and these words.
    pub fn new(code: ErrorCode, message: &str) -> JobErrorObject {
        JobErrorObject { code, detail: message.to_owned(), message: message.to_owned() }
    }
}

/// Where a job's time went.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExplainObject {
    /// Enqueued to leased, microseconds.
    pub queue_us: u64,
    /// Leased to the start of its batch's run, microseconds.
    pub batch_wait_us: u64,
    /// Filling the batch's input buffers, microseconds.
    pub input_us: u64,
    /// The model's run, microseconds.
    pub infer_us: u64,
    /// Splitting and encoding the outputs, microseconds.
    pub output_us: u64,
    /// Rows in the batch it ran in.
    pub batch_size: u32,
    /// Attempts, the successful one included.
    pub attempts: u32,
    /// Short id of the worker that ran it; empty when no run of its own did.
    #[schema(value_type = String)]
    pub worker: SmolStr,
    /// What the model's cache did for this answer: `hit`, `miss`, `coalesced` (an
    /// identical request's run) or `bypass`; `none` without one, and for a job that is read later.
    pub cache: &'static str,
}

impl ExplainObject {
    /// Explains an answer that the cache had this to do with.
    pub fn of(explain: &Explain, cache: CacheOutcome) -> ExplainObject {
        ExplainObject {
            queue_us: explain.queue_us,
            batch_wait_us: explain.batch_wait_us,
            input_us: explain.input_us,
            infer_us: explain.infer_us,
            output_us: explain.output_us,
            batch_size: explain.batch_size,
            attempts: explain.attempts,
            worker: explain.worker.clone(),
            cache: cache.name(),
        }
    }
}

impl From<&JobView> for JobObject {
    fn from(view: &JobView) -> JobObject {
        let id = view.id.to_string();
        JobObject {
            result_url: result_url(&id),
            id,
            model: shown_model(&view.model).to_owned(),
            state: view.state,
            priority: view.priority,
            attempts: view.attempts,
            created_at: known(view.created_at_ms),
            finished_at: view.finished_at_ms.map(rfc3339),
            created_at_ms: view.created_at_ms,
            finished_at_ms: view.finished_at_ms,
            error: view.error.as_ref().map(|error| JobErrorObject::new(error.code, &error.message)),
            explain: view.result.as_ref().map(|result| ExplainObject::of(&result.explain, CacheOutcome::None)),
        }
    }
}

/// An instant that may be 0: not known.
pub fn known(ms: u64) -> Option<String> {
    (ms > 0).then(|| rfc3339(ms))
}

/// Path of a route.
pub fn route_url(name: &str) -> String {
    format!("/api/v1/routes/{name}")
}

/// Path of a job.
pub fn job_url(id: &str) -> String {
    format!("/api/v1/jobs/{id}")
}

/// Path of a job's result.
pub fn result_url(id: &str) -> String {
    format!("/api/v1/jobs/{id}/result")
}

/// One server-sent event of a job.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents what `events::print` prints")]
pub struct EventObject {
    /// Made of the attempt and the state; send it back as `Last-Event-ID`.
    #[schema(required = false)]
    pub id: String,
    /// The state's name.
    #[schema(required = false)]
    pub event: String,
    /// The job object as JSON text.
    #[schema(required = false)]
    pub data: String,
}

/// A page of jobs.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobList {
    /// The jobs, without results.
    pub jobs: Vec<JobObject>,
    /// Pass back as `cursor` for the next page; null at the end. A page may be
    /// short or empty while the cursor goes on.
    pub cursor: Option<String>,
}

/// The answer to many predictions in one call.
#[derive(Debug, Serialize, ToSchema)]
pub struct ManyJobs {
    /// One entry per request, in order.
    pub jobs: Vec<ManyEntry>,
}

/// One of many: a job, or why there is none.
#[derive(Debug, Serialize, ToSchema)]
pub struct ManyEntry {
    /// The job's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Why it was not accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<JobErrorObject>,
}

/// A succeeded job's result.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents what `jobs::answered` prints")]
pub struct ResultObject {
    /// The job's id.
    pub id: Option<String>,
    /// The model that answered.
    pub model: String,
    /// The version that answered.
    pub version: String,
    /// Always `succeeded`.
    #[schema(value_type = JobStateName)]
    pub state: JobState,
    /// Row form: one entry per row; bare values for one output, objects for several.
    #[schema(required = false)]
    pub predictions: Option<Vec<serde_json::Value>>,
    /// Column form: one tensor, or an object of tensors by name.
    #[schema(required = false)]
    pub outputs: Option<serde_json::Value>,
    /// How it came about.
    pub explain: ExplainObject,
}

/// A job's input, as a v2 inference request has it.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents what `jobs::input` prints")]
pub struct InputObject {
    /// The job's id.
    pub id: String,
    /// The model it is for.
    pub model: String,
    /// Tensors with `name`, `datatype`, `shape` and `data`, flat.
    #[schema(value_type = Vec<Object>)]
    pub inputs: Vec<serde_json::Value>,
    /// Outputs asked for, each with its `name`; all when empty.
    #[schema(value_type = Vec<Object>)]
    pub outputs: Vec<serde_json::Value>,
}

/// A prediction's body: `instances` or `inputs`.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "instances": [digit_example()] }))]
#[allow(dead_code, reason = "documents what `json::request` reads")]
pub struct PredictBody {
    /// Row form: one entry per row; bare values for one input, objects for several.
    #[schema(required = false)]
    pub instances: Option<Vec<serde_json::Value>>,
    /// Column form: one tensor, or an object of tensors by name.
    #[schema(required = false)]
    pub inputs: Option<serde_json::Value>,
    /// Outputs wanted; all when left out.
    #[schema(required = false)]
    pub outputs: Option<Vec<String>>,
    /// `serving_default`, or left out.
    #[schema(required = false)]
    pub signature_name: Option<String>,
}

/// Many predictions of one model.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "requests": [{ "instances": [digit_example()] }] }))]
#[allow(dead_code, reason = "documents what `predict::predict_many` reads")]
pub struct ManyBody {
    /// One job each.
    pub requests: Vec<PredictBody>,
}

/// A handwritten seven, 8 x 8 grey values of 0..=16, as the demo model takes it.
pub fn digit_example() -> Vec<f32> {
    const ROWS: [[u8; 8]; 8] = [
        [0, 0, 7, 8, 13, 16, 15, 1],
        [0, 0, 7, 7, 4, 11, 12, 0],
        [0, 0, 0, 0, 8, 13, 1, 0],
        [0, 4, 8, 8, 15, 15, 6, 0],
        [0, 2, 11, 15, 15, 4, 0, 0],
        [0, 0, 0, 16, 5, 0, 0, 0],
        [0, 0, 9, 15, 1, 0, 0, 0],
        [0, 0, 13, 5, 0, 0, 0, 0],
    ];
    ROWS.concat().into_iter().map(f32::from).collect()
}

/// Every model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// By name.
    pub models: Vec<ModelObject>,
}

/// One model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelObject {
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
pub struct VersionObject {
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
pub struct RowsObject {
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
pub struct TensorObject {
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
    pub fn new(signature: &ModelSignature, workers: Vec<String>) -> VersionObject {
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
            settings: signature.settings.clone(),
        }
    }
}

/// One model with its queue, statistics and workers.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelDetail {
    /// The model.
    #[serde(flatten)]
    pub model: ModelObject,
    /// Its queue.
    pub queue: QueueObject,
    /// Counters per version, summed over the live workers.
    #[schema(value_type = Vec<Object>)]
    pub statistics: Vec<ModelStatistics>,
    /// The live workers that have it, with what else they report (batching
    /// controllers among it).
    pub workers: Vec<WorkerObject>,
}

/// A live worker.
#[derive(Debug, Serialize, ToSchema)]
pub struct WorkerObject {
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

/// A queue's contents.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueObject {
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
    pub fn new(model: &str, counts: Counts) -> QueueObject {
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
pub struct QueueList {
    /// One per model, by name.
    pub queues: Vec<QueueObject>,
}

/// How many dead letters went.
#[derive(Debug, Serialize, ToSchema)]
pub struct Moved {
    /// Dead letters redriven or purged.
    pub count: u64,
}

/// An error, RFC 9457.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents what `error::render` prints")]
pub struct Problem {
    /// `urn:nobat:error:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The value at fault and the remedy.
    pub detail: String,
    /// What to match on.
    #[schema(example = "invalid_tensor")]
    pub code: String,
    /// The request's id, as in `x-request-id`.
    pub request_id: String,
    /// The job it is about.
    #[schema(required = false)]
    pub job: Option<String>,
}

/// An error of TensorFlow Serving, kserve and SageMaker routes.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents what `error::render` prints")]
pub struct PlainError {
    /// The value at fault and the remedy.
    pub detail: String,
    /// `detail`, where the protocol's clients look for it.
    pub error: String,
    /// `urn:nobat:error:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What to match on.
    pub code: String,
    /// The request's id, as in `x-request-id`.
    pub request_id: String,
    /// The job it is about.
    #[schema(required = false)]
    pub job: Option<String>,
}
