//! A worker that is dropped, as on the way out of a start that failed. A process of its
//! own: the threads that are counted are the process's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nobat_core::signature::{ModelSignature, ModelState};
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{Queue, QueueSettings};
use nobat_worker::config::LoadingConfig;
use nobat_worker::{Worker, WorkerConfig};

/// The names of this process's threads that load or run models.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("linux").flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with("nobat-load") || name.starts_with("nobat-run")).collect()
}

#[tokio::test]
async fn a_worker_that_is_dropped_while_it_loads_leaves_no_thread_in_a_model() {
    let models = tempfile::tempdir().expect("a folder");
    // One that serves, and one whose first run never ends by itself.
    for (name, model) in [("a", "identity_fp32"), ("b", "endless")] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/models/{model}.onnx"));
        std::fs::copy(file, models.path().join(format!("{name}.onnx"))).expect("a test model");
    }
    let data = tempfile::tempdir().expect("a folder");
    let queue: Arc<dyn Queue> = SqliteQueue::open(data.path(), QueueSettings::default()).expect("a queue");
    let loading = LoadingConfig { probe_ms: 20, ..LoadingConfig::default() };
    let config = WorkerConfig { models: vec![models.path().to_owned()], loading, ..WorkerConfig::default() };
    let worker = Worker::start(config, Arc::clone(&queue)).expect("a worker");
    let ready = |own: &ModelSignature| own.name == "a" && own.state == ModelState::Ready;
    while !worker.signatures().iter().any(ready) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(threads().len(), 2, "it loads one and serves the other: {:?}", threads());
    drop(worker);
    assert_eq!(threads(), Vec::<String>::new());
    assert!(queue.workers().await.expect("workers").is_empty(), "it has left the registry");
}
