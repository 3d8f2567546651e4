//! Webhook subscriptions: jobs whose end a URL wants to be told of. Who accepts a job
//! subscribes before it answers; a gateway's webhook sender looks after them.

use std::time::Duration;

use nobat_core::{Error, ErrorCode, JobId, OwnerId, Result};
use serde::{Deserialize, Serialize};

use crate::api::MetadataStore;

/// The metadata store's set of subscriptions, by job id.
pub const SUBSCRIPTIONS: &str = "webhook-watch";
/// When a new subscription is checked first.
pub const FIRST_CHECK: Duration = Duration::from_secs(2);

/// Longest pause between two checks of a job.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long the record of a subscribed job is kept after its end at least: some checks and
/// the restart of a gateway long, or its end could not be told.
pub const KEPT: Duration = Duration::from_secs(300);

/// How long the result of a subscribed job is kept whose caller asked for `result_ttl`.
#[must_use]
pub fn kept(result_ttl: Duration) -> Duration {
    result_ttl.max(KEPT)
}

/// Who wants to hear of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WebhookSubscription {
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

impl WebhookSubscription {
    /// As the metadata store keeps it.
    ///
    /// # Errors
    /// `internal`, never for one of ours.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|e| Error::new(ErrorCode::Internal, format!("a subscription cannot be written: {e}")))
    }
}

/// Subscribes to a job; returns when that is in the metadata store.
///
/// # Errors
/// `queue_unavailable`.
pub async fn subscribe(metadata: &dyn MetadataStore, job: JobId, owner: OwnerId, url: &str, now_ms: u64) -> Result<()> {
    let subscription = WebhookSubscription { job, owner, url: url.to_owned(), since_ms: now_ms, failures_told: 0 };
    metadata.add_timer(SUBSCRIPTIONS, &job.to_string(), &subscription.encode()?, FIRST_CHECK).await.map(drop)
}
