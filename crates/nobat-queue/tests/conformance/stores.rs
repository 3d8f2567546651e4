//! The stores under test, each behind `Arc<dyn Queue>`, each test in a fresh
//! namespace: a folder of its own, or a prefix of its own on one Redis that
//! this process starts and that ends with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nobat_queue::redis::RedisQueue;
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{Queue, QueueSettings};
use nobat_testkit::RedisServer;

/// Which store a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    Redis,
}

/// A queue of one test and what must outlive it.
pub(crate) struct Store {
    pub(crate) queue: Arc<dyn Queue>,
    _folder: Option<tempfile::TempDir>,
}

impl Backend {
    /// A fresh queue with default settings.
    pub(crate) async fn open(self) -> Store {
        self.open_with(QueueSettings::default()).await
    }

    /// A fresh queue.
    pub(crate) async fn open_with(self, settings: QueueSettings) -> Store {
        match self {
            Backend::Sqlite => {
                let folder = tempfile::tempdir().expect("a temporary folder");
                let queue = SqliteQueue::open(folder.path(), settings).expect("a fresh folder opens");
                Store { queue, _folder: Some(folder) }
            }
            Backend::Redis => {
                static COUNT: AtomicU32 = AtomicU32::new(0);
                let prefix = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
                let queue =
                    RedisQueue::connect(RedisServer::shared_url(), settings, &prefix).await.expect("redis answers");
                Store { queue, _folder: None }
            }
        }
    }
}

/// Makes each test run on every store.
#[macro_export]
macro_rules! on_every_store {
    ($($name:ident)*) => {
        mod sqlite { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name($crate::stores::Backend::Sqlite).await; })* }
        mod redis { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name($crate::stores::Backend::Redis).await; })* }
    };
}
