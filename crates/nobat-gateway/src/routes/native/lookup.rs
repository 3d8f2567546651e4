//! From the text of a job id to the job, or to the refusal that fits.

use std::time::{Duration, SystemTime};

use nobat_core::job::JobView;
use nobat_core::{Error, ErrorCode, JobId, Result};

use crate::context::RequestContext;
use crate::predict::Predictor;

/// Reads an id that this deployment issued to this caller. A made-up id, a
/// foreign one and a malformed one look the same, and none reaches the store.
///
/// # Errors
/// `job_not_found`.
pub fn id(predictor: &Predictor, context: &RequestContext, text: &str) -> Result<JobId> {
    let id = text.parse().ok().filter(|&id| predictor.shared().queue.ids().verify(id, context.owner));
    id.ok_or_else(|| {
        let shown: String = text.chars().take(60).collect();
        Error::new(ErrorCode::JobNotFound, format!("there is no job `{shown}`"))
    })
}

/// Reads the job as it stands, after up to `wait` for its end.
///
/// # Errors
/// `job_not_found`; `result_expired` for one that was; `queue_unavailable`.
pub async fn job(predictor: &Predictor, context: &RequestContext, text: &str, wait: Duration) -> Result<JobView> {
    let id = id(predictor, context, text)?;
    let found = match wait {
        Duration::ZERO => predictor.shared().queue.get(id).await?,
        wait => predictor.lane().wait(id, wait).await?,
    };
    found.ok_or_else(|| absent(id, SystemTime::now()))
}

/// What the absence of an issued job's record means: expired until the id's
/// horizon, unknown after it.
fn absent(id: JobId, now: SystemTime) -> Error {
    let minute = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / 60;
    if minute <= u64::from(id.horizon_min) {
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
