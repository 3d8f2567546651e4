//! What a fan-out costs over its slowest child: three models that take 2, 5 and
//! 10 ms behind one route, over HTTP and the embedded queue, against the slowest
//! one called alone, turn by turn.
//!
//!     cargo run --release --workspace --example fanout_speed [REQUESTS]

use nobat_testkit::signatures::{ready, spec};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::job::{JobResult, LeasedJob, Outcome, Settlement};
use nobat_core::signature::ModelSignature;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::timings::Timings;
use nobat_gateway::{Gateway, GatewayConfig};
use nobat_queue::sqlite::SqliteQueue;
use nobat_queue::{Queue, QueueSettings, WorkerInfo};

const MODELS: [(&str, u64); 3] = [("quick", 2), ("middling", 5), ("slow", 10)];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let requests: usize = std::env::args().nth(1).map_or(Ok(500), |text| text.parse())?;
    tokio::runtime::Runtime::new()?.block_on(measure(requests))
}

async fn measure(requests: usize) -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let queue = SqliteQueue::open(dir.path(), QueueSettings::default())?;
    let info = WorkerInfo {
        id: "scripted".into(),
        host: "here:1".into(),
        started_at_ms: 1,
        sessions: 3,
        models: MODELS.iter().map(|(name, _)| signature(name)).collect(),
        report: serde_json::json!({}),
    };
    queue.register_worker(&info, Duration::from_secs(3600)).await?;
    for (name, ms) in MODELS {
        let queue = queue.clone();
        // As a worker's session: a thread of its own, the model's time inline.
        std::thread::spawn(move || work(queue, name, Duration::from_millis(ms)));
    }
    let routes = serde_json::json!([{"name": "all", "fanout": {"targets": ["quick", "middling", "slow"]}}]);
    let config = GatewayConfig {
        listen: "127.0.0.1:0".into(),
        grpc: String::new(),
        metrics: String::new(),
        routes: serde_json::from_value(routes)?,
        ..GatewayConfig::default()
    };
    let gateway = Gateway::start(config, queue).await?;
    let client = reqwest::Client::builder().tcp_nodelay(true).build()?;
    let mut times = [Vec::new(), Vec::new()];
    for turn in 0..requests + 50 {
        for (times, name) in times.iter_mut().zip(["slow", "all"]) {
            let url = format!("http://{}/v1/models/{name}:predict", gateway.http_addr());
            let began = Instant::now();
            let answer = client.post(url).body(r#"{"instances": [[1, 2]]}"#).send().await?.error_for_status()?;
            answer.bytes().await?;
            if turn >= 50 {
                times.push(began.elapsed());
            }
        }
    }
    let [alone, all] = times.map(|mut times| {
        times.sort_unstable();
        let at = |share: f64| times[(share * (times.len() - 1) as f64) as usize].as_secs_f64() * 1e3;
        (at(0.5), at(0.99))
    });
    println!("slowest alone   p50 {:.2} ms, p99 {:.2} ms", alone.0, alone.1);
    println!("fan-out of three p50 {:.2} ms, p99 {:.2} ms", all.0, all.1);
    println!("the fan-out costs {:+.2} ms at p50, {:+.2} ms at p99", all.0 - alone.0, all.1 - alone.1);
    gateway.stop().await;
    Ok(())
}

fn work(queue: Arc<SqliteQueue>, model: &str, takes: Duration) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let Ok(mut consumer) = queue.consumer(model, "scripted").await else { return };
        let mut settle = Vec::new();
        while let Ok(step) = consumer.settle_and_lease(std::mem::take(&mut settle), 8).await {
            if step.leased.is_empty() {
                consumer.idle().await;
                continue;
            }
            std::thread::sleep(takes);
            settle = step.leased.iter().filter_map(settlement).collect();
        }
    });
}

fn settlement(job: &LeasedJob) -> Option<Settlement> {
    let request = InferRequest::decode(job.payload.clone()).ok()?;
    let outputs = request.inputs.into_iter().map(|input| Tensor { name: "y".into(), ..input }).collect();
    let mut packed = Vec::new();
    InferResponse { version: "1".into(), outputs, mark: 0 }.encode(&mut packed);
    let result = JobResult { timings: Timings::default(), outputs: packed.into() };
    Some(Settlement { id: job.id, token: job.token, outcome: Outcome::Succeeded(result.encode()) })
}

fn signature(name: &str) -> ModelSignature {
    let tensor = |name| spec(name, Datatype::Fp32, &[-1, 2]);
    ready(name, vec![tensor("x")], vec![tensor("y")])
}
