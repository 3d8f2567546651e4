//! An operation at work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::job::JobView;
use nobat_core::{ErrorCode, Result};
use nobat_queue::{ListFilter, Queue};

use super::record::{Operation, OperationAction, OperationState, STOPS, write};
use crate::context::RequestContext;
use crate::jobs::page;
use crate::state::ServingState;

const PAGE: usize = 200;
/// Jobs that are changed together: an embedded store commits them in one group.
const TOGETHER: usize = 50;
/// How often a record is written while its operation is at work.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// Rounds over what a filter finds: a job that moves while others are listed is met by the next.
const ROUNDS: usize = 20;

/// How many jobs a change of this one changed.
async fn change_one(queue: &dyn Queue, action: OperationAction, job: &JobView) -> Result<u64> {
    match action {
        OperationAction::Cancel => queue.cancel(job.id).await.map(|_| 1),
        OperationAction::Retry => queue.redrive(&job.model, &[job.id], 1).await,
        OperationAction::Delete => queue.purge(&job.model, &[job.id], 1).await,
    }
}

/// An operation at work.
pub(super) struct Run {
    pub(super) state: Arc<ServingState>,
    pub(super) context: RequestContext,
    pub(super) filter: ListFilter,
    /// The one job that the filter's text names by itself.
    pub(super) named: Option<JobView>,
    pub(super) operation: Operation,
    pub(super) told: Instant,
}

impl Run {
    pub(super) async fn carry_out(mut self) {
        self.operation.state = match self.rounds().await {
            Ok(true) => OperationState::Finished,
            Ok(false) => OperationState::Cancelled,
            Err(error) => {
                self.operation.error = Some(error.to_string());
                OperationState::Failed
            }
        };
        let Operation { id, done, failed, .. } = &self.operation;
        log::info!(operation = id.as_str(), done = *done, failed = *failed; "an operation over jobs is over: {:?}", self.operation.state);
        if let Err(error) = self.tell(true).await {
            log::warn!(operation = self.operation.id.as_str(); "the end of an operation could not be written: {error}");
        }
    }

    /// Whether it went to its end.
    async fn rounds(&mut self) -> Result<bool> {
        if let Some(job) = self.named.take() {
            return self.change(&[job], true).await.map(|()| true);
        }
        for round in 0..ROUNDS {
            let before = self.operation.done;
            let mut cursor: Option<String> = None;
            loop {
                let found = page(&self.state, &self.context, &self.filter, cursor.as_deref(), PAGE).await?;
                for some in found.jobs.chunks(TOGETHER) {
                    self.change(some, round == 0).await?;
                }
                if !self.tell(false).await? {
                    return Ok(false);
                }
                cursor = found.cursor;
                if cursor.is_none() {
                    break;
                }
            }
            if self.operation.done == before {
                break;
            }
        }
        Ok(true)
    }

    /// Changes some jobs together. What the store says of one is counted; a store that is away
    /// ends the operation. Which of them are none that it changes is counted the `first` time
    /// alone: later it meets those that it has changed.
    async fn change(&mut self, jobs: &[JobView], first: bool) -> Result<()> {
        let (queue, action) = (self.state.queue.clone(), self.operation.action);
        let started_at_ms = self.operation.started_at_ms;
        let own: Vec<&JobView> = jobs.iter().filter(|job| action.takes(job, started_at_ms)).collect();
        if first {
            self.operation.skipped += (jobs.len() - own.len()) as u64;
        }
        let changes = own.iter().map(|job| change_one(&*queue, action, job));
        for changed in futures::future::join_all(changes).await {
            match changed {
                Ok(0) => self.operation.skipped += 1,
                Ok(_) => self.operation.done += 1,
                Err(error) if matches!(error.code, ErrorCode::JobAlreadyFinished | ErrorCode::JobNotFound) => {
                    self.operation.skipped += 1;
                }
                Err(error) if error.code == ErrorCode::QueueUnavailable => return Err(error),
                Err(error) => {
                    self.operation.failed += 1;
                    self.operation.error = Some(error.to_string());
                }
            }
        }
        Ok(())
    }

    /// Writes the record now and then, and at the end; whether to go on.
    async fn tell(&mut self, is_over: bool) -> Result<bool> {
        if !is_over && self.told.elapsed() < TELL_EVERY {
            return Ok(true);
        }
        self.told = Instant::now();
        let metadata = self.state.queue.metadata();
        self.operation.updated_at_ms = metadata.now_ms().await?;
        if is_over {
            self.operation.finished_at_ms = Some(self.operation.updated_at_ms);
            metadata.remove(STOPS, &self.operation.id).await?;
        }
        write(&*metadata, &self.operation).await?;
        let stops = metadata.documents(STOPS).await?;
        Ok(!stops.iter().any(|(id, _)| *id == self.operation.id))
    }
}
