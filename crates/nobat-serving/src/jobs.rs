//! Jobs as their callers see them: looked up by the text of an id, read, cancelled,
//! retried and listed. Another caller's job and one that never was look the same.

use std::time::{Duration, Instant, SystemTime};

use nobat_core::infer::InferRequest;
use nobat_core::job::{JobState, JobView};
use nobat_core::{Error, ErrorCode, JobId, Result};
use nobat_queue::{ListFilter, Page, route_jobs};
use smol_str::SmolStr;

use crate::context::RequestContext;
use crate::predictor::Predictor;
use crate::state::ServingState;

/// Calls to the store for a page that is empty so far; a longer search goes on from
/// the page's cursor.
const MAX_LOOKS: usize = 20;
/// And how long such calls go on being made: a page answers soon, whatever it finds.
const LOOK_FOR: Duration = Duration::from_millis(20);
/// Models whose idempotency keys a text is looked for among.
const MODELS_ASKED: usize = 200;

impl Predictor {
    /// Reads the job as it stands, after up to `wait` for its end, or for this gateway's. A made-up id, another
    /// caller's and a malformed one look the same. Another's is told by the id's check
    /// before the store is asked, and by the record once it is there; an administrator
    /// reads everybody's, which the record alone can tell.
    ///
    /// # Errors
    /// `job_not_found`; `result_expired` for one that was; `rate_limited` for a caller
    /// that asked for too many that are not there; `queue_unavailable`.
    pub async fn job(&self, context: &RequestContext, text: &str, wait: Duration) -> Result<JobView> {
        let limits = &self.state().admission.limits;
        limits.may_look_up(context.grant.as_deref(), Instant::now())?;
        let found = self.look_up(context, text, wait).await;
        if found.as_ref().is_err_and(|error| error.code == ErrorCode::JobNotFound) {
            limits.lookup_failed(context.grant.as_deref(), Instant::now());
        }
        found
    }

    async fn look_up(&self, context: &RequestContext, text: &str, wait: Duration) -> Result<JobView> {
        let queue = &self.state().queue;
        let id: JobId = text.parse().map_err(|_| not_found(text))?;
        let is_own = queue.ids().verify(id, context.owner);
        if !is_own && !context.administers() {
            return Err(not_found(text));
        }
        let found = match wait {
            Duration::ZERO => queue.get(id).await?,
            wait if is_own => self.until_end(id, wait).await?,
            wait => match queue.get(id).await? {
                Some(view) if self.may_see(context, id, &view) => self.until_end(id, wait).await?,
                _ => None,
            },
        };
        match found {
            Some(view) if self.may_see(context, id, &view) => Ok(view),
            None if is_own => Err(absent(id, SystemTime::now())),
            _ => Err(not_found(text)),
        }
    }

    /// The job at its end, or as it stands when the wait is over. A gateway that drains is no
    /// longer waited at: a job may run when no one of today's processes does.
    async fn until_end(&self, id: JobId, wait: Duration) -> Result<Option<JobView>> {
        tokio::select! {
            found = self.queue_client().wait(id, wait) => found,
            () = self.state().drain_begins() => self.state().queue.get(id).await,
        }
    }

    /// Whether the record found under `id` is one that this caller may see, and `id` all of
    /// the one that it was issued under.
    fn may_see(&self, context: &RequestContext, id: JobId, view: &JobView) -> bool {
        let sees = || context.administers() && context.covers(route_jobs::shown(&view.model));
        (view.owner == context.owner || sees()) && self.state().queue.ids().verify(id, view.owner)
    }

    /// A job and its input, as it was sent.
    ///
    /// # Errors
    /// As [`Predictor::job`]; `result_expired` when the input is no longer kept.
    pub async fn job_input(&self, context: &RequestContext, text: &str) -> Result<(JobView, InferRequest)> {
        let view = self.job(context, text, Duration::ZERO).await?;
        let payload = self.state().queue.input(view.id).await?.filter(|payload| !payload.is_empty());
        let gone = || {
            let message = format!("the job is {} and its input is no longer kept", view.state.as_str());
            Error::new(ErrorCode::ResultExpired, message).for_job(view.id)
        };
        let request = InferRequest::decode(payload.ok_or_else(gone)?)?;
        Ok((view, request))
    }

    /// Cancels a job; one under lease ends at once.
    ///
    /// # Errors
    /// As [`Predictor::job`]; `job_already_finished`.
    pub async fn cancel_job(&self, context: &RequestContext, text: &str) -> Result<JobView> {
        let view = self.job(context, text, Duration::ZERO).await?;
        self.state().queue.cancel(view.id).await
    }

    /// Sends a dead letter back to its queue with its attempts forgotten.
    ///
    /// # Errors
    /// As [`Predictor::job`]; `job_already_finished` for a job that is no dead letter.
    pub async fn retry_job(&self, context: &RequestContext, text: &str) -> Result<JobView> {
        let view = self.job(context, text, Duration::ZERO).await?;
        let redriven = match view.state {
            JobState::Dead => self.state().queue.redrive(&view.model, &[view.id], 1).await?,
            _ => 0,
        };
        if redriven == 0 {
            let state = view.state.as_str();
            let message =
                format!("job `{}` is {state}; only dead letters are retried, send a new request instead", view.id);
            return Err(Error::new(ErrorCode::JobAlreadyFinished, message).for_job(view.id));
        }
        self.job(context, text, Duration::ZERO).await
    }

    /// One page of jobs, of those that the caller may see.
    ///
    /// # Errors
    /// `invalid_parameter` for a cursor that is none; `queue_unavailable`.
    pub async fn jobs(
        &self,
        context: &RequestContext,
        filter: &ListFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page> {
        if cursor.is_none()
            && let Some(job) = self.named(context, filter).await?
        {
            return Ok(Page { jobs: vec![job], looked: 1, ..Page::default() });
        }
        page(self.state(), context, filter, cursor, limit).await
    }

    /// The job that the filter's text names by itself, by its id or by the caller's idempotency
    /// key, if the rest of the filter takes it.
    pub(crate) async fn named(&self, context: &RequestContext, filter: &ListFilter) -> Result<Option<JobView>> {
        let Some(text) = &filter.text else { return Ok(None) };
        let found = match self.of_id(context, text).await? {
            Some(view) => Some(view),
            None => self.of_key(context, filter, text).await?,
        };
        Ok(found.filter(|view| filter.takes(view)).map(|view| JobView { result: None, ..view }))
    }

    async fn of_id(&self, context: &RequestContext, text: &str) -> Result<Option<JobView>> {
        if text.parse::<JobId>().is_err() {
            return Ok(None);
        }
        match self.job(context, text, Duration::ZERO).await {
            Ok(view) => Ok(Some(view)),
            Err(error) if matches!(error.code, ErrorCode::JobNotFound | ErrorCode::ResultExpired) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn of_key(&self, context: &RequestContext, filter: &ListFilter, key: &str) -> Result<Option<JobView>> {
        let state = self.state();
        let mut models: Vec<SmolStr> = match &filter.model {
            Some(model) => vec![model.clone()],
            None => state.registry.load().models().map(|model| model.name.clone()).collect(),
        };
        models.truncate(MODELS_ASKED);
        let owner = filter.owner.unwrap_or(context.owner);
        for model in models.iter().filter(|model| context.covers(route_jobs::shown(model))) {
            if let Some(id) = state.queue.find_idempotent(model, owner, key).await? {
                return state.queue.get(id).await;
            }
        }
        Ok(None)
    }
}

/// One page of the jobs that a caller may see.
pub(crate) async fn page(
    state: &ServingState,
    context: &RequestContext,
    filter: &ListFilter,
    cursor: Option<&str>,
    limit: usize,
) -> Result<Page> {
    let look = async |cursor: Option<&str>| {
        let mut page = state.queue.list(filter, cursor, limit).await?;
        page.jobs.retain(|job| job.owner == context.owner || context.covers(route_jobs::shown(&job.model)));
        Ok::<_, Error>(page)
    };
    let began = Instant::now();
    let mut page = look(cursor).await?;
    // A store looks through so many jobs a call, and none of them may be the caller's.
    for _ in 0..MAX_LOOKS {
        let goes_on = page.jobs.is_empty() && began.elapsed() < LOOK_FOR;
        let Some(cursor) = page.cursor.take_if(|_| goes_on) else { break };
        page = look(Some(&cursor)).await?;
    }
    Ok(page)
}

fn not_found(text: &str) -> Error {
    let shown: String = text.chars().take(60).collect();
    Error::new(ErrorCode::JobNotFound, format!("there is no job `{shown}`"))
}

/// What the absence of an issued job's record means: expired until the id's
/// horizon, unknown after it.
fn absent(id: JobId, now: SystemTime) -> Error {
    let minute = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / 60;
    if minute <= u64::from(id.tombstone_min) {
        Error::new(ErrorCode::ResultExpired, format!("job `{id}` has finished and its result has outlived its ttl"))
            .for_job(id)
    } else {
        Error::new(ErrorCode::JobNotFound, format!("there is no job `{id}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::{IdIssuer, OwnerId};

    #[test]
    fn an_absent_job_is_expired_until_its_horizon_and_unknown_after() {
        let id = IdIssuer::new([1; 16]).issue(1, 100, 1, OwnerId::ANONYMOUS);
        let at = |minute: u64| absent(id, SystemTime::UNIX_EPOCH + Duration::from_secs(60 * minute)).code;
        assert_eq!(at(100), ErrorCode::ResultExpired);
        assert_eq!(at(101), ErrorCode::JobNotFound);
    }
}
