//! What is known of an operation, and where that stands.

use std::net::IpAddr;

use nobat_core::Result;
use nobat_core::job::{JobState, JobView};
use nobat_queue::{ListFilter, MetadataStore};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// Where records stand, and the wish that an operation stops.
pub(super) const RECORDS: &str = "operations";
pub(super) const STOPS: &str = "operations-stopped";
/// A record that was not written for so long is of a gateway that is gone.
const SILENCE_MS: u64 = 15_000;

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
    /// The states of jobs that it changes.
    pub(super) fn states(self) -> &'static [JobState] {
        match self {
            OperationAction::Cancel => &[JobState::Scheduled, JobState::Queued, JobState::Leased, JobState::Failed],
            OperationAction::Retry | OperationAction::Delete => &[JobState::Dead],
        }
    }

    /// Whether a job in this state is one that it changes.
    pub(super) fn is_for(self, state: JobState) -> bool {
        self.states().contains(&state)
    }

    /// Whether a job is one that it changes. What a retry sent back and has died anew is left for
    /// its caller to judge: it would die as often as it is looked at.
    pub(super) fn takes(self, job: &JobView, started_at_ms: u64) -> bool {
        let died_anew = self == OperationAction::Retry && job.finished_at_ms.is_some_and(|at| at > started_at_ms);
        self.is_for(job.state) && !died_anew
    }

    /// The only state that it changes, if it is one.
    fn state(self) -> Option<JobState> {
        match self.states() {
            [state] => Some(*state),
            _ => None,
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
    /// Where the call came from; `None` where keys tell callers apart.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// Begun, milliseconds since 1970 by the store's clock: jobs enqueued later are not touched.
    pub started_at_ms: u64,
    /// Its record was written.
    pub updated_at_ms: u64,
    /// Over.
    pub finished_at_ms: Option<u64>,
}

/// The filter of an operation: of the states that it changes, where that is one.
pub(super) fn narrowed(filter: &ListFilter, action: OperationAction) -> ListFilter {
    let mut filter = filter.clone();
    // A filter for another state finds nothing that is to be changed, and says so.
    filter.state = filter.state.or(action.state());
    filter
}

/// Every record; one that was not written for long is of a gateway that is gone.
pub(super) async fn records(metadata: &dyn MetadataStore) -> Result<Vec<Operation>> {
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

pub(super) async fn write(metadata: &dyn MetadataStore, operation: &Operation) -> Result<()> {
    // A struct of plain fields always serializes.
    metadata.put(RECORDS, &operation.id, &serde_json::to_vec(operation).unwrap_or_default()).await
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
