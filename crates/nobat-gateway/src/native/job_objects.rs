//! The native API's JSON objects: jobs, their results and what becomes of many.

use nobat_core::job::{JobState, JobView};
use nobat_core::timings::{StepTiming, Timings};
use nobat_core::{ErrorCode, OwnerId};
use nobat_serving::auth::KeyId;
use nobat_serving::cache::CacheOutcome;
use nobat_serving::shown_model;
use nobat_webhooks::rfc3339;
use serde::Serialize;
use smol_str::SmolStr;
use utoipa::ToSchema;

use crate::openapi::digit_example;
use crate::rows::PredictBody;

/// A job as its caller sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobObject {
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
    /// By what it is found again.
    #[schema(example = json!(["team=vision"]))]
    pub tags: Vec<String>,
    /// The job that it was made for: a chain's, for a step that ran elsewhere, or a route's.
    pub parent: Option<String>,
    /// Id of the key whose job it is; null where no keys are asked for.
    pub owner: Option<String>,
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
pub(crate) enum JobStateName {
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
pub(crate) struct JobErrorObject {
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
    pub(crate) fn new(code: ErrorCode, message: &str) -> JobErrorObject {
        JobErrorObject { code, detail: message.to_owned(), message: message.to_owned() }
    }
}

/// Where a job's time went.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExplainObject {
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
    /// Of a chain, its steps in the order in which they began; of a route that asks several,
    /// those that answered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepObject>,
}

/// Where a step of a chain, or a target of a route, spent its time.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StepObject {
    /// Its name; of a route's, the target's.
    #[schema(value_type = String)]
    pub name: SmolStr,
    /// From the start of the chain to that of the step, microseconds.
    pub start_us: u64,
    /// From there to its last run, microseconds.
    pub wait_us: u64,
    /// Its run, inputs and outputs included, microseconds.
    pub run_us: u64,
    /// Rows in the batch it ran in; 0 where it had none to run over.
    pub batch_size: u32,
    /// Short id of the worker that ran it.
    #[schema(value_type = String)]
    pub worker: SmolStr,
    /// The job that it was, where it was one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
}

impl From<&StepTiming> for StepObject {
    fn from(timing: &StepTiming) -> StepObject {
        let StepTiming { name, start_us, wait_us, run_us, batch_size, worker, job } = timing.clone();
        StepObject { name, start_us, wait_us, run_us, batch_size, worker, job: job.map(|job| job.to_string()) }
    }
}

impl ExplainObject {
    /// Explains an answer that the cache had this to do with.
    pub(crate) fn of(timings: &Timings, cache: CacheOutcome) -> ExplainObject {
        ExplainObject {
            queue_us: timings.queue_us,
            batch_wait_us: timings.batch_wait_us,
            input_us: timings.input_us,
            infer_us: timings.infer_us,
            output_us: timings.output_us,
            batch_size: timings.batch_size,
            attempts: timings.attempts,
            worker: timings.worker.clone(),
            cache: cache.name(),
            steps: timings.steps.iter().map(StepObject::from).collect(),
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
            tags: view.tags.iter().map(str::to_owned).collect(),
            parent: view.tags.parent().map(|parent| parent.to_string()),
            owner: owner(view.owner),
            error: view.error.as_ref().map(|error| JobErrorObject::new(error.code, &error.message)),
            explain: view.result.as_ref().map(|result| ExplainObject::of(&result.timings, CacheOutcome::None)),
        }
    }
}

/// The id of the key that owns a job.
pub(crate) fn owner(owner: OwnerId) -> Option<String> {
    (owner != OwnerId::ANONYMOUS).then(|| KeyId(owner.0).to_string())
}

/// An instant that may be 0: not known.
pub(crate) fn known(ms: u64) -> Option<String> {
    (ms > 0).then(|| rfc3339(ms))
}

/// Path of a route.
pub(crate) fn route_url(name: &str) -> String {
    format!("/api/v1/routes/{name}")
}

/// Path of a job.
pub(crate) fn job_url(id: &str) -> String {
    format!("/api/v1/jobs/{id}")
}

/// Path of a job's result.
pub(crate) fn result_url(id: &str) -> String {
    format!("/api/v1/jobs/{id}/result")
}

/// One server-sent event of a job.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents what `events::print` prints")]
pub(crate) struct EventObject {
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
pub(crate) struct JobList {
    /// The jobs, without results.
    pub jobs: Vec<JobObject>,
    /// Pass back as `cursor` for the next page; null at the end. A page may be
    /// short or empty while the cursor goes on.
    pub cursor: Option<String>,
}

/// The answer to many predictions in one call.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ManyJobs {
    /// One entry per request, in order.
    pub jobs: Vec<ManyEntry>,
}

/// One of many: a job, or why there is none.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ManyEntry {
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
pub(crate) struct ResultObject {
    /// The job's id; null where there was none, or many.
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
    /// How it came about; left out where many jobs made it.
    #[schema(required = false)]
    pub explain: Option<ExplainObject>,
}

/// A job's input, as a v2 inference request has it.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents what `jobs::input` prints")]
pub(crate) struct InputObject {
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

/// Many predictions of one model.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "requests": [{ "instances": [digit_example()] }] }))]
#[allow(dead_code, reason = "documents what `predict::predict_many` reads")]
pub(crate) struct ManyBody {
    /// One job each.
    pub requests: Vec<PredictBody>,
}
