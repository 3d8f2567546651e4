//! Workers that left on purpose: what tells a drain from a death. A registration
//! that ends looks the same either way.

use std::collections::HashSet;
use std::time::Duration;

use nobat_core::Result;

use crate::api::MetadataStore;

/// Set of timers, by worker.
const SET: &str = "departed-workers";
/// How long it is remembered that a worker left; the registration is long gone by then.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// Entries forgotten, or read, at a time.
const MANY: usize = 1_000;

/// Notes that `worker` of `host` leaves, before its registration ends.
///
/// # Errors
/// `queue_unavailable`.
pub async fn record(metadata: &dyn MetadataStore, worker: &str, host: &str) -> Result<()> {
    for old in metadata.take_due(SET, MANY, Duration::from_secs(60)).await? {
        metadata.remove_timer(SET, &old.key).await?;
    }
    metadata.add_timer(SET, worker, host.as_bytes(), REMEMBERED).await.map(drop)
}

/// The workers that left.
///
/// # Errors
/// `queue_unavailable`.
pub async fn list(metadata: &dyn MetadataStore) -> Result<HashSet<String>> {
    let noted = metadata.timers(SET, MANY).await?;
    Ok(noted.into_iter().map(|(noted, _)| noted.key).collect())
}
