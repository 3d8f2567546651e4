//! The `nobat-worker` program, which is `nobat worker` too: a worker of its own, around
//! a Redis shared with gateways.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use clap::Parser;
use nobat_core::signature::ModelState;
use nobat_queue::{QueueSettings, StoreSettings};
use nobat_runtime::config::Layers;
use nobat_runtime::logging::{self, LogSettings};
use nobat_runtime::process::{self, LogFlags};
use nobat_runtime::{Metrics, MetricsServer, Stop, notify, traces};
use nobat_scheduler::{SchedulerHandle, SchedulerSettings};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{PolicyKind, ProviderKind, Sessions, WorkerConfig};
use crate::worker::{Worker, WorkerHandle};

/// Serves ONNX models from the queues on Redis.
#[derive(Parser)]
#[command(
    name = "nobat-worker",
    version,
    max_term_width = 100,
    after_help = "Examples:\n  \
        nobat-worker --redis redis://127.0.0.1:6379 --models ./models\n  \
        nobat-worker --models ./models --provider cuda --slo-ms 50\n\n\
        SIGTERM and SIGINT drain: what runs is finished, the rest goes back to its queue.\n\
        SIGHUP looks for new, changed and removed models."
)]
pub struct Args {
    /// Configuration file [default: config/nobat.toml where there is one].
    #[arg(long, env = "NOBAT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Redis with the queues [default: redis://127.0.0.1:6379]. Several
    /// servers: redis+cluster://HOST1,HOST2, redis+sentinel://HOST1,HOST2/SERVICE; TLS: rediss.
    #[arg(long, env = "NOBAT_REDIS", hide_env_values = true, value_name = "URL")]
    redis: Option<String>,
    /// Model files and folders.
    #[arg(long, env = "NOBAT_MODELS", value_delimiter = ',', value_name = "PATH")]
    models: Vec<PathBuf>,
    /// Sessions per model: a number, or `auto` from cores and measured cost.
    #[arg(long, env = "NOBAT_SESSIONS")]
    sessions: Option<Sessions>,
    /// Batch policy: auto, none, fixed, delayed, aimd, quantile.
    #[arg(long, env = "NOBAT_BATCH_POLICY", value_name = "POLICY")]
    batch_policy: Option<PolicyKind>,
    /// Most rows in one run; 0 finds the model's own.
    #[arg(long, env = "NOBAT_MAX_BATCH_SIZE", value_name = "ROWS")]
    max_batch_size: Option<u32>,
    /// Target p99 from enqueue to answer; 0 is none.
    #[arg(long, env = "NOBAT_SLO_MS", value_name = "MS")]
    slo_ms: Option<f64>,
    /// Execution provider: cpu, cuda.
    #[arg(long, env = "NOBAT_PROVIDER")]
    provider: Option<ProviderKind>,
    /// Address for metrics, such as 127.0.0.1:8002, or a port alone [default: none].
    #[arg(long, env = "NOBAT_METRICS", value_parser = listen_address, value_name = "ADDRESS")]
    metrics: Option<String>,
    #[command(flatten)]
    log: LogFlags,
}

fn listen_address(text: &str) -> std::result::Result<String, nobat_core::Error> {
    nobat_core::units::listen_address(text, "127.0.0.1:0")
}

/// Runs the program to its end.
pub fn run(args: Args) -> ExitCode {
    process::end("nobat-worker", begin(args))
}

fn begin(args: Args) -> Result<()> {
    let (runtime, stop) = process::begin()?;
    let layers = Layers::read(args.config.as_deref())?;
    let mut store: StoreSettings = layers.section("store")?;
    let queue: QueueSettings = layers.section("queue")?;
    let mut worker: WorkerConfig = layers.section("worker")?;
    let scheduler: SchedulerSettings = layers.section("scheduler")?;
    scheduler.check()?;
    let mut log: LogSettings = layers.section("log")?;
    store.redis = args.redis.map_or(store.redis, Into::into);
    if !args.models.is_empty() {
        worker.models = args.models;
    }
    worker.sessions = args.sessions.unwrap_or(worker.sessions);
    worker.batching.policy = args.batch_policy.unwrap_or(worker.batching.policy);
    worker.batching.max_batch_size = args.max_batch_size.unwrap_or(worker.batching.max_batch_size);
    worker.batching.slo_ms = args.slo_ms.unwrap_or(worker.batching.slo_ms);
    worker.provider.kind = args.provider.unwrap_or(worker.provider.kind);
    args.log.over(&mut log);
    if worker.models.is_empty() {
        bail!("no model is named; give a model file or a folder, such as --models ./models");
    }
    logging::init("nobat-worker", log.or_service_dir())?;
    let _traces = traces::start("nobat-worker")?;
    let metrics = args.metrics.unwrap_or_default();
    runtime.block_on(serve(stop, store, queue, worker, scheduler, metrics))
}

async fn serve(
    mut stop: Stop,
    store: StoreSettings,
    queue: QueueSettings,
    worker: WorkerConfig,
    scheduler: SchedulerSettings,
    metrics: String,
) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let starting = Serving::start(store, queue, worker, scheduler, &metrics);
    let Some(serving) = stop.unless_asked(starting).await else { return Ok(()) };
    let serving = serving?;
    if let Some(failed) = stop.unless_asked(serving.worker.ready()).await {
        let signatures = serving.worker.signatures();
        let none_serves = signatures.iter().all(|model| model.state == ModelState::Failed);
        if !failed.is_empty() && none_serves && !serving.worker.waits_for_others() {
            bail!("no model could be loaded: {}", failed.join("; "));
        }
        serving.loaded.store(true, Ordering::Relaxed);
        notify::ready();
        log::info!(models = signatures.len(); "ready");
    }
    loop {
        tokio::select! {
            () = stop.asked() => break,
            _ = hangup.recv() => serving.worker.reload(),
        }
    }
    serving.loaded.store(false, Ordering::Relaxed);
    log::info!("draining: finishing what runs, giving the rest back");
    stop.drain("nobat-worker", "; leased jobs run again", serving.drain()).await
}

/// All of a worker; dropped, it leaves no thread in a model.
struct Serving {
    worker: WorkerHandle,
    scheduler: SchedulerHandle,
    /// Whether every model found at the start has been loaded, or failed; what `/readyz` tells.
    loaded: Arc<AtomicBool>,
    _listener: Option<MetricsServer>,
}

impl Serving {
    async fn start(
        store: StoreSettings,
        queue: QueueSettings,
        worker: WorkerConfig,
        scheduler: SchedulerSettings,
        metrics: &str,
    ) -> Result<Serving> {
        // What may be refused comes before a model begins to load.
        let (series, loaded) = (Metrics::new(), Arc::new(AtomicBool::new(false)));
        let ready = Arc::clone(&loaded);
        let listener = match metrics {
            "" => None,
            address => {
                Some(MetricsServer::start(address, series.clone(), move || ready.load(Ordering::Relaxed)).await?)
            }
        };
        let queue = store.open_redis(queue).await?;
        let worker = Worker::start(worker, queue.clone())?;
        series.snapshot("nobat_worker", worker.families());
        let scheduler = nobat_scheduler::start(&scheduler, queue, store.redis_or_local(), &store.prefix).await?;
        Ok(Serving { worker, scheduler, loaded, _listener: listener })
    }

    async fn drain(self) -> Result<()> {
        self.scheduler.stop().await;
        tokio::task::spawn_blocking(move || self.worker.drain()).await.context("the drain failed")
    }
}
