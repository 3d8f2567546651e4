//! A gateway on a free port, an embedded queue in a temporary folder, and a
//! worker whose models are a few lines of Rust.

use nobat_testkit::signatures::{ready, spec};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nobat_core::ErrorCode;
use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::job::{JobError, JobResult, LeasedJob, Outcome, Settlement};
use nobat_core::signature::{ModelSignature, TensorSpec};
use nobat_core::task::{Task, TaskKind};
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::timings::Timings;
use nobat_gateway::{Gateway, GatewayConfig, GatewayHandle};
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{Queue, QueueSettings, WorkerInfo};
use serde_json::Value;
use tokio::task::JoinHandle;

/// A running gateway with its queue and worker.
pub(crate) struct House {
    pub gateway: GatewayHandle,
    pub client: reqwest::Client,
    workers: Vec<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

/// A response, read whole.
pub(crate) struct Reply {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e} in {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII")).unwrap_or_default()
    }

    /// Status and error code, for tables of refusals.
    pub(crate) fn refusal(&self) -> (u16, String) {
        (self.status, self.json()["code"].as_str().unwrap_or_default().to_owned())
    }
}

impl House {
    pub(crate) async fn start() -> House {
        House::start_with(GatewayConfig::default()).await
    }

    pub(crate) async fn start_with(config: GatewayConfig) -> House {
        House::start_serving(config, vec![digits(), pair(), text()]).await
    }

    /// With these models.
    pub(crate) async fn start_serving(config: GatewayConfig, models: Vec<ModelSignature>) -> House {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("an embedded queue");
        let info = WorkerInfo {
            id: "scripted".into(),
            host: "here:1".into(),
            started_at_ms: 1,
            sessions: 1,
            models: models.clone(),
            report: serde_json::json!({ "controller": { "cap": 8 } }),
        };
        queue.register_worker(&info, Duration::from_secs(600)).await.expect("registers");
        let workers = models.iter().map(|model| tokio::spawn(work(queue.clone(), model.name.to_string()))).collect();
        let local = GatewayConfig {
            listen: "127.0.0.1:0".into(),
            grpc: String::new(),
            metrics: String::new(),
            threads: 2,
            ..config
        };
        let gateway = Gateway::start(local, queue.clone()).await.expect("starts");
        House { gateway, client: reqwest::Client::new(), workers, _dir: dir }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.gateway.http_addr()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr())
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(self.client.get(self.url(path))).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Reply {
        self.send(self.client.post(self.url(path)).body(body)).await
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Reply {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Reply { status, headers, text: response.text().await.expect("a body") }
    }

    /// Enqueues a digits job and returns its id.
    pub(crate) async fn enqueue(&self, query: &str, values: [f32; 4]) -> String {
        let reply = self.post(&format!("/api/v1/predict/digits{query}"), instance(values)).await;
        assert_eq!(reply.status, 202, "{}", reply.text);
        reply.json()["id"].as_str().expect("an id").to_owned()
    }

    /// Stops the gateway and the worker.
    pub(crate) async fn stop(self) {
        for worker in &self.workers {
            worker.abort();
        }
        self.gateway.stop().await;
    }
}

/// `{"instances": [values]}`.
pub(crate) fn instance(values: [f32; 4]) -> String {
    serde_json::json!({ "instances": [values] }).to_string()
}

fn model(name: &str, inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> ModelSignature {
    ModelSignature {
        finite: true,
        digest: "00ff".into(),
        labels: vec!["stable".into()],
        ..ready(name, inputs, outputs)
    }
}

/// Four numbers in; their sum as label, and their shares of it, out.
pub(crate) fn digits() -> ModelSignature {
    let outputs = vec![spec("label", Datatype::Int64, &[-1]), spec("probabilities", Datatype::Fp32, &[-1, 4])];
    model("digits", vec![spec("input", Datatype::Fp32, &[-1, 4])], outputs)
}

/// Two integers in, their sum out.
fn pair() -> ModelSignature {
    let inputs = vec![spec("a", Datatype::Int32, &[-1]), spec("b", Datatype::Int32, &[-1])];
    model("pair", inputs, vec![spec("sum", Datatype::Fp32, &[-1, 1])])
}

/// Bytes in, the same bytes out.
pub(crate) fn text() -> ModelSignature {
    model("text", vec![spec("in", Datatype::Bytes, &[-1])], vec![spec("out", Datatype::Bytes, &[-1])])
}

/// A picture in, its bytes out.
pub(crate) fn photo() -> ModelSignature {
    let mut photo = model("photo", vec![spec("image", Datatype::Bytes, &[-1])], text().outputs);
    photo.task = Some(Task { parameters: vec!["top_k".into()], ..Task::new(TaskKind::Image) });
    photo
}

/// A table of ages and cities in; a city and two shares out, as a ZipMap gives them.
pub(crate) fn people() -> ModelSignature {
    let inputs = vec![spec("age", Datatype::Fp32, &[-1, 1]), spec("city", Datatype::Bytes, &[-1, 1])];
    let outputs =
        vec![spec("output_label", Datatype::Bytes, &[-1]), spec("output_probability", Datatype::Fp32, &[-1, 2])];
    let mut people = model("people", inputs, outputs);
    let labels = serde_json::json!({ "output_probability": ["no", "yes"] });
    people.settings.insert("class_labels".into(), labels);
    people
}

/// Runs one model for ever. A digits row that begins with 666 fails for good.
async fn work(queue: Arc<SqliteQueue>, model: String) {
    let mut consumer = queue.consumer(&model, "scripted").await.expect("a consumer");
    let mut settle = Vec::new();
    loop {
        let step = consumer.settle_and_lease(std::mem::take(&mut settle), 8).await.expect("the embedded queue answers");
        settle = step.leased.iter().map(|job| settlement(&model, job)).collect();
        if settle.is_empty() && !step.more {
            consumer.idle().await;
        }
    }
}

fn settlement(model: &str, job: &LeasedJob) -> Settlement {
    let outcome = match run(model, job.payload.clone()) {
        Ok(outputs) => {
            let mut packed = Vec::new();
            InferResponse { version: "1".into(), outputs, mark: 0 }.encode(&mut packed);
            let timings =
                Timings { batch_size: 1, attempts: job.attempt, worker: "scripted".into(), ..Timings::default() };
            Outcome::Succeeded(JobResult { timings, outputs: packed.into() }.encode())
        }
        Err(message) => {
            Outcome::Failed { error: JobError { code: ErrorCode::InferenceFailed, message }, retry_in: None }
        }
    };
    Settlement { id: job.id, token: job.token, outcome }
}

fn run(model: &str, payload: Bytes) -> Result<Vec<Tensor>, String> {
    let request = InferRequest::decode(payload).map_err(|error| error.message)?;
    let input = &request.inputs[0];
    let rows = input.shape[0];
    match model {
        "digits" => {
            let values: Vec<f32> = input.data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
            if values[0] == 666.0 {
                return Err("the model refused the number of the beast".into());
            }
            let sums: Vec<f32> = values.chunks(4).map(|row| row.iter().sum()).collect();
            let shares = values.iter().enumerate().map(|(at, value)| value / sums[at / 4].max(1.0));
            Ok(vec![
                tensor("label", Datatype::Int64, &[rows], sums.iter().flat_map(|sum| (*sum as i64).to_le_bytes())),
                tensor("probabilities", Datatype::Fp32, &[rows, 4], shares.flat_map(f32::to_le_bytes)),
            ])
        }
        "pair" => {
            let read = |at: usize| request.inputs[at].data.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes));
            let sums = read(0).zip(read(1)).map(|(a, b)| (a + b) as f32);
            Ok(vec![tensor("sum", Datatype::Fp32, &[rows, 1], sums.flat_map(f32::to_le_bytes))])
        }
        "people" => {
            let [age, city] = ["age", "city"].map(|name| request.inputs.iter().find(|input| input.name == name));
            let ages = age.expect("an age").data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
            let shares = ages.flat_map(|age| [1.0 - age / 100.0, age / 100.0]).flat_map(f32::to_le_bytes);
            let label =
                Tensor { name: "output_label".into(), shape: (&[rows][..]).into(), ..city.expect("a city").clone() };
            Ok(vec![label, tensor("output_probability", Datatype::Fp32, &[rows, 2], shares)])
        }
        _ => Ok(vec![Tensor { name: "out".into(), ..input.clone() }]),
    }
}

fn tensor(name: &str, datatype: Datatype, shape: &[i64], data: impl Iterator<Item = u8>) -> Tensor {
    Tensor { name: name.into(), datatype, shape: shape.into(), data: data.collect::<Vec<_>>().into() }
}

/// Asks every 20 ms until there is an answer; fails after `limit`.
pub(crate) async fn poll<T>(limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < limit, "no answer within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
