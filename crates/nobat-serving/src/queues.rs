//! Queues as operators see them: counts, pause and resume, dead letters.

use nobat_core::job::JobState;
use nobat_core::{ErrorCode, JobId, Result, model_name};
use nobat_queue::{Counts, ListFilter, Page, route_jobs};
use smol_str::SmolStr;

use crate::context::RequestContext;
use crate::predictor::Predictor;

impl Predictor {
    /// Every queue of a model or route that the caller may see, by name.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn queues(&self, context: &RequestContext) -> Result<Vec<(SmolStr, Counts)>> {
        let state = self.state();
        let mut names: Vec<_> = state.registry.load().models().map(|model| model.name.clone()).collect();
        // Queues of routes that have, or once had, jobs.
        names.extend(state.routes.in_use().iter().map(|route| route_jobs::queue_of(route)));
        names.retain(|name| context.covers(route_jobs::shown(name)));
        names.sort_unstable();
        let counts = futures::future::try_join_all(names.iter().map(|name| state.queue.counts(name))).await?;
        Ok(names.into_iter().zip(counts).collect())
    }

    /// How one queue stands. A gateway that started while no worker ran knows no model, but
    /// counts the jobs that an earlier one accepted: an autoscaler starts a worker for them.
    ///
    /// # Errors
    /// `permission_denied`, `model_not_found`, `queue_unavailable`.
    pub async fn queue(&self, context: &RequestContext, name: &str) -> Result<Counts> {
        let queue = &self.state().queue;
        match self.queue_seen(context, name) {
            Ok(name) => queue.counts(&name).await,
            Err(unknown) if unknown.code == ErrorCode::ModelNotFound && model_name::objection(name).is_none() => {
                let counts = queue.counts(name).await?;
                if counts.enqueued_total > 0 { Ok(counts) } else { Err(unknown) }
            }
            Err(refused) => Err(refused),
        }
    }

    /// Pauses or resumes a queue, and how it stands then.
    ///
    /// # Errors
    /// As [`Predictor::queue`]: a typo does not pause a queue that nobody uses.
    pub async fn set_queue_paused(&self, context: &RequestContext, name: &str, paused: bool) -> Result<Counts> {
        self.state().queue.set_paused(&self.queue_seen(context, name)?, paused).await?;
        self.queue(context, name).await
    }

    /// One page of a queue's dead letters, of those that the caller may see.
    ///
    /// # Errors
    /// As [`Predictor::queue`] and [`Predictor::jobs`].
    pub async fn dead_letters(
        &self,
        context: &RequestContext,
        name: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page> {
        let model = Some(self.queue_seen(context, name)?);
        let filter =
            ListFilter { model, state: Some(JobState::Dead), owner: context.sees_jobs_of(), ..ListFilter::default() };
        self.jobs(context, &filter, cursor, limit).await
    }

    /// Sends dead letters back to their queue, the oldest `limit` of them when no ids
    /// are given; how many went.
    ///
    /// # Errors
    /// As [`Predictor::queue`].
    pub async fn redrive(&self, context: &RequestContext, name: &str, ids: &[JobId], limit: usize) -> Result<u64> {
        self.state().queue.redrive(&self.queue_seen(context, name)?, ids, limit).await
    }

    /// Deletes dead letters for good, the oldest `limit` of them when no ids are given;
    /// how many went.
    ///
    /// # Errors
    /// As [`Predictor::queue`].
    pub async fn purge(&self, context: &RequestContext, name: &str, ids: &[JobId], limit: usize) -> Result<u64> {
        self.state().queue.purge(&self.queue_seen(context, name)?, ids, limit).await
    }

    /// The queue that `name` means, where the caller's key covers its model or route.
    fn queue_seen(&self, context: &RequestContext, name: &str) -> Result<SmolStr> {
        context.require_model(route_jobs::shown(name))?;
        self.queue_named(context, name)
    }
}
