//! Changes of many jobs at once: cancel, retry or delete whatever a filter finds, in the
//! background.
//!
//! An operation is carried out by the gateway that took it, and ends with it: its record in
//! the metadata store then says `interrupted`, and starting it anew does what is left. It
//! touches no job that was enqueued after it was asked for, and a job that has ended
//! meanwhile is left as it is. Every gateway shows the records, and can stop any operation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::job::{JobState, JobView};
use nobat_core::{Error, ErrorCode, Result, clip};
use nobat_queue::{ListFilter, MetadataStore, Queue};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::context::RequestContext;
use crate::jobs::page;
use crate::predictor::Predictor;
use crate::random_bits::random_bits;
use crate::state::ServingState;

/// Where records stand, and the wish that an operation stops.
const RECORDS: &str = "operations";
const STOPS: &str = "operations-stopped";
/// Records kept, of those that are over.
const KEPT: usize = 50;
/// Operations at work at a time, over all gateways.
const AT_WORK: usize = 4;
const PAGE: usize = 200;
/// Jobs that are changed together: an embedded store commits them in one group.
const TOGETHER: usize = 50;
/// How often a record is written while its operation is at work.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// A record that was not written for so long is of a gateway that is gone.
const SILENCE_MS: u64 = 15_000;
/// Jobs that a count counts.
pub const COUNTED: u64 = 10_000;
/// Rounds over what a filter finds: a job that moves while others are listed is met by the next.
const ROUNDS: usize = 20;

/// What is done to each job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationAction {
    /// Cancels those that have not ended.
    Cancel,
    /// Sends dead letters back to their queue.
    Retry,
    /// Deletes dead letters for good.
    Delete,
}

impl OperationAction {
    /// Whether a job in this state is one that it changes.
    fn is_for(self, state: JobState) -> bool {
        match self {
            OperationAction::Cancel => !state.is_terminal(),
            OperationAction::Retry | OperationAction::Delete => state == JobState::Dead,
        }
    }

    /// Whether a job is one that it changes. What a retry sent back and has died anew is left for
    /// its caller to judge: it would die as often as it is looked at.
    fn takes(self, job: &JobView, started_at_ms: u64) -> bool {
        let died_anew = self == OperationAction::Retry && job.finished_at_ms.is_some_and(|at| at > started_at_ms);
        self.is_for(job.state) && !died_anew
    }

    /// The only state that it changes, if it is one.
    fn state(self) -> Option<JobState> {
        match self {
            OperationAction::Cancel => None,
            OperationAction::Retry | OperationAction::Delete => Some(JobState::Dead),
        }
    }
}

/// Where an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// At work.
    Running,
    /// Over all that it found.
    Finished,
    /// Stopped by somebody.
    Cancelled,
    /// The store failed it; `error` says how.
    Failed,
    /// Its gateway is gone.
    Interrupted,
}

/// One operation, as its record has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id.
    pub id: String,
    /// What is done.
    pub action: OperationAction,
    /// Which jobs, as the caller wrote it.
    pub filter: String,
    /// Where it stands.
    pub state: OperationState,
    /// Jobs that it changed.
    pub done: u64,
    /// Jobs that had ended, or moved on, before it came to them.
    pub skipped: u64,
    /// Jobs that it could not change.
    pub failed: u64,
    /// Why the last of those, or the operation, failed.
    pub error: Option<String>,
    /// Name of the key that asked for it.
    pub by: Option<SmolStr>,
    /// Whose it is; only that caller and administrators see it.
    pub owner: u64,
    /// Begun, milliseconds since 1970 by the store's clock: jobs enqueued later are not touched.
    pub started_at_ms: u64,
    /// Its record was written.
    pub updated_at_ms: u64,
    /// Over.
    pub finished_at_ms: Option<u64>,
}

impl Predictor {
    /// How many jobs an operation would change now, counted up to [`COUNTED`], and whether
    /// there are more.
    ///
    /// # Errors
    /// As [`Predictor::jobs`].
    pub async fn count_jobs(
        &self,
        context: &RequestContext,
        filter: &ListFilter,
        action: OperationAction,
    ) -> Result<(u64, bool)> {
        let filter = narrowed(filter, action);
        if let Some(job) = self.named(context, &filter).await? {
            return Ok((u64::from(action.is_for(job.state)), false));
        }
        let (mut count, mut cursor): (u64, Option<String>) = (0, None);
        loop {
            let found = page(self.state(), context, &filter, cursor.as_deref(), PAGE).await?;
            count += found.jobs.iter().filter(|job| action.is_for(job.state)).count() as u64;
            cursor = found.cursor;
            if count > COUNTED {
                return Ok((COUNTED, true));
            }
            if cursor.is_none() {
                return Ok((count, false));
            }
        }
    }

    /// Begins an operation over what `filter` finds, which the caller wrote as `text`.
    ///
    /// # Errors
    /// `rate_limited` while too many are at work; `queue_unavailable`.
    pub async fn begin_operation(
        &self,
        context: &RequestContext,
        filter: &ListFilter,
        text: String,
        action: OperationAction,
    ) -> Result<Operation> {
        let state = self.state().clone();
        let metadata = state.queue.metadata();
        let now_ms = metadata.now_ms().await?;
        let mut filter = narrowed(filter, action);
        filter.until_ms = Some(filter.until_ms.map_or(now_ms, |until| until.min(now_ms)));
        let named = self.named(context, &filter).await?;
        let known = records(&*metadata).await?;
        if known.iter().filter(|other| other.state == OperationState::Running).count() >= AT_WORK {
            let message = format!("{AT_WORK} operations are at work; wait for one to end, or stop one");
            return Err(Error::new(ErrorCode::RateLimited, message).retry_after(Duration::from_secs(1)));
        }
        forget_oldest(&*metadata, known).await?;
        let operation = Operation {
            id: format!("{:016x}", random_bits()),
            action,
            filter: text,
            state: OperationState::Running,
            done: 0,
            skipped: 0,
            failed: 0,
            error: None,
            by: context.grant.as_ref().map(|grant| grant.name.clone()),
            owner: context.owner.0,
            started_at_ms: now_ms,
            updated_at_ms: now_ms,
            finished_at_ms: None,
        };
        write(&*metadata, &operation).await?;
        let (context, begun) = (context.clone(), operation.clone());
        let run = Run { state, context, filter, named, operation: begun, told: Instant::now() };
        tokio::spawn(run.carry_out());
        Ok(operation)
    }

    /// Operations that the caller may see, the newest first.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn operations(&self, context: &RequestContext) -> Result<Vec<Operation>> {
        let mut known = records(&*self.state().queue.metadata()).await?;
        known.retain(|operation| operation.owner == context.owner.0 || context.administers());
        known.sort_by_key(|operation| std::cmp::Reverse(operation.started_at_ms));
        Ok(known)
    }

    /// One operation.
    ///
    /// # Errors
    /// `job_not_found`; `queue_unavailable`.
    pub async fn operation(&self, context: &RequestContext, id: &str) -> Result<Operation> {
        let known = self.operations(context).await?;
        known.into_iter().find(|operation| operation.id == id).ok_or_else(|| {
            Error::new(
                ErrorCode::JobNotFound,
                format!("there is no operation `{}`; the newest {KEPT} are kept", clip(id)),
            )
        })
    }

    /// Has an operation stop; jobs that it has changed stay so.
    ///
    /// # Errors
    /// As [`Predictor::operation`]; `job_already_finished`.
    pub async fn stop_operation(&self, context: &RequestContext, id: &str) -> Result<Operation> {
        let operation = self.operation(context, id).await?;
        if operation.state != OperationState::Running {
            return Err(Error::new(ErrorCode::JobAlreadyFinished, format!("operation `{id}` is over")));
        }
        self.state().queue.metadata().put(STOPS, id, b"").await?;
        Ok(operation)
    }
}

/// The filter of an operation: of the states that it changes, where that is one.
fn narrowed(filter: &ListFilter, action: OperationAction) -> ListFilter {
    let mut filter = filter.clone();
    // A filter for another state finds nothing that is to be changed, and says so.
    filter.state = filter.state.or(action.state());
    filter
}

/// Every record; one that was not written for long is of a gateway that is gone.
async fn records(metadata: &dyn MetadataStore) -> Result<Vec<Operation>> {
    let (documents, now_ms) = (metadata.documents(RECORDS).await?, metadata.now_ms().await?);
    let known = documents.iter().filter_map(|(_, text)| serde_json::from_slice::<Operation>(text).ok());
    Ok(known
        .map(|operation| match operation.state {
            OperationState::Running if now_ms.saturating_sub(operation.updated_at_ms) > SILENCE_MS => {
                Operation { state: OperationState::Interrupted, ..operation }
            }
            _ => operation,
        })
        .collect())
}

async fn write(metadata: &dyn MetadataStore, operation: &Operation) -> Result<()> {
    // A struct of plain fields always serializes.
    metadata.put(RECORDS, &operation.id, &serde_json::to_vec(operation).unwrap_or_default()).await
}

async fn forget_oldest(metadata: &dyn MetadataStore, mut known: Vec<Operation>) -> Result<()> {
    known.retain(|operation| operation.state != OperationState::Running);
    known.sort_by_key(|operation| std::cmp::Reverse(operation.started_at_ms));
    for old in known.iter().skip(KEPT - 1) {
        metadata.remove(RECORDS, &old.id).await?;
        metadata.remove(STOPS, &old.id).await?;
    }
    Ok(())
}

/// How many jobs a change of this one changed.
async fn change_one(queue: &dyn Queue, action: OperationAction, job: &JobView) -> Result<u64> {
    match action {
        OperationAction::Cancel => queue.cancel(job.id).await.map(|_| 1),
        OperationAction::Retry => queue.redrive(&job.model, &[job.id], 1).await,
        OperationAction::Delete => queue.purge(&job.model, &[job.id], 1).await,
    }
}

/// An operation at work.
struct Run {
    state: Arc<ServingState>,
    context: RequestContext,
    filter: ListFilter,
    /// The one job that the filter's text names by itself.
    named: Option<JobView>,
    operation: Operation,
    told: Instant,
}

impl Run {
    async fn carry_out(mut self) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::{JobId, OwnerId};

    #[test]
    fn what_has_died_anew_is_not_retried_again() {
        let died = |at_ms| JobView {
            id: JobId { random: 1, tombstone_min: 1, mac: 1, locator: 1 },
            model: "m".into(),
            owner: OwnerId::ANONYMOUS,
            state: JobState::Dead,
            priority: 0,
            attempts: 1,
            created_at_ms: 1,
            finished_at_ms: Some(at_ms),
            error: None,
            result: None,
            tags: Default::default(),
        };
        let takes = |action: OperationAction, at_ms| action.takes(&died(at_ms), 10);
        assert!(takes(OperationAction::Retry, 10) && !takes(OperationAction::Retry, 11));
        assert!(takes(OperationAction::Delete, 11) && !takes(OperationAction::Cancel, 9));
    }
}
