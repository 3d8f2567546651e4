//! A gateway on free ports, the embedded queue in a temporary folder, and
//! scripted models: each multiplies its input `x` by a factor of its own and gives
//! it as floats `y`; those called `int-…` as integers `n`.

use nobat_testkit::signatures::{ready, spec};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use nobat_core::ErrorCode;
use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::job::{JobError, JobResult, LeasedJob, Outcome, Settlement};
use nobat_core::signature::ModelSignature;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::timings::Timings;
use nobat_gateway::{Gateway, GatewayConfig, GatewayHandle};
use nobat_queue::Queue;
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{QueueSettings, WorkerInfo};
use nobat_webhooks::WebhookSettings;
use nobat_webhooks::outbound::AddressPolicy;
use parking_lot::Mutex;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use smol_str::SmolStr;
use tokio::task::JoinHandle;

/// How a model behaves.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    /// Answers after this long.
    Answers(Duration),
    /// Fails every attempt; whether another may follow.
    Fails { again: bool },
    /// Takes jobs and never settles them.
    Hangs,
}

pub(crate) struct House {
    pub gateway: GatewayHandle,
    pub queue: Arc<SqliteQueue>,
    pub client: reqwest::Client,
    manners: Arc<Mutex<HashMap<String, Manner>>>,
    config: GatewayConfig,
    _dir: tempfile::TempDir,
}

/// Status and body.
pub(crate) struct Reply {
    pub status: u16,
    pub json: Value,
}

impl Reply {
    pub(crate) fn message(&self) -> &str {
        self.json["detail"].as_str().unwrap_or_default()
    }
}

impl House {
    pub(crate) async fn start(routes: Value) -> House {
        House::start_with(routes, GatewayConfig::default()).await
    }

    /// With webhooks that may reach this machine.
    pub(crate) async fn start_with(routes: Value, config: GatewayConfig) -> House {
        let webhooks = WebhookSettings {
            addresses: AddressPolicy { allow_http: true, allow_private: true },
            ..WebhookSettings::default()
        };
        House::start_as(routes, GatewayConfig { webhooks, ..config }).await
    }

    /// With these webhook settings and no routes.
    pub(crate) async fn start_strict(webhooks: WebhookSettings) -> House {
        House::start_as(json!([]), GatewayConfig { webhooks, ..GatewayConfig::default() }).await
    }

    async fn start_as(routes: Value, config: GatewayConfig) -> House {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = QueueSettings { lease_ms: 4_000, ..QueueSettings::default() };
        let queue = SqliteQueue::open(dir.path(), settings).expect("an embedded queue");
        let manners: Arc<Mutex<HashMap<String, Manner>>> = Arc::default();
        let factors = [
            ("one", 1.0),
            ("two", 2.0),
            ("three", 3.0),
            ("other", 1.0),
            ("int-a", 5.0),
            ("int-b", 7.0),
            ("int-c", 7.0),
        ];
        for (name, factor) in factors {
            tokio::spawn(work(queue.clone(), name, factor, manners.clone()));
        }
        let info = info("scripted", factors.iter().map(|(name, _)| signature(name)).collect());
        queue.register_worker(&info, Duration::from_secs(600)).await.expect("registers");
        let config = GatewayConfig {
            listen: "127.0.0.1:0".into(),
            grpc: "127.0.0.1:0".into(),
            metrics: String::new(),
            threads: 1,
            routes: serde_json::from_value(routes).expect("routes"),
            ..config
        };
        let gateway = Gateway::start(config.clone(), queue.clone()).await.expect("starts");
        House { gateway, queue, client: reqwest::Client::new(), manners, config, _dir: dir }
    }

    /// A worker of its own for one more model.
    pub(crate) async fn start_model(&self, name: &'static str, factor: f32) -> (SmolStr, JoinHandle<()>) {
        let id = SmolStr::new(format!("scripted-{name}"));
        let info = info(&id, vec![signature(name)]);
        self.queue.register_worker(&info, Duration::from_secs(600)).await.expect("registers");
        (id, tokio::spawn(work(self.queue.clone(), name, factor, self.manners.clone())))
    }

    pub(crate) async fn stop_model(&self, (id, work): (SmolStr, JoinHandle<()>)) {
        self.queue.deregister_worker(&id).await.expect("deregisters");
        work.abort();
    }

    /// Stops the gateway and starts another on the same queue.
    pub(crate) async fn restart(self) -> House {
        self.gateway.stop().await;
        let gateway = Gateway::start(self.config.clone(), self.queue.clone()).await.expect("starts");
        House { gateway, ..self }
    }

    pub(crate) fn behave(&self, model: &str, manner: Manner) {
        self.manners.lock().insert(model.into(), manner);
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.gateway.http_addr()))
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Reply {
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let body = answer.bytes().await.expect("a body");
        Reply { status, json: serde_json::from_slice(&body).unwrap_or_default() }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(self.request(Method::POST, path).body(body.to_string())).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Reply {
        self.send(self.request(Method::PUT, path).body(body.to_string())).await
    }

    /// Enqueues `[[1, 2]]` and returns the job's id.
    pub(crate) async fn enqueue(&self, model: &str, query: &str) -> String {
        let reply = self.post(&format!("/api/v1/predict/{model}{query}"), &row()).await;
        assert_eq!(reply.status, 202, "{}", reply.json);
        reply.json["id"].as_str().expect("an id").to_owned()
    }

    /// Predicts for `[[1, 2]]` and waits.
    pub(crate) async fn predict(&self, model: &str) -> Reply {
        self.post(&format!("/api/v1/predict/{model}?wait=20"), &row()).await
    }
}

/// One row, `[1, 2]`.
pub(crate) fn row() -> Value {
    json!({"instances": [[1.0, 2.0]]})
}

fn info(id: &str, models: Vec<ModelSignature>) -> WorkerInfo {
    WorkerInfo { id: id.into(), host: "here:1".into(), started_at_ms: 1, sessions: 1, models, report: json!({}) }
}

pub(crate) fn signature(name: &str) -> ModelSignature {
    let tensor = |name, datatype| spec(name, datatype, &[-1, 2]);
    let input = if name == "other" { Datatype::Fp64 } else { Datatype::Fp32 };
    let mut settings = serde_json::Map::new();
    let kind = if matches!(name, "one" | "two" | "three") { "float" } else { "else" };
    settings.insert("routing_key".into(), format!("math.{kind}.{name}").into());
    ModelSignature {
        finite: true,
        settings,
        ..ready(
            name,
            vec![tensor("x", input)],
            vec![if is_integer(name) { tensor("n", Datatype::Int64) } else { tensor("y", Datatype::Fp32) }],
        )
    }
}

fn is_integer(model: &str) -> bool {
    model.starts_with("int-")
}

pub(crate) async fn work(
    queue: Arc<SqliteQueue>,
    model: &'static str,
    factor: f32,
    manners: Arc<Mutex<HashMap<String, Manner>>>,
) {
    let mut consumer = queue.consumer(model, "scripted").await.expect("a consumer");
    let mut settle = Vec::new();
    loop {
        let step = consumer.settle_and_lease(std::mem::take(&mut settle), 8).await.expect("the embedded queue answers");
        let manner = manners.lock().get(model).copied().unwrap_or(Manner::Answers(Duration::ZERO));
        if let (Manner::Answers(pause), false) = (manner, step.leased.is_empty()) {
            tokio::time::sleep(pause).await;
        }
        settle = step.leased.iter().filter_map(|job| settlement(model, job, factor, manner)).collect();
        if settle.is_empty() && !step.more {
            consumer.idle().await;
        }
    }
}

fn settlement(model: &str, job: &LeasedJob, factor: f32, manner: Manner) -> Option<Settlement> {
    let outcome = match manner {
        Manner::Hangs => return None,
        Manner::Fails { again } => Outcome::Failed {
            error: JobError { code: ErrorCode::InferenceFailed, message: "the model refuses".into() },
            retry_in: again.then(|| job.retry.next_delay(job.attempt, 0)).flatten(),
        },
        Manner::Answers(_) => {
            let request = InferRequest::decode(job.payload.clone()).expect("as the gateway encodes it");
            let x = &request.inputs[0];
            let values = x.data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes) * factor);
            let (name, datatype, data): (_, _, Vec<u8>) = match is_integer(model) {
                true => ("n", Datatype::Int64, values.flat_map(|value| (value as i64).to_le_bytes()).collect()),
                false => ("y", Datatype::Fp32, values.flat_map(f32::to_le_bytes).collect()),
            };
            let output = Tensor { name: name.into(), datatype, shape: x.shape.clone(), data: data.into() };
            let mut packed = Vec::new();
            InferResponse { version: "1".into(), outputs: vec![output], mark: 0 }.encode(&mut packed);
            let timings = Timings { batch_size: 1, attempts: job.attempt, ..Timings::default() };
            Outcome::Succeeded(JobResult { timings, outputs: packed.into() }.encode())
        }
    };
    Some(Settlement { id: job.id, token: job.token, outcome })
}

/// A receiver of webhooks: what it was sent, body by body.
pub(crate) struct Receiver {
    pub url: String,
    got: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    pub(crate) fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("bound"));
        let got: Arc<Mutex<Vec<Value>>> = Arc::default();
        let into = got.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if let Some(body) = take(socket) {
                    into.lock().push(body);
                }
            }
        });
        Receiver { url, got }
    }

    /// The message of this type about this job; waits for it.
    pub(crate) async fn message(&self, event: &str, job: &str) -> Value {
        for _ in 0..300 {
            let found = self.got.lock().iter().find(|got| got["type"] == event && got["data"]["id"] == job).cloned();
            if let Some(found) = found {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no {event} about {job} in {:?}", self.got.lock());
    }
}

fn take(socket: TcpStream) -> Option<Value> {
    let mut reader = BufReader::new(socket);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    reader.into_inner().write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").ok()?;
    serde_json::from_slice(&body).ok()
}
