//! How many jobs an operation would change.

use nobat_core::Result;
use nobat_core::job::JobView;
use nobat_queue::{CountBounds, JobCount, ListFilter, count, route_jobs};

use super::record::{OperationAction, narrowed};
use crate::context::RequestContext;
use crate::predictor::Predictor;

impl Predictor {
    /// How many jobs an operation would change now: exact where few are, or where the queue's
    /// counters know, else at least so many, as looking at all there are would cost.
    ///
    /// # Errors
    /// As [`Predictor::jobs`].
    pub async fn count_jobs(
        &self,
        context: &RequestContext,
        filter: &ListFilter,
        action: OperationAction,
    ) -> Result<JobCount> {
        let filter = narrowed(filter, action);
        if let Some(job) = self.named(context, &filter).await? {
            return Ok(JobCount { count: u64::from(action.is_for(job.state)), more: false });
        }
        let sees = |job: &JobView| job.owner == context.owner || context.covers(route_jobs::shown(&job.model));
        let sees = Some(&sees as &(dyn Fn(&JobView) -> bool + Sync)).filter(|_| !context.covers_all());
        count(&*self.state().queue, &filter, action.states(), sees, CountBounds::default()).await
    }
}
