//! A worker of which every answer leaks: a fault for the tests of what finds one.
//!
//!     leaking_worker redis://127.0.0.1:6379 ./models 16384      bytes of each answer
//!
//! Runs until it is killed.

use std::time::Duration;

use nobat_queue::{QueueSettings, StoreSettings};
use nobat_runtime::Metrics;
use nobat_worker::{Worker, WorkerConfig};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [redis, models, bytes] = &arguments[..] else { anyhow::bail!("leaking_worker REDIS MODELS BYTES") };
    let bytes: u64 = bytes.parse()?;
    let store = StoreSettings { redis: redis.as_str().into(), ..StoreSettings::default() };
    let config = WorkerConfig { models: vec![models.into()], ..WorkerConfig::default() };
    let worker = Worker::start(config, store.open_redis(QueueSettings::default()).await?)?;
    let metrics = Metrics::new();
    metrics.snapshot("worker", worker.families());
    let mut leaked = 0;
    loop {
        let answers = answers(&metrics.render());
        std::mem::forget(vec![1u8; ((answers - leaked) * bytes) as usize]);
        leaked = answers;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Jobs that succeeded, of all models.
fn answers(metrics: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with("nv_inference_request_success{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}
