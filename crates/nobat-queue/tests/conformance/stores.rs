//! The stores under test, each behind `Arc<dyn Queue>`, each test in a fresh
//! namespace: a folder of its own, or a prefix of its own on one Redis that
//! this process starts and that ends with it.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nobat_queue::redis::RedisQueue;
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{Queue, QueueSettings};

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
                let queue = RedisQueue::connect(&redis_url(), settings, &prefix).await.expect("redis answers");
                Store { queue, _folder: None }
            }
        }
    }
}

/// One Redis for all tests of this process.
fn redis_url() -> String {
    static SERVER: OnceLock<(String, Child)> = OnceLock::new();
    SERVER.get_or_init(start_redis).0.clone()
}

/// Starts Redis under a shell that ends it, by its process id, when this
/// process ends in whatever way: then the pipe to the shell's input closes.
fn start_redis() -> (String, Child) {
    let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = probe.local_addr().expect("an address").port();
    drop(probe);
    let script = format!(
        "dir=$(mktemp -d); redis-server --port {port} --bind 127.0.0.1 --save '' --appendonly no --dir \"$dir\" >/dev/null 2>&1 & \
         pid=$!; cat >/dev/null; kill $pid; wait $pid; rm -rf \"$dir\""
    );
    let shell = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().expect("a shell starts");
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < until, "no Redis on port {port}: install redis-server");
        std::thread::sleep(Duration::from_millis(10));
    }
    (format!("redis://127.0.0.1:{port}"), shell)
}

/// Makes each test run on every store.
#[macro_export]
macro_rules! on_every_store {
    ($($name:ident)*) => {
        mod sqlite { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name($crate::stores::Backend::Sqlite).await; })* }
        mod redis { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name($crate::stores::Backend::Redis).await; })* }
    };
}
