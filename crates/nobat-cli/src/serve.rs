//! `nobat serve`: a gateway and a worker in one process.

use nobat_runtime::streams::{print_bytes, tell};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nobat_core::signature::ModelState;
use nobat_gateway::{Gateway, GatewayFlags, GatewayHandle};
use nobat_runtime::process::{self, LogFlags};
use nobat_runtime::{Stop, logging, notify, traces};
use nobat_scheduler::SchedulerHandle;
use nobat_worker::config::ProviderKind;
use nobat_worker::{Worker, WorkerHandle};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Settings;
use crate::welcome::welcome;

/// Serve models: gateway, worker and queue in one process.
///
/// Without --redis the queue is embedded: durable, in one folder, no server.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat serve ./model.onnx\n  \
    nobat serve --models ./models --data ./nobat-data --listen 0.0.0.0:8000\n  \
    nobat serve --models ./models --redis redis://127.0.0.1:6379\n\n\
    SIGTERM and SIGINT drain: what runs is finished, what waits stays queued; a second one ends at once.\n\
    SIGHUP looks for new, changed and removed models.")]
pub(crate) struct Args {
    /// Model files, or folders of models.
    #[arg(value_name = "MODEL")]
    paths: Vec<PathBuf>,
    /// Folder of models (repeat it for more).
    #[arg(long, env = "NOBAT_MODELS", value_delimiter = ',', value_name = "DIR")]
    models: Vec<PathBuf>,
    #[command(flatten)]
    gateway: GatewayFlags,
    /// Folder of the embedded queue.
    #[arg(long, env = "NOBAT_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Redis with the queues, instead of the embedded one. Several
    /// servers: redis+cluster://HOST1,HOST2, redis+sentinel://HOST1,HOST2/SERVICE; TLS: rediss.
    #[arg(long, env = "NOBAT_REDIS", hide_env_values = true, value_name = "URL")]
    redis: Option<String>,
    /// Execution provider: cpu, cuda.
    #[arg(long, env = "NOBAT_PROVIDER")]
    provider: Option<ProviderKind>,
    #[command(flatten)]
    log: LogFlags,
}

impl Args {
    fn over(self, settings: &mut Settings) -> Result<()> {
        let models: Vec<PathBuf> = self.paths.into_iter().chain(self.models).collect();
        if !models.is_empty() {
            settings.worker.models = models;
        }
        self.gateway.over(&mut settings.gateway)?;
        settings.worker.provider.kind = self.provider.unwrap_or(settings.worker.provider.kind);
        self.redis.into_iter().for_each(|url| settings.store.redis = url.into());
        self.data.into_iter().for_each(|data| settings.store.data = data);
        self.log.over(&mut settings.log);
        Ok(())
    }
}

pub(crate) fn run(args: Args, file: Option<&Path>) -> Result<()> {
    let settings = || {
        let mut settings = Settings::read(file)?;
        args.over(&mut settings)?;
        Ok(settings)
    };
    until_stopped(settings, welcome)
}

/// What is printed once a service serves: of its gateway, its worker, where its models are,
/// and how long the start took.
type Greeting = fn(&GatewayHandle, &WorkerHandle, &[PathBuf], Duration) -> String;

/// Serves with these settings until it is asked to stop, and drains.
pub(crate) fn until_stopped(settings: impl FnOnce() -> Result<Settings>, greeting: Greeting) -> Result<()> {
    let started = Instant::now();
    let (runtime, stop) = process::begin()?;
    let settings = settings()?;
    settings.validate()?;
    if settings.worker.models.is_empty() {
        bail!("no model is named; give a model file or a folder, such as `nobat serve ./model.onnx`");
    }
    let mut log = settings.log.clone().or_service_dir();
    if log.dir.as_os_str().is_empty() && settings.store.redis.is_empty() {
        log.dir = settings.store.data.join("log");
    }
    logging::init("nobat", log)?;
    let _traces = traces::start("nobat")?;
    runtime.block_on(serve(settings, greeting, started, stop))
}

async fn serve(mut settings: Settings, greeting: Greeting, started: Instant, mut stop: Stop) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let models = settings.worker.models.clone();
    if settings.gateway.threads == 0 {
        // The other half is the worker's: more would only take turns with it.
        settings.gateway.threads = settings.gateway.thread_count().div_ceil(2);
    }
    let Some(serving) = stop.unless_asked(Serving::start(settings)).await else { return Ok(()) };
    let serving = serving?;
    if let Some(failed) = stop.unless_asked(serving.worker.ready()).await {
        let signatures = serving.worker.signatures();
        if signatures.iter().all(|model| model.state == ModelState::Failed) && !failed.is_empty() {
            bail!("no model could be loaded: {}", failed.join("; "));
        }
        for reason in &failed {
            tell(format_args!("nobat: a model could not be loaded and is not served: {reason}"));
        }
        let words = greeting(&serving.gateway, &serving.worker, &models, started.elapsed());
        if let Err(error) = print_bytes(words.as_bytes()) {
            log::warn!("the greeting could not be printed: {error}");
        }
        notify::ready();
    }

    loop {
        tokio::select! {
            () = stop.asked() => break,
            _ = hangup.recv() => serving.worker.reload(),
        }
    }
    log::info!("draining: finishing what runs, leaving what waits in the queue");
    stop.drain("nobat", "; leased jobs run again", serving.drain()).await
}

/// All of a service; dropped, it leaves no thread in a model.
struct Serving {
    gateway: GatewayHandle,
    scheduler: SchedulerHandle,
    worker: WorkerHandle,
}

impl Serving {
    async fn start(settings: Settings) -> Result<Serving> {
        // What may be refused comes before a model begins to load.
        let gateway = Gateway::bind(settings.gateway.clone())?;
        let queue = settings.store.open(settings.queue).await?;
        let worker = Worker::start(settings.worker, queue.clone())?;
        let scheduler = nobat_scheduler::start(
            &settings.scheduler,
            queue.clone(),
            settings.store.redis.expose(),
            &settings.store.prefix,
        )
        .await?;
        let gateway = gateway.expecting(worker.id()).serve(queue).await?;
        gateway.metrics().snapshot("nobat_worker", worker.batching());
        Ok(Serving { gateway, scheduler, worker })
    }

    async fn drain(self) -> Result<()> {
        let Serving { gateway, scheduler, worker } = self;
        scheduler.stop().await;
        // The gateway before the worker: its callers wait for what that still runs.
        gateway.stop().await;
        tokio::task::spawn_blocking(move || worker.drain()).await.context("the worker did not drain")
    }
}
