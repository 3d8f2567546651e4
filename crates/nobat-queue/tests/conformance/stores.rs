//! The stores under test, each behind `Arc<dyn Queue>`, each test in a fresh
//! namespace.

use std::sync::Arc;

use nobat_queue::Queue;
use nobat_queue::queue::QueueSettings;
use nobat_queue::sqlite::SqliteQueue;

/// A queue of one test and what must outlive it.
pub(crate) struct Store {
    /// The queue.
    pub(crate) queue: Arc<dyn Queue>,
    _folder: Option<tempfile::TempDir>,
}

/// The embedded store in a folder of its own.
pub(crate) fn sqlite(settings: QueueSettings) -> Store {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let queue = SqliteQueue::open(folder.path(), settings).expect("a fresh folder opens");
    Store { queue, _folder: Some(folder) }
}
