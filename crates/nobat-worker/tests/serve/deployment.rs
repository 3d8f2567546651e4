//! A worker over the embedded queue in a temporary folder, and ways to call it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nobat_core::OwnerId;
use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::job::{JobOptions, JobResult, JobState, JobView, NewJob};
use nobat_core::retry::RetryPolicy;
use nobat_core::signature::{ModelSignature, ModelState};
use nobat_core::statistics::WorkerReport;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{Accepted, Queue, QueueClient, QueueSettings, WorkerCommand};
use nobat_worker::config::LoadingConfig;
use nobat_worker::{Worker, WorkerConfig, WorkerHandle};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Deployment {
    pub(crate) models: tempfile::TempDir,
    _data: tempfile::TempDir,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) queue_client: Arc<dyn QueueClient>,
    pub(crate) worker: WorkerHandle,
}

pub(crate) fn test_model(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(format!("{name}.onnx"))
}

pub(crate) fn digits() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/digits")
}

/// Timing runs are for real machines; tests share theirs.
pub(crate) fn quick() -> WorkerConfig {
    let loading = LoadingConfig { probe_ms: 20, ..LoadingConfig::default() };
    WorkerConfig { loading, ..WorkerConfig::default() }
}

impl Deployment {
    pub(crate) async fn of(names: &[&str]) -> Deployment {
        Deployment::with(names, quick(), QueueSettings::default()).await
    }

    pub(crate) async fn with(names: &[&str], config: WorkerConfig, settings: QueueSettings) -> Deployment {
        let models = tempfile::tempdir().expect("a folder");
        for name in names {
            std::fs::copy(test_model(name), models.path().join(format!("{name}.onnx"))).expect("a test model");
        }
        Deployment::start(models, config, settings).await
    }

    pub(crate) async fn start(
        models: tempfile::TempDir,
        mut config: WorkerConfig,
        settings: QueueSettings,
    ) -> Deployment {
        let data = tempfile::tempdir().expect("a folder");
        let queue: Arc<dyn Queue> = SqliteQueue::open(data.path(), settings).expect("an embedded queue");
        config.models = vec![models.path().to_owned()];
        let worker = Worker::start(config, Arc::clone(&queue)).expect("a worker");
        worker.ready().await;
        let queue_client = queue.client();
        Deployment { models, _data: data, queue, queue_client, worker }
    }

    pub(crate) fn signature(&self, model: &str) -> ModelSignature {
        self.worker.signatures().into_iter().find(|own| own.name == model).expect("a known model")
    }

    pub(crate) async fn job(&self, model: &str, request: &InferRequest, options: JobOptions) -> JobView {
        self.queue_client.call(new_job(model, request, options), PATIENCE).await.expect("the queue answers")
    }

    pub(crate) async fn enqueue(&self, model: &str, request: &InferRequest, options: JobOptions) -> Accepted {
        self.queue_client.enqueue(new_job(model, request, options)).await.expect("the queue accepts")
    }

    pub(crate) async fn answer(&self, model: &str, request: &InferRequest) -> (InferResponse, JobResult) {
        let view = self.job(model, request, JobOptions::default()).await;
        assert_eq!(view.state, JobState::Succeeded, "{model}: {:?}", view.error);
        let result = view.result.expect("a result");
        (InferResponse::decode(&result.outputs).expect("a response"), result)
    }

    /// Waits until the model's signature is as `wanted`.
    pub(crate) async fn until(&self, model: &str, wanted: impl Fn(&[ModelSignature]) -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let own: Vec<_> = self.worker.signatures().into_iter().filter(|own| own.name == model).collect();
            if wanted(&own) {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{model} stays {own:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The worker's counters, read after this call.
    pub(crate) async fn report(&self) -> WorkerReport {
        static NONCE: AtomicU64 = AtomicU64::new(1);
        let nonce = NONCE.fetch_add(1, Ordering::Relaxed);
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            self.queue.command(&WorkerCommand::Report { nonce }).await.expect("a command");
            let workers = self.queue.workers().await.expect("workers");
            let report =
                workers.first().and_then(|own| serde_json::from_value::<WorkerReport>(own.report.clone()).ok());
            match report {
                Some(report) if report.nonce == nonce => return report,
                _ => assert!(std::time::Instant::now() < deadline, "no report came"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the loading thread has checked the manifest after this call: it does so
    /// after each command, so a second command that is done means that it has.
    pub(crate) async fn manifest_checked(&self) {
        let deadline = std::time::Instant::now() + PATIENCE;
        for done in 1..=2 {
            self.queue.command(&WorkerCommand::Load { model: "nowhere".into() }).await.expect("a command");
            loop {
                let workers = self.queue.workers().await.expect("workers");
                let progress = workers.first().and_then(|own| own.load_progress("nowhere"));
                if progress.is_some_and(|progress| progress.done >= done) {
                    break;
                }
                assert!(std::time::Instant::now() < deadline, "the command is not carried out");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    pub(crate) fn failure(&self, model: &str) -> String {
        let signature = self.signature(model);
        assert_eq!(signature.state, ModelState::Failed, "{model}");
        signature.reason
    }

    pub(crate) async fn drain(self) {
        tokio::task::spawn_blocking(move || self.worker.drain()).await.expect("a drain");
    }
}

fn new_job(model: &str, request: &InferRequest, options: JobOptions) -> NewJob {
    let rows = request.inputs.first().and_then(|tensor| tensor.shape.first().copied()).unwrap_or(1) as u32;
    NewJob {
        model: model.into(),
        owner: OwnerId::ANONYMOUS,
        options,
        payload: request.encode().into(),
        rows,
        trace: "test".into(),
    }
}

pub(crate) fn once() -> JobOptions {
    JobOptions { retry: RetryPolicy { max_retries: 0, ..RetryPolicy::default() }, ..JobOptions::default() }
}

pub(crate) fn tensor(name: &str, datatype: Datatype, shape: &[i64], data: Vec<u8>) -> Tensor {
    Tensor { name: name.into(), datatype, shape: shape.into(), data: data.into() }
}

pub(crate) fn floats(name: &str, shape: &[i64], values: &[f32]) -> Tensor {
    tensor(name, Datatype::Fp32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

pub(crate) fn longs(name: &str, shape: &[i64], values: &[i64]) -> Tensor {
    tensor(name, Datatype::Int64, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

pub(crate) fn request(inputs: Vec<Tensor>) -> InferRequest {
    InferRequest { inputs, ..InferRequest::default() }
}

pub(crate) fn as_floats(tensor: &Tensor) -> Vec<f32> {
    tensor.data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}
