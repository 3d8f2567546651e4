//! The store behind serving, for who opens one: the one seam where a process hands its
//! queue over.

use std::path::Path;
use std::sync::Arc;

use nobat_core::Result;
use nobat_queue::redis::RedisQueue;
use nobat_queue::sqlite::SqliteQueue;

pub use nobat_queue::Queue;
pub use nobat_queue::QueueSettings;

/// Connects to the queues on Redis.
///
/// # Errors
/// As [`RedisQueue::connect`].
pub async fn redis(url: &str, settings: QueueSettings, prefix: &str) -> Result<Arc<dyn Queue>> {
    Ok(RedisQueue::connect(url, settings, prefix).await?)
}

/// Opens the embedded store in `folder`.
///
/// # Errors
/// As [`SqliteQueue::open`].
pub fn embedded(folder: &Path, settings: QueueSettings) -> Result<Arc<dyn Queue>> {
    Ok(SqliteQueue::open(folder, settings)?)
}
