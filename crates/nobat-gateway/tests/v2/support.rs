//! A gateway on free ports over the embedded queue, and a scripted worker in
//! this process: identity models, a small classifier, a queue nobody serves.

use nobat_testkit::signatures::{ready, spec};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nobat_core::ErrorCode;
use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::job::{JobError, JobResult, LeasedJob, Outcome, Settlement};
use nobat_core::signature::{ModelSignature, ModelState};
use nobat_core::statistics::{BatchTimes, ModelStatistics, WorkerReport};
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::timings::Timings;
use nobat_gateway::proto::grpc_inference_service_client::GrpcInferenceServiceClient;
use nobat_gateway::{Gateway, GatewayConfig, GatewayHandle};
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{LOADS, LoadProgress, Queue, QueueSettings, WorkerCommand, WorkerInfo};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// Largest body that the gateway under test takes.
pub(crate) const MAX_BODY: usize = 1 << 20;
const TTL: Duration = Duration::from_secs(60);

/// A running gateway and its worker. Dropped, the tasks end with the runtime.
pub(crate) struct Server {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub queue: Arc<SqliteQueue>,
    pub client: reqwest::Client,
    worker: Arc<Worker>,
    _handle: GatewayHandle,
    _worker: Vec<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

/// One float classifier, one identity model per datatype, one without a worker.
fn signatures() -> Vec<ModelSignature> {
    let mut digits = signature("digits", Datatype::Fp32, vec![-1, 4]);
    digits.outputs[0].name = "scores".into();
    digits.settings.insert("class_labels".into(), serde_json::json!({"scores": ["zero", "one"]}));
    let mut all = vec![digits, signature("stuck", Datatype::Fp32, vec![-1, 4])];
    for datatype in Datatype::ALL {
        all.push(signature(&format!("identity_{}", datatype.as_str().to_lowercase()), datatype, vec![-1, -1]));
    }
    all
}

fn signature(name: &str, datatype: Datatype, shape: Vec<i64>) -> ModelSignature {
    ready(name, vec![spec("x", datatype, &shape)], vec![spec("y", datatype, &shape)])
}

struct Worker {
    queue: Arc<SqliteQueue>,
    models: Mutex<BTreeMap<String, ModelSignature>>,
    counted: Mutex<BTreeMap<String, ModelStatistics>>,
    loads: Mutex<BTreeMap<String, LoadProgress>>,
    script: Mutex<Script>,
}

/// How the worker carries out what it is told to load.
#[derive(Default)]
pub(crate) struct Script {
    /// Not before this is notified.
    pub hold: Option<Arc<Notify>>,
    /// It fails for this reason, and what served before goes on serving.
    pub fails: Option<&'static str>,
}

impl Worker {
    async fn register(&self, nonce: u64) {
        let report = WorkerReport { nonce, statistics: self.counted.lock().values().cloned().collect() };
        let mut report = serde_json::to_value(report).expect("a report serializes");
        report[LOADS] = serde_json::to_value(&*self.loads.lock()).expect("it serializes");
        let info = WorkerInfo {
            id: "scripted".into(),
            host: "test".into(),
            started_at_ms: 0,
            sessions: 1,
            models: self.models.lock().values().cloned().collect(),
            report,
        };
        self.queue.register_worker(&info, TTL).await.expect("registers");
    }

    async fn obey(self: Arc<Worker>) {
        loop {
            let nonce = match self.queue.next_command().await {
                WorkerCommand::Load { model } => {
                    self.begin(&model).await;
                    let error = self.load(&model).await.err();
                    self.end(&model, error);
                    0
                }
                WorkerCommand::Unload { model } => {
                    self.begin(&model).await;
                    self.models.lock().retain(|_, known| known.name != model);
                    self.end(&model, None);
                    0
                }
                WorkerCommand::Report { nonce } => nonce,
            };
            self.register(nonce).await;
        }
    }

    async fn begin(&self, model: &str) {
        self.loads.lock().entry(model.into()).or_default().taken += 1;
        self.register(0).await;
    }

    fn end(&self, model: &str, error: Option<JobError>) {
        let mut loads = self.loads.lock();
        let progress = loads.entry(model.into()).or_default();
        *progress = LoadProgress { done: progress.taken, error, ..*progress };
    }

    /// Its repository has `late`, and what it serves.
    async fn load(&self, model: &str) -> Result<(), JobError> {
        let Script { hold, fails } = std::mem::take(&mut *self.script.lock());
        if let Some(hold) = hold {
            hold.notified().await;
        }
        let mut models = self.models.lock();
        if model == "late" {
            models.insert("late".into(), signature("late", Datatype::Fp32, vec![-1, 4]));
        }
        let Some(ready) = models.get(model).cloned() else {
            return Err(JobError { code: ErrorCode::ModelNotFound, message: "not in the repository".into() });
        };
        let failed = format!("{model} failed");
        models.remove(&failed);
        let Some(reason) = fails else { return Ok(()) };
        models.insert(failed, ModelSignature { state: ModelState::Failed, reason: reason.into(), ..ready });
        Err(JobError { code: ErrorCode::ModelNotReady, message: reason.into() })
    }

    async fn serve(self: Arc<Worker>, model: String) {
        let mut consumer = self.queue.consumer(&model, "scripted").await.expect("a consumer");
        let mut settled = Vec::new();
        loop {
            let step = consumer.settle_and_lease(std::mem::take(&mut settled), 8).await.expect("steps");
            if step.leased.is_empty() {
                consumer.idle().await;
                continue;
            }
            let rows: u32 = step.leased.iter().map(|job| job.rows).sum();
            let jobs = step.leased.len() as u64;
            let times = BatchTimes { rows, infer: Duration::from_micros(50), ..BatchTimes::default() };
            {
                let mut counted = self.counted.lock();
                let statistics = counted.entry(model.clone()).or_insert_with(|| ModelStatistics::new(&model, "1"));
                statistics.record_batch(times, jobs, 1);
                (0..jobs).for_each(|_| statistics.record_job(true, times.infer, times.infer));
            }
            settled = step.leased.into_iter().map(|job| settle(&model, job, rows)).collect();
        }
    }
}

fn settle(model: &str, job: LeasedJob, batch_size: u32) -> Settlement {
    let request = InferRequest::decode(job.payload).expect("the gateway sends what it validated");
    let name = if model == "digits" { "scores" } else { "y" };
    let outputs = request.inputs.into_iter().map(|input| Tensor { name: name.into(), ..input }).collect();
    let mut packed = Vec::new();
    InferResponse { version: "1".into(), outputs, mark: 0 }.encode(&mut packed);
    let timings = Timings { batch_size, attempts: 1, ..Timings::default() };
    let outcome = Outcome::Succeeded(JobResult { timings, outputs: packed.into() }.encode());
    Settlement { id: job.id, token: job.token, outcome }
}

impl Server {
    pub(crate) async fn start() -> Server {
        let dir = tempfile::tempdir().expect("a folder");
        let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("a store");
        let models: BTreeMap<_, _> =
            signatures().into_iter().map(|signature| (signature.name.to_string(), signature)).collect();
        let worker = Arc::new(Worker {
            queue: queue.clone(),
            models: Mutex::new(models),
            counted: Mutex::default(),
            loads: Mutex::default(),
            script: Mutex::default(),
        });
        worker.register(0).await;
        let names: Vec<String> = worker.models.lock().keys().filter(|name| *name != "stuck").cloned().collect();
        let mut tasks = vec![tokio::spawn(worker.clone().obey())];
        tasks.extend(names.into_iter().map(|name| tokio::spawn(worker.clone().serve(name))));
        let config = GatewayConfig {
            listen: "127.0.0.1:0".into(),
            grpc: "127.0.0.1:0".into(),
            metrics: String::new(),
            max_body_bytes: MAX_BODY,
            body_idle_s: 1,
            ..GatewayConfig::default()
        };
        let handle = Gateway::start(config, queue.clone()).await.expect("starts");
        Server {
            http: handle.http_addr(),
            grpc: handle.grpc_addr().expect("gRPC is on"),
            queue,
            client: reqwest::Client::new(),
            worker,
            _handle: handle,
            _worker: tasks,
            _dir: dir,
        }
    }

    /// Has the worker carry out its next load so.
    pub(crate) fn next_load(&self, script: Script) {
        *self.worker.script.lock() = script;
    }

    /// How many loads of `model` the worker has taken up.
    pub(crate) fn loads_taken(&self, model: &str) -> u64 {
        self.worker.loads.lock().get(model).map_or(0, |progress| progress.taken)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// Posts a body as inference clients do: with these headers and no content type.
    pub(crate) async fn post(&self, path: &str, headers: &[(&str, String)], body: impl Into<reqwest::Body>) -> Reply {
        let mut request = self.client.post(self.url(path)).body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        Reply::of(request.send().await.expect("an answer")).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        Reply::of(self.client.get(self.url(path)).send().await.expect("an answer")).await
    }

    pub(crate) async fn grpc(&self) -> GrpcInferenceServiceClient<Channel> {
        let channel = Channel::from_shared(format!("http://{}", self.grpc)).expect("an address");
        let channel = channel.connect().await.expect("connects");
        GrpcInferenceServiceClient::new(channel).max_decoding_message_size(usize::MAX)
    }

    /// Waits until the queue that nobody serves has `wanted` jobs waiting.
    pub(crate) async fn await_stuck(&self, wanted: u64) {
        for _ in 0..500 {
            if self.queue.counts("stuck").await.expect("counts").queued == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the queue never had {wanted} jobs waiting");
    }
}

/// An answer, read whole.
pub(crate) struct Reply {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: bytes::Bytes,
}

impl Reply {
    async fn of(response: reqwest::Response) -> Reply {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Reply { status, headers, body: response.bytes().await.expect("a body") }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    /// The tensor bytes after the document.
    pub(crate) fn blobs(&self) -> &[u8] {
        let at: usize = self.header("inference-header-content-length").expect("binary").parse().expect("a length");
        &self.body[at..]
    }
}
