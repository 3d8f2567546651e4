//! Watches: jobs whose end somebody wants to be told of. Who accepts a job
//! begins one before it answers; a gateway's webhook sender looks at them.

use std::time::Duration;

use nobat_core::{Error, ErrorCode, JobId, OwnerId, Result};
use serde::{Deserialize, Serialize};

use crate::api::MetadataStore;

/// The metadata store's set of watches, by job id.
pub const WATCHES: &str = "webhook-watch";
/// When a new watch is looked at first.
pub const FIRST_LOOK: Duration = Duration::from_secs(2);

/// Longest pause between two looks at a job.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long the record of a watched job is kept after its end at least: some looks and
/// the restart of a gateway long, or its end could not be told.
pub const KEPT: Duration = Duration::from_secs(300);

/// How long the result of a watched job is kept whose caller asked for `result_ttl`.
#[must_use]
pub fn kept(result_ttl: Duration) -> Duration {
    result_ttl.max(KEPT)
}

/// A job that somebody wants to hear of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// Which job.
    pub job: JobId,
    /// Whose it is.
    pub owner: OwnerId,
    /// Who is told.
    pub url: String,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// Failed attempts that were told.
    pub failures_told: u32,
}

impl Watch {
    /// As the metadata store keeps it.
    ///
    /// # Errors
    /// `internal`, never for a watch of ours.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::new(ErrorCode::Internal, format!("a watch cannot be written: {e}")))
    }
}

/// Begins to watch a job; returns when the watch is in the metadata store.
///
/// # Errors
/// `queue_unavailable`.
pub async fn begin(metadata: &dyn MetadataStore, job: JobId, owner: OwnerId, url: &str, now_ms: u64) -> Result<()> {
    let watch = Watch { job, owner, url: url.to_owned(), since_ms: now_ms, failures_told: 0 };
    metadata.add_timer(WATCHES, &job.to_string(), &watch.encode()?, FIRST_LOOK).await.map(drop)
}
