//! `nobat-worker`: a worker of its own, around a Redis shared with gateways.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use nobat_core::config::{Layers, StoreSettings, without_password};
use nobat_core::logging::{self, LogSettings};
use nobat_core::signature::ModelState;
use nobat_ops::{Metrics, MetricsServer, Stop, notify, traces};
use nobat_queue::queue::QueueSettings;
use nobat_queue::redis::RedisQueue;
use nobat_scheduler::SchedulerSettings;
use nobat_worker::config::{PolicyKind, ProviderKind, Sessions};
use nobat_worker::{Worker, WorkerConfig};
use tokio::signal::unix::{SignalKind, signal};

/// Freed memory goes back to the system after a load; glibc's allocator keeps it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
struct Args {
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
    /// Levels over the configured ones, such as debug or info,nobat_queue=trace.
    #[arg(long, env = "NOBAT_LOG_LEVEL", value_name = "LEVELS")]
    log_level: Option<String>,
    /// Folder of the daily log files.
    #[arg(long, env = "NOBAT_LOG_DIR", value_name = "DIR")]
    log_dir: Option<PathBuf>,
}

fn listen_address(text: &str) -> std::result::Result<String, nobat_core::Error> {
    nobat_core::units::listen_address(text, "127.0.0.1:0")
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nobat-worker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    let layers = Layers::read(args.config.as_deref())?;
    let mut store: StoreSettings = layers.section("store")?;
    let queue: QueueSettings = layers.section("queue")?;
    let mut worker: WorkerConfig = layers.section("worker")?;
    let scheduler: SchedulerSettings = layers.section("scheduler")?;
    scheduler.check()?;
    let mut log: LogSettings = layers.section("log")?;
    store.redis = args.redis.unwrap_or(store.redis);
    if !args.models.is_empty() {
        worker.models = args.models;
    }
    worker.sessions = args.sessions.unwrap_or(worker.sessions);
    worker.batching.policy = args.batch_policy.unwrap_or(worker.batching.policy);
    worker.batching.max_batch_size = args.max_batch_size.unwrap_or(worker.batching.max_batch_size);
    worker.batching.slo_ms = args.slo_ms.unwrap_or(worker.batching.slo_ms);
    worker.provider.kind = args.provider.unwrap_or(worker.provider.kind);
    log.level = args.log_level.unwrap_or(log.level);
    log.dir = args.log_dir.unwrap_or(log.dir);
    if worker.models.is_empty() {
        bail!("no model is named; give a model file or a folder, such as --models ./models");
    }
    logging::init("nobat-worker", log.or_service_dir())?;
    let _traces = traces::start("nobat-worker")?;
    let metrics = args.metrics.unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(store, queue, worker, scheduler, metrics))
}

async fn serve(
    store: StoreSettings,
    queue: QueueSettings,
    worker: WorkerConfig,
    scheduler: SchedulerSettings,
    metrics: String,
) -> Result<()> {
    let mut stop = Stop::listen()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let url = store.redis_or_local();
    let queue = RedisQueue::connect(url, queue, &store.prefix)
        .await
        .with_context(|| format!("cannot use the queue at {}", without_password(url)))?;
    let worker = Worker::start(worker, queue.clone())?;
    let scheduler = nobat_scheduler::start(&scheduler, queue).await?;
    let series = Metrics::new();
    series.snapshot("nobat_worker", worker.families());
    let _listener = match metrics.as_str() {
        "" => None,
        address => Some(MetricsServer::start(address, series).await?),
    };
    tokio::select! {
        failed = worker.ready() => {
            let signatures = worker.signatures();
            if !failed.is_empty() && signatures.iter().all(|model| model.state == ModelState::Failed) {
                bail!("no model could be loaded: {}", failed.join("; "));
            }
            notify::ready();
            tokio::spawn(notify::watchdog());
            log::info!(models = signatures.len(); "ready");
            loop {
                tokio::select! {
                    () = stop.asked() => break,
                    _ = hangup.recv() => worker.reload(),
                }
            }
        }
        () = stop.asked() => {}
    }
    notify::stopping();
    log::info!("draining: finishing what runs, giving the rest back");
    scheduler.stop().await;
    tokio::select! {
        drained = tokio::task::spawn_blocking(move || worker.drain()) => drained.context("the drain failed"),
        () = stop.asked() => bail!("ended by a second signal before the drain was done; leased jobs run again"),
    }
}
