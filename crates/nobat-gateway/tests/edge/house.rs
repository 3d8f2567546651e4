//! A gateway over a queue (embedded unless a test brings one), and a worker whose one model gives back
//! its input after a while and counts its runs.

use nobat_testkit::signatures::{ready, spec};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::job::{JobResult, Outcome, Settlement};
use nobat_core::signature::{ModelSignature, digest_mark};
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::timings::Timings;
use nobat_gateway::proto::grpc_inference_service_client::GrpcInferenceServiceClient;
use nobat_gateway::{Gateway, GatewayConfig, GatewayHandle};
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{Queue, QueueSettings, WorkerInfo};
use reqwest::header::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// The model's name.
pub(crate) const MODEL: &str = "echo";
/// How long a registration lasts; renewed at a third of it.
const TTL: Duration = Duration::from_millis(1500);

/// Everything that runs.
pub(crate) struct House {
    pub(crate) gateway: GatewayHandle,
    pub(crate) runs: Arc<AtomicU32>,
    pub(crate) queue: Arc<dyn Queue>,
    settings: serde_json::Value,
    run_time: Duration,
    worker: Vec<JoinHandle<()>>,
    client: reqwest::Client,
    _dir: Option<tempfile::TempDir>,
}

/// An answer, read whole.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {}", self.text))
    }
}

impl House {
    pub(crate) async fn start(config: GatewayConfig, settings: serde_json::Value, run_time: Duration) -> House {
        let dir = tempfile::tempdir().expect("a folder");
        let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("an embedded queue");
        House { _dir: Some(dir), ..House::on(queue, config, settings, run_time).await }
    }

    /// A house on a queue that others may share.
    pub(crate) async fn on(
        queue: Arc<dyn Queue>,
        config: GatewayConfig,
        settings: serde_json::Value,
        run_time: Duration,
    ) -> House {
        let runs = Arc::new(AtomicU32::new(0));
        queue.register_worker(&info(&settings, "1"), TTL).await.expect("registered");
        let config = GatewayConfig {
            listen: "127.0.0.1:0".into(),
            grpc: "127.0.0.1:0".into(),
            metrics: "127.0.0.1:0".into(),
            threads: 2,
            ..config
        };
        let gateway = Gateway::start(config, queue.clone()).await.expect("starts");
        let client = reqwest::Client::new();
        let mut house = House { gateway, runs, queue, settings, run_time, worker: Vec::new(), client, _dir: None };
        house.start_worker();
        house
    }

    pub(crate) fn start_worker(&mut self) {
        self.worker = self.start_worker_of("1");
    }

    /// A worker that has the model at `version`, until its tasks are aborted.
    pub(crate) fn start_worker_of(&self, version: &'static str) -> Vec<JoinHandle<()>> {
        let (queue, settings) = (self.queue.clone(), self.settings.clone());
        let beat = tokio::spawn(async move {
            loop {
                // A store that a test takes away comes back, or does not.
                let _ = queue.register_worker(&info(&settings, version), TTL).await;
                tokio::time::sleep(TTL / 3).await;
            }
        });
        vec![beat, tokio::spawn(work(self.queue.clone(), self.runs.clone(), self.run_time, version))]
    }

    /// Ends the worker without a word, as a kill would.
    pub(crate) fn kill_worker(&mut self) {
        self.worker.drain(..).for_each(|task| task.abort());
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.http_addr())
    }

    pub(crate) async fn get(&self, path: &str, key: Option<&str>) -> Reply {
        send(self.client.get(self.url(path)), key, &[]).await
    }

    /// Sends text as it stands and reads until the server closes.
    pub(crate) async fn raw(&self, request: &str) -> Reply {
        let mut socket = TcpStream::connect(self.gateway.http_addr()).await.expect("connects");
        socket.write_all(request.as_bytes()).await.expect("sends");
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut answer)).await;
        // A refusal may come with the connection reset behind it.
        assert!(read.is_ok() || !answer.is_empty(), "no answer to {request:?}");
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.get(9..12).and_then(|digits| digits.parse().ok());
        let status = status.unwrap_or_else(|| panic!("{request:?} got {text:?}"));
        let mut headers = HeaderMap::new();
        for line in head.lines().skip(1) {
            let (name, value) = line.split_once(": ").expect("a header");
            let name = reqwest::header::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        Reply { status, headers, text: body.to_owned() }
    }

    pub(crate) async fn scrape(&self) -> String {
        let address = self.gateway.metrics_addr().expect("metrics are on");
        send(self.client.get(format!("http://{address}/metrics")), None, &[]).await.text
    }

    /// Asks for a prediction of `[[value, 0]]`.
    pub(crate) async fn predict(&self, value: f32, key: Option<&str>, headers: &[(&str, &str)]) -> Reply {
        let body = serde_json::json!({ "instances": [[value, 0.0]] }).to_string();
        let request = self.client.post(self.url(&format!("/v1/models/{MODEL}:predict"))).body(body);
        send(request, key, headers).await
    }

    /// Asks the native API for a prediction of `[[value, 0]]`: its answer tells the version.
    pub(crate) async fn ask(&self, value: f32, query: &str) -> Reply {
        let body = serde_json::json!({ "instances": [[value, 0.0]] }).to_string();
        let path = format!("/api/v1/predict/{MODEL}?wait=20{query}");
        send(self.client.post(self.url(&path)).body(body), None, &[]).await
    }

    pub(crate) async fn enqueue(&self, key: Option<&str>) -> Reply {
        let body = r#"{"instances": [[1.0, 2.0]]}"#;
        let request = self.client.post(self.url(&format!("/api/v1/predict/{MODEL}"))).body(body);
        send(request, key, &[]).await
    }

    /// Enqueues with a query of its own.
    pub(crate) async fn enqueue_and(&self, query: &str) -> Reply {
        let body = r#"{"instances": [[1.0, 2.0]]}"#;
        let request = self.client.post(self.url(&format!("/api/v1/predict/{MODEL}{query}"))).body(body);
        send(request, None, &[]).await
    }

    pub(crate) async fn grpc(&self) -> GrpcInferenceServiceClient<Channel> {
        let address = self.gateway.grpc_addr().expect("gRPC is on");
        let channel = Channel::from_shared(format!("http://{address}")).expect("an address");
        GrpcInferenceServiceClient::new(channel.connect().await.expect("connects"))
    }

    pub(crate) fn run_count(&self) -> u32 {
        self.runs.load(Relaxed)
    }

    pub(crate) async fn stop(mut self) {
        self.kill_worker();
        self.gateway.stop().await;
    }
}

pub(crate) async fn send(request: reqwest::RequestBuilder, key: Option<&str>, headers: &[(&str, &str)]) -> Reply {
    let mut request = match key {
        Some(key) => request.header("authorization", format!("Bearer {key}")),
        None => request,
    };
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Reply { status, headers, text: response.text().await.expect("a body") }
}

pub(crate) fn info(settings: &serde_json::Value, version: &str) -> WorkerInfo {
    let tensor = |name| spec(name, Datatype::Fp32, &[-1, 2]);
    let model = ModelSignature {
        finite: true,
        version: version.into(),
        digest: digest(version),
        settings: settings.as_object().cloned().unwrap_or_default(),
        ..ready(MODEL, vec![tensor("in")], vec![tensor("out")])
    };
    let mut statistics = nobat_core::statistics::ModelStatistics::new(MODEL, version);
    let times = nobat_core::statistics::BatchTimes { rows: 1, ..Default::default() };
    statistics.record_batch(times, 1, 1);
    WorkerInfo {
        id: format!("scripted-{version}").into(),
        host: "here:1".into(),
        started_at_ms: 1,
        sessions: 1,
        models: vec![model],
        report: serde_json::json!({ "nonce": 1, "statistics": [statistics] }),
    }
}

fn digest(version: &str) -> String {
    format!("00ff{version}")
}

async fn work(queue: Arc<dyn Queue>, runs: Arc<AtomicU32>, run_time: Duration, version: &str) {
    let mut consumer = queue.consumer(MODEL, "scripted").await.expect("a consumer");
    let mut settle = Vec::new();
    loop {
        let step = consumer.settle_and_lease(std::mem::take(&mut settle), 8).await.expect("a step");
        if step.leased.is_empty() {
            consumer.idle().await;
            continue;
        }
        tokio::time::sleep(run_time).await;
        for job in step.leased {
            runs.fetch_add(1, Relaxed);
            let request = InferRequest::decode(job.payload).expect("a request");
            let outputs = vec![Tensor { name: "out".into(), ..request.inputs[0].clone() }];
            let mut packed = Vec::new();
            let mark = digest_mark(&digest(version));
            InferResponse { version: version.into(), outputs, mark }.encode(&mut packed);
            let timings =
                Timings { batch_size: 1, attempts: job.attempt, worker: "scripted".into(), ..Timings::default() };
            let result = JobResult { timings, outputs: packed.into() };
            settle.push(Settlement { id: job.id, token: job.token, outcome: Outcome::Succeeded(result.encode()) });
        }
    }
}
