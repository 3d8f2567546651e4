//! From the text of a job id to the job, or to the refusal that fits.

use std::time::{Duration, Instant, SystemTime};

use nobat_core::job::JobView;
use nobat_core::{Error, ErrorCode, JobId, Result};
use nobat_queue::route_jobs;

use crate::context::RequestContext;
use crate::predict::Predictor;

/// Reads the job as it stands, after up to `wait` for its end. A made-up id, another
/// caller's and a malformed one look the same. Another's is told by the id's check
/// before the store is asked, and by the record once it is there; an administrator
/// reads everybody's, which the record alone can tell.
///
/// # Errors
/// `job_not_found`; `result_expired` for one that was; `rate_limited` for a caller
/// that asked for too many that are not there; `queue_unavailable`.
pub async fn job(predictor: &Predictor, context: &RequestContext, text: &str, wait: Duration) -> Result<JobView> {
    let limits = &predictor.shared().edge.limits;
    limits.may_look_up(context.grant.as_deref(), Instant::now())?;
    let found = look_up(predictor, context, text, wait).await;
    if found.as_ref().is_err_and(|error| error.code == ErrorCode::JobNotFound) {
        limits.lookup_failed(context.grant.as_deref(), Instant::now());
    }
    found
}

async fn look_up(predictor: &Predictor, context: &RequestContext, text: &str, wait: Duration) -> Result<JobView> {
    let queue = &predictor.shared().queue;
    let id: JobId = text.parse().map_err(|_| not_found(text))?;
    let is_own = queue.ids().verify(id, context.owner);
    if !is_own && !context.administers() {
        return Err(not_found(text));
    }
    let found = match wait {
        Duration::ZERO => queue.get(id).await?,
        wait if is_own => predictor.queue_client().wait(id, wait).await?,
        wait => match queue.get(id).await? {
            Some(view) if may_see(predictor, context, id, &view) => predictor.queue_client().wait(id, wait).await?,
            _ => None,
        },
    };
    match found {
        Some(view) if may_see(predictor, context, id, &view) => Ok(view),
        None if is_own => Err(absent(id, SystemTime::now())),
        _ => Err(not_found(text)),
    }
}

/// Whether the record found under `id` is one that this caller may see, and `id` all of
/// the one that it was issued under.
fn may_see(predictor: &Predictor, context: &RequestContext, id: JobId, view: &JobView) -> bool {
    let sees = || context.administers() && context.covers(route_jobs::shown(&view.model));
    (view.owner == context.owner || sees()) && predictor.shared().queue.ids().verify(id, view.owner)
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
