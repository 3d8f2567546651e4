//! The store behind serving, for who opens one: the one seam where a process hands its
//! queue over.

use std::path::Path;
use std::sync::Arc;

use nobat_core::Result;
use nobat_queue::sqlite::SqliteQueue;

pub use nobat_queue::{Queue, QueueSettings, StoreSettings};

/// Opens the embedded store in `folder`.
///
/// # Errors
/// As [`SqliteQueue::open`].
pub fn embedded(folder: &Path, settings: QueueSettings) -> Result<Arc<dyn Queue>> {
    Ok(SqliteQueue::open(folder, settings)?)
}
