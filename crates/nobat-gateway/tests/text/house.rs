//! A gateway on a free port, the embedded queue in a temporary folder, and models of each
//! task, whose answers tests can foretell: a text's embedding is its length, its first
//! byte and 1, and it has as many tokens as words.

use nobat_testkit::signatures::{ready, spec};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use nobat_core::ErrorCode;
use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::job::{JobError, JobResult, LeasedJob, Outcome, Settlement};
use nobat_core::signature::{ModelSignature, TensorSpec};
use nobat_core::task::{Task, TaskKind};
use nobat_core::tensor::{Datatype, Tensor, put_bytes_element, take_bytes_element};
use nobat_core::timings::Timings;
use nobat_gateway::{Gateway, GatewayConfig, GatewayHandle};
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{Queue, QueueSettings, WorkerInfo};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// A response, read whole.
pub(crate) struct Reply {
    pub status: u16,
    pub text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e} in {}", self.text))
    }
}

/// What the models have seen, and how they behave.
#[derive(Default)]
pub(crate) struct Script {
    /// Jobs run, by model.
    pub jobs: Mutex<BTreeMap<String, usize>>,
    /// Most jobs that waited in the embedder's queue at once.
    pub most_waiting: AtomicUsize,
    /// Jobs still to fail for good.
    pub failures: AtomicU32,
    /// Milliseconds that each lease takes.
    pub pause_ms: AtomicU32,
    /// Texts in the order in which they ran.
    pub ran: Mutex<Vec<String>>,
}

pub(crate) struct House {
    pub gateway: GatewayHandle,
    pub queue: Arc<SqliteQueue>,
    pub client: reqwest::Client,
    pub script: Arc<Script>,
    config: GatewayConfig,
    dir: tempfile::TempDir,
}

impl House {
    pub(crate) async fn start() -> House {
        House::start_with(&["embed", "rerank", "classify", "sparse"], GatewayConfig::default()).await
    }

    pub(crate) async fn start_with(models: &[&'static str], config: GatewayConfig) -> House {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = QueueSettings { lease_ms: 4_000, ..QueueSettings::default() };
        let queue = SqliteQueue::open(dir.path(), settings).expect("an embedded queue");
        let script = Arc::<Script>::default();
        for &name in models {
            tokio::spawn(work(queue.clone(), name, script.clone()));
        }
        let info = WorkerInfo {
            id: "scripted".into(),
            host: "here:1".into(),
            started_at_ms: 1,
            sessions: 1,
            models: models.iter().map(|name| signature(name)).collect(),
            report: json!({}),
        };
        queue.register_worker(&info, Duration::from_secs(600)).await.expect("registers");
        let config = GatewayConfig {
            listen: "127.0.0.1:0".into(),
            grpc: String::new(),
            metrics: String::new(),
            threads: 1,
            ..config
        };
        let gateway = Gateway::start(config.clone(), queue.clone()).await.expect("starts");
        House { gateway, queue, client: reqwest::Client::new(), script, config, dir }
    }

    /// Another gateway in the place of this one.
    pub(crate) async fn restart(self) -> House {
        self.gateway.stop().await;
        let gateway = Gateway::start(self.config.clone(), self.queue.clone()).await.expect("starts");
        House { gateway, ..self }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.http_addr())
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Reply {
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        Reply { status, text: answer.text().await.expect("a body") }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(self.client.get(self.url(path))).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(self.client.post(self.url(path)).body(body.to_string())).await
    }

    /// The answer of a call that is to succeed.
    pub(crate) async fn ask(&self, path: &str, body: &Value) -> Value {
        let reply = self.post(path, body).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text);
        reply.json()
    }

    pub(crate) fn jobs(&self, model: &str) -> usize {
        self.script.jobs.lock().get(model).copied().unwrap_or(0)
    }
}

fn signature(name: &str) -> ModelSignature {
    let texts = |name, optional| TensorSpec { optional, ..spec(name, Datatype::Bytes, &[-1]) };
    let kind = match name {
        "rerank" => TaskKind::Rerank,
        "classify" => TaskKind::Classify,
        "sparse" => TaskKind::Sparse,
        _ => TaskKind::Embed,
    };
    let (inputs, outputs) = match kind {
        TaskKind::Rerank => {
            (vec![texts("text", false), texts("text_pair", false)], vec![spec("score", Datatype::Fp32, &[-1])])
        }
        TaskKind::Classify => (
            vec![texts("text", false), texts("text_pair", true)],
            vec![spec("scores", Datatype::Fp32, &[-1, 2]), texts("label", false)],
        ),
        TaskKind::Sparse => (vec![texts("text", false)], vec![texts("sparse", false)]),
        _ => (
            vec![texts("text", false)],
            vec![spec("embedding", Datatype::Fp32, &[-1, 3]), texts("token_embeddings", true)],
        ),
    };
    let outputs = [outputs, vec![texts("result", true), spec("tokens", Datatype::Int32, &[-1])]].concat();
    let parameters = match kind {
        TaskKind::Embed => vec!["dimensions", "normalize", "pooling", "prompt_name"],
        _ => vec!["raw_scores"],
    };
    let common =
        ["add_special_tokens", "input", "operation", "skip_special_tokens", "truncate", "truncation_direction"];
    let task = Task {
        labels: if kind == TaskKind::Classify { vec!["short".into(), "long".into()] } else { vec![] },
        dimensions: (kind == TaskKind::Embed).then_some(3),
        max_tokens: Some(16),
        parameters: parameters.into_iter().chain(common).map(Into::into).collect(),
        ..Task::new(kind)
    };
    ModelSignature { max_batch_size: 16, task: Some(task), ..ready(name, inputs, outputs) }
}

async fn work(queue: Arc<SqliteQueue>, model: &'static str, script: Arc<Script>) {
    let mut consumer = queue.consumer(model, "scripted").await.expect("a consumer");
    let mut settle = Vec::new();
    loop {
        let step = consumer.settle_and_lease(std::mem::take(&mut settle), 4).await.expect("the embedded queue answers");
        if !step.leased.is_empty() {
            let waiting = queue.counts(model).await.expect("counts").queued as usize + step.leased.len();
            script.most_waiting.fetch_max(waiting, Ordering::Relaxed);
            let pause = script.pause_ms.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(u64::from(pause))).await;
        }
        settle = step.leased.iter().map(|job| settlement(model, job, &script)).collect();
        if settle.is_empty() && !step.more {
            consumer.idle().await;
        }
    }
}

fn settlement(model: &str, job: &LeasedJob, script: &Script) -> Settlement {
    *script.jobs.lock().entry(model.to_owned()).or_default() += 1;
    let fails = script.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    let failed =
        |code, message: &str| Outcome::Failed { error: JobError { code, message: message.into() }, retry_in: None };
    let outcome = match InferRequest::decode(job.payload.clone()) {
        _ if fails => failed(ErrorCode::InferenceFailed, "the model stumbles"),
        Err(error) => failed(error.code, &error.message),
        Ok(request) => match run(model, &request, script) {
            Err(message) => failed(ErrorCode::InvalidTensor, &message),
            Ok(outputs) => {
                let mut packed = Vec::new();
                InferResponse { version: "1".into(), outputs, mark: 0 }.encode(&mut packed);
                let timings = Timings { batch_size: 1, attempts: job.attempt, ..Timings::default() };
                Outcome::Succeeded(JobResult { timings, outputs: packed.into() }.encode())
            }
        },
    };
    Settlement { id: job.id, token: job.token, outcome }
}

fn run(model: &str, request: &InferRequest, script: &Script) -> Result<Vec<Tensor>, String> {
    let texts = texts(&request.inputs[0]);
    let text = |name: &str| request.parameters.text(name).expect("a text");
    let truth = |name: &str| request.parameters.truth(name).expect("a bool");
    let rows = texts.len() as i64;
    for (at, text) in texts.iter().enumerate() {
        let words = words(text);
        if truth("truncate") == Some(false) && words > 16 {
            return Err(format!("text {at} has {words} tokens, and 16 is the most; shorten it, or leave truncate on"));
        }
    }
    script.ran.lock().extend(texts.iter().cloned());
    let floats = |name: &str, shape: &[i64], values: Vec<f32>| {
        tensor(name, Datatype::Fp32, shape, values.into_iter().flat_map(f32::to_le_bytes).collect())
    };
    let strings = |name: &str, values: Vec<String>| {
        let mut data = Vec::new();
        values.iter().for_each(|value| put_bytes_element(&mut data, value.as_bytes()));
        tensor(name, Datatype::Bytes, &[rows], data)
    };
    match text("operation") {
        Some("tokenize") => {
            let token = |text: &String| {
                format!("[{{\"id\":{},\"text\":{},\"special\":false,\"start\":0,\"stop\":1}}]", text.len(), json!(text))
            };
            return Ok(vec![strings("result", texts.iter().map(token).collect())]);
        }
        Some("decode") => {
            return Ok(vec![strings(
                "result",
                texts.iter().map(|ids| json!(format!("decoded {ids}")).to_string()).collect(),
            )]);
        }
        _ => {}
    }
    let counts: Vec<i32> = texts.iter().map(|text| words(text) as i32).collect();
    let tokens = tensor("tokens", Datatype::Int32, &[rows], counts.into_iter().flat_map(i32::to_le_bytes).collect());
    let output = match model {
        "rerank" => {
            let pairs = self::texts(&request.inputs[1]);
            let score = |(query, text): (&String, &String)| {
                query.bytes().filter(|byte| text.as_bytes().contains(byte)).count() as f32
            };
            floats("score", &[rows], texts.iter().zip(&pairs).map(score).collect())
        }
        "classify" => {
            let long = |text: &String| text.len() as f32 / 10.0;
            floats("scores", &[rows, 2], texts.iter().flat_map(|text| [1.0 - long(text), long(text)]).collect())
        }
        "sparse" => {
            let weights = |text: &String| format!("[{{\"index\":{},\"value\":0.5}}]", text.len());
            strings("sparse", texts.iter().map(weights).collect())
        }
        _ if text("pooling") == Some("none") => {
            strings("token_embeddings", texts.iter().map(|text| format!("[[{}.0]]", text.len())).collect())
        }
        _ => {
            let dimensions = request.parameters.count("dimensions").expect("a count").unwrap_or(3);
            let whole = |text: &String| [text.len() as f32, text.bytes().next().map_or(0.0, f32::from), 1.0];
            let cut = |text: &String| whole(text).into_iter().take(dimensions as usize).collect::<Vec<_>>();
            floats("embedding", &[rows, dimensions as i64], texts.iter().flat_map(cut).collect())
        }
    };
    Ok(vec![output, tokens])
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

fn texts(tensor: &Tensor) -> Vec<String> {
    let mut rest = &tensor.data[..];
    let elements = std::iter::from_fn(|| take_bytes_element(&mut rest));
    elements.map(|element| String::from_utf8(element.to_vec()).expect("a text")).collect()
}

fn tensor(name: &str, datatype: Datatype, shape: &[i64], data: Vec<u8>) -> Tensor {
    Tensor { name: name.into(), datatype, shape: shape.into(), data: data.into() }
}
