//! From a start to the first answer: nothing is refused that only has to wait, and
//! ready means that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::OwnerId;
use nobat_core::job::{JobOptions, NewJob};
use nobat_core::request_trace::RequestTrace;
use nobat_core::signature::ModelState;
use nobat_gateway::proto::ServerReadyRequest;
use nobat_gateway::proto::grpc_inference_service_client::GrpcInferenceServiceClient;
use nobat_gateway::{Gateway, GatewayConfig, GatewayHandle};
use nobat_queue::Queue;
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{QueueSettings, WorkerInfo};
use nobat_serving::registry::Want;
use serde_json::{Value, json};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::house::{row, signature, work};

/// A gateway beside a worker that loads one model.
struct Start {
    gateway: GatewayHandle,
    queue: Arc<SqliteQueue>,
    client: reqwest::Client,
    _dir: tempfile::TempDir,
}

/// What the worker says of its model.
#[derive(Clone, Copy)]
enum Stage {
    /// Its file is being read.
    Reading,
    /// What it takes and gives is known.
    Known,
    Served,
    Failed,
}

impl Start {
    async fn new(routes: Value) -> Start {
        let dir = tempfile::tempdir().expect("a folder");
        let queue = SqliteQueue::open(dir.path(), QueueSettings::default()).expect("an embedded queue");
        let config = GatewayConfig {
            listen: "127.0.0.1:0".into(),
            grpc: "127.0.0.1:0".into(),
            metrics: String::new(),
            threads: 1,
            routes: serde_json::from_value(routes).expect("routes"),
            ..GatewayConfig::default()
        };
        let gateway = Gateway::bind(config).expect("free addresses").expecting("scripted");
        let gateway = gateway.serve(queue.clone()).await.expect("starts");
        Start { gateway, queue, client: reqwest::Client::new(), _dir: dir }
    }

    async fn worker_says(&self, stage: Stage) {
        let mut model = signature("two");
        match stage {
            Stage::Reading => (model.state, model.digest, model.inputs) = (ModelState::Loading, String::new(), vec![]),
            Stage::Known => model.state = ModelState::Loading,
            Stage::Served => {
                tokio::spawn(work(self.queue.clone(), "two", 2.0, Arc::default()));
            }
            Stage::Failed => (model.state, model.reason) = (ModelState::Failed, "it is cut short".into()),
        }
        let info = WorkerInfo {
            id: "scripted".into(),
            host: "here:1".into(),
            started_at_ms: 1,
            sessions: 1,
            models: vec![model],
            report: json!({}),
        };
        self.queue.register_worker(&info, Duration::from_secs(600)).await.expect("registers");
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.http_addr())
    }

    async fn status(&self, path: &str) -> u16 {
        self.client.get(self.url(path)).send().await.expect("an answer").status().as_u16()
    }

    /// Sends, in a task of its own.
    fn post(&self, path: &str, body: Value) -> tokio::task::JoinHandle<(u16, Value)> {
        let request = self.client.post(self.url(path)).body(body.to_string());
        tokio::spawn(async move {
            let answer = request.send().await.expect("an answer");
            (answer.status().as_u16(), answer.json().await.unwrap_or_default())
        })
    }

    /// Whether all that tell of readiness say so.
    async fn is_ready(&self) -> bool {
        let http = [self.status("/readyz").await, self.status("/v2/health/ready").await];
        assert_eq!(http[0], http[1]);
        let address = format!("http://{}", self.gateway.grpc_addr().expect("gRPC is on"));
        let mut grpc = GrpcInferenceServiceClient::connect(address).await.expect("connects");
        let told = grpc.server_ready(ServerReadyRequest {}).await.expect("answers").into_inner().ready;
        assert_eq!(told, http[0] == 200, "gRPC says what HTTP says");
        told
    }

    /// What the gRPC health service says.
    async fn health(&self) -> ServingStatus {
        let address = format!("http://{}", self.gateway.grpc_addr().expect("gRPC is on"));
        let channel = tonic::transport::Channel::from_shared(address).expect("an address").connect().await;
        let mut health = HealthClient::new(channel.expect("connects"));
        let service = String::new();
        health.check(HealthCheckRequest { service }).await.expect("answers").into_inner().status()
    }

    async fn until_ready(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.status("/readyz").await != 200 {
            assert!(Instant::now() < end, "it does not become ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The same row in each protocol, for model `name`.
fn calls(name: &str) -> Vec<(String, Value)> {
    let tensor = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]});
    vec![
        (format!("/v1/models/{name}:predict"), row()),
        (format!("/api/v1/predict/{name}?wait=20"), row()),
        (format!("/v2/models/{name}/infer"), tensor),
    ]
}

#[tokio::test]
async fn a_request_waits_for_its_model_and_ready_means_that_it_is_served() {
    let start = Start::new(json!([{"name": "alias", "direct": "two"}])).await;
    // The worker has not even registered.
    let early: Vec<_> = calls("two").into_iter().map(|(path, body)| start.post(&path, body)).collect();
    assert!(!start.is_ready().await);
    assert_eq!(start.health().await, ServingStatus::NotServing);
    start.worker_says(Stage::Reading).await;
    let during = [calls("two"), calls("alias"), vec![("/invocations".into(), row())]].concat();
    let during: Vec<_> = during.into_iter().map(|(path, body)| start.post(&path, body)).collect();
    let later = start.post("/api/v1/predict/two", row());
    let hurried = start.post("/v1/models/two:predict?deadline=100ms", row()).await.expect("sent");
    assert_eq!((hurried.0, hurried.1["code"].as_str()), (503, Some("model_not_ready")), "{}", hurried.1);
    assert!(!start.is_ready().await && !later.is_finished());

    // What it takes is known: the queue can take it.
    start.worker_says(Stage::Known).await;
    let (status, job) = later.await.expect("sent");
    assert_eq!(status, 202, "{job}");
    assert!(!start.is_ready().await && during.iter().all(|call| !call.is_finished()));

    start.worker_says(Stage::Served).await;
    start.until_ready().await;
    assert!(start.is_ready().await);
    for call in early.into_iter().chain(during) {
        let (status, answer) = call.await.expect("sent");
        assert_eq!(status, 200, "{answer}");
    }
    for (path, body) in [calls("two"), calls("alias")].concat() {
        let (status, answer) = start.post(&path, body).await.expect("sent");
        assert_eq!(status, 200, "as soon as it is ready: {path} {answer}");
    }
    let end = Instant::now() + Duration::from_secs(20);
    while start.health().await != ServingStatus::Serving {
        assert!(Instant::now() < end, "the health service does not follow");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let result = start.url(&format!("/api/v1/jobs/{}/result?wait=20", job["id"].as_str().expect("an id")));
    assert_eq!(start.client.get(result).send().await.expect("an answer").status(), 200);
    start.gateway.stop().await;
}

#[tokio::test]
async fn what_failed_for_good_or_is_nowhere_is_told_and_keeps_nobody_waiting() {
    let start = Start::new(json!([])).await;
    start.worker_says(Stage::Reading).await;
    let waiting = start.post("/v1/models/two:predict", row());
    let unknown = start.post("/v1/models/nobody:predict", row());
    assert!(!start.is_ready().await);
    start.worker_says(Stage::Failed).await;
    start.until_ready().await;
    let (status, answer) = waiting.await.expect("sent");
    assert_eq!((status, answer["code"].as_str()), (503, Some("model_not_ready")), "{answer}");
    assert!(answer["error"].as_str().expect("a message").contains("cut short"), "{answer}");
    assert_eq!(unknown.await.expect("sent").0, 404);
    assert_eq!(start.post("/v1/models/nobody:predict", row()).await.expect("sent").0, 404);

    // A drain ends what waits for a model that is loading.
    start.worker_says(Stage::Reading).await;
    let loads =
        || start.gateway.serving().registry.load().model("two").is_ok_and(|entry| entry.is_loading(Want::Default));
    while !loads() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let waiting = start.post("/v1/models/two:predict", row());
    tokio::time::sleep(Duration::from_millis(50)).await;
    start.gateway.serving().start_draining();
    let (status, answer) = waiting.await.expect("sent");
    assert_eq!((status, answer["code"].as_str()), (503, Some("draining")), "{answer}");
    start.gateway.stop().await;
}

#[tokio::test]
async fn the_jobs_of_a_model_that_no_worker_has_named_yet_are_counted() {
    let start = Start::new(json!([])).await;
    let job = NewJob {
        model: "two".into(),
        owner: OwnerId::ANONYMOUS,
        options: JobOptions::default(),
        payload: "accepted by an earlier gateway".into(),
        rows: 1,
        trace: RequestTrace::default(),
    };
    start.queue.client().enqueue(job).await.expect("accepted");
    let queue = start.client.get(start.url("/api/v1/queues/two")).send().await.expect("an answer");
    let queue: Value = queue.json().await.expect("JSON");
    assert_eq!((&queue["queued"], &queue["leased"]), (&json!(1), &json!(0)), "{queue}");
    for unknown in ["/api/v1/queues/nobody", "/api/v1/queues/a%3Ab", "/v2/models/two"] {
        assert_eq!(start.status(unknown).await, 404, "{unknown}");
    }
    start.gateway.stop().await;
}
