//! Changes of many jobs at once: cancel, retry or delete whatever a filter finds, in the
//! background.
//!
//! An operation is carried out by the gateway that took it, and ends with it: its record in
//! the metadata store then says `interrupted`, and starting it anew does what is left. It
//! touches no job that was enqueued after it was asked for, and a job that has ended
//! meanwhile is left as it is. Every gateway shows the records, and can stop any operation.

mod count;
mod record;
mod run;

use std::time::{Duration, Instant};

use nobat_core::{Error, ErrorCode, Result, clip};
use nobat_queue::{ListFilter, MetadataStore};

pub use self::record::{Operation, OperationAction, OperationState};
use self::record::{RECORDS, STOPS, narrowed, records, write};
use self::run::Run;
use crate::context::RequestContext;
use crate::limits::{Holder, NoPlace, judge};
use crate::predictor::Predictor;
use crate::random_bits::random_bits;

/// Records kept, of those that are over.
const KEPT: usize = 50;
/// Operations at work at a time, over all gateways.
const AT_WORK: usize = 4;

impl Predictor {
    /// Begins an operation over what `filter` finds, which the caller wrote as `text`.
    ///
    /// # Errors
    /// `rate_limited` while too many are at work, `quota_exceeded` while too many are of the
    /// caller; `queue_unavailable`.
    pub async fn begin_operation(
        &self,
        context: &RequestContext,
        holder: Holder,
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
        // Calls that come together see each other's records.
        let beginning = state.beginning.lock().await;
        let known = records(&*metadata).await?;
        may_begin(&known, holder)?;
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
            address: holder.address,
            started_at_ms: now_ms,
            updated_at_ms: now_ms,
            finished_at_ms: None,
        };
        write(&*metadata, &operation).await?;
        drop(beginning);
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

/// Refuses an operation over the caller's share of those that are at work.
fn may_begin(known: &[Operation], holder: Holder) -> Result<()> {
    let at_work = || known.iter().filter(|other| other.state == OperationState::Running);
    let held = at_work().filter(|other| other.owner == holder.owner.0 && other.address == holder.address).count();
    let (code, message) = match judge(held, at_work().count(), AT_WORK) {
        Ok(()) => return Ok(()),
        Err(NoPlace::Full) => (ErrorCode::RateLimited, format!("{AT_WORK} operations are at work")),
        Err(NoPlace::Share(held)) => (
            ErrorCode::QuotaExceeded,
            format!(
                "{held} of the {AT_WORK} operations that may be at work are this caller's, and no more are free for others"
            ),
        ),
    };
    let message = format!("{message}; wait for one to end, or stop one");
    Err(Error::new(code, message).retry_after(Duration::from_secs(1)))
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
