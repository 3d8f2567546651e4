//! A step whose model this worker does not serve: a job of its own on that model's queue,
//! with the chain's owner, priority and retries, and what is left of its deadline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::infer::InferRequest;
use nobat_core::job::{JobError, JobOptions, JobResult, JobState, JobView, LeasedJob, NewJob};
use nobat_core::tags::Tags;
use nobat_core::{Error, ErrorCode, JobId, OwnerId};
use nobat_queue::{Queue, QueueClient};
use smol_str::SmolStr;

/// How long the answer of a step is kept: as long as it may take to fetch it.
const ANSWER_TTL: Duration = Duration::from_secs(300);
/// How long one wait for a step's end lasts; then it is asked again.
const WAIT: Duration = Duration::from_secs(60);

/// A step to run elsewhere.
pub(super) struct RemoteStep<'a> {
    pub(super) model: &'a SmolStr,
    pub(super) request: &'a InferRequest,
    pub(super) rows: u32,
    pub(super) deadline: Option<Instant>,
    /// The chain's job, and whether it is in the background.
    pub(super) of: &'a LeasedJob,
    pub(super) background: bool,
    pub(super) owner: OwnerId,
}

/// Why a step that ran elsewhere has no answer.
pub(super) enum RemoteFailure {
    /// It ended so.
    Ended(JobError),
    /// The queue could not be reached.
    Queue(Error),
}

/// Enqueues the step and waits for its end: its job and that one's result.
///
/// # Cancel safety
/// Dropping the future cancels the step's job.
pub(super) async fn run(
    queue: &Arc<dyn Queue>,
    client: &Arc<dyn QueueClient>,
    step: RemoteStep<'_>,
) -> Result<(JobId, JobResult), RemoteFailure> {
    let left = step.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let options = JobOptions {
        priority: step.of.priority,
        background: step.background,
        retry: step.of.retry,
        deadline: left,
        result_ttl: ANSWER_TTL,
        tags: Tags::of_parent(step.of.id),
        ..JobOptions::default()
    };
    let job = NewJob {
        model: step.model.clone(),
        owner: step.owner,
        options,
        payload: step.request.encode().into(),
        rows: step.rows,
        trace: step.of.trace.clone(),
    };
    let accepted = client.enqueue(job).await.map_err(RemoteFailure::Queue)?;
    let mut cancel = CancelJob { queue: Arc::clone(queue), id: Some(accepted.id) };
    loop {
        let view = client.wait(accepted.id, WAIT).await.map_err(RemoteFailure::Queue)?;
        let Some(view) = view else {
            cancel.id = None;
            let message = "its job is gone from the queue".to_owned();
            return Err(RemoteFailure::Queue(Error::new(ErrorCode::QueueUnavailable, message)));
        };
        if view.state.is_terminal() {
            cancel.id = None;
            return ended(view).map(|result| (accepted.id, result));
        }
    }
}

fn ended(view: JobView) -> Result<JobResult, RemoteFailure> {
    let succeeded = view.state == JobState::Succeeded;
    if let Some(result) = view.result.filter(|_| succeeded) {
        return Ok(result);
    }
    let error = view.error.unwrap_or_else(|| {
        let code = match view.state {
            JobState::Expired => ErrorCode::DeadlineExceeded,
            _ => ErrorCode::InferenceFailed,
        };
        JobError { code, message: format!("its job ended as {}", view.state.as_str()) }
    });
    Err(RemoteFailure::Ended(error))
}

/// Cancels the job when it is dropped before its end.
struct CancelJob {
    queue: Arc<dyn Queue>,
    id: Option<JobId>,
}

impl Drop for CancelJob {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let queue = Arc::clone(&self.queue);
        // Without a runtime the process ends, and the job runs or expires by itself.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = queue.cancel(id).await {
                    log::debug!(job = id.to_string(); "a chain's step is not cancelled: {error}");
                }
            });
        }
    }
}
