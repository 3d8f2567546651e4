//! `nobat serve`: a gateway and a worker in one process.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nobat_core::signature::ModelState;
use nobat_core::units;
use nobat_gateway::config::listen_address;
use nobat_gateway::{Gateway, GatewayHandle};
use nobat_runtime::logging;
use nobat_runtime::{Stop, exit_now, notify, traces};
use nobat_scheduler::SchedulerHandle;
use nobat_worker::config::ProviderKind;
use nobat_worker::{Worker, WorkerHandle};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Settings;
use crate::store;
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
    /// Address for HTTP: host and port, or a port alone.
    #[arg(long, env = "NOBAT_LISTEN", value_parser = listen_address, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Port for HTTP, on the address that is set.
    // No variable: Kubernetes sets NOBAT_PORT to an URL beside a service of that name.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Address for gRPC; empty turns it off.
    #[arg(long, env = "NOBAT_GRPC", value_parser = listen_address, value_name = "ADDRESS")]
    grpc: Option<String>,
    /// Address for metrics; empty turns it off.
    #[arg(long, env = "NOBAT_METRICS", value_parser = listen_address, value_name = "ADDRESS")]
    metrics: Option<String>,
    /// File of API keys, made by `nobat keys`.
    #[arg(long, env = "NOBAT_KEYS", value_name = "FILE")]
    keys: Option<String>,
    /// Serve a public address without API keys all the same.
    #[arg(long, env = "NOBAT_INSECURE")]
    insecure: bool,
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
    /// Levels over the configured ones, such as debug or info,nobat_queue=trace.
    #[arg(long, env = "NOBAT_LOG_LEVEL", value_name = "LEVELS")]
    log_level: Option<String>,
    /// Folder of the daily log files.
    #[arg(long, env = "NOBAT_LOG_DIR", value_name = "DIR")]
    log_dir: Option<PathBuf>,
}

impl Args {
    fn over(self, settings: &mut Settings) -> Result<()> {
        let models: Vec<PathBuf> = self.paths.into_iter().chain(self.models).collect();
        if !models.is_empty() {
            settings.worker.models = models;
        }
        let set = |place: &mut String, flag: Option<String>| flag.into_iter().for_each(|value| *place = value);
        set(&mut settings.gateway.listen, self.listen);
        if let Some(port) = self.port {
            settings.gateway.listen = units::listen_address(&port.to_string(), &settings.gateway.listen)?;
        }
        set(&mut settings.gateway.grpc, self.grpc);
        set(&mut settings.gateway.metrics, self.metrics);
        set(&mut settings.gateway.auth.keys, self.keys);
        settings.gateway.auth.insecure |= self.insecure;
        settings.worker.provider.kind = self.provider.unwrap_or(settings.worker.provider.kind);
        self.redis.into_iter().for_each(|url| settings.store.redis = url.into());
        set(&mut settings.log.level, self.log_level);
        let set = |place: &mut PathBuf, flag: Option<PathBuf>| flag.into_iter().for_each(|value| *place = value);
        set(&mut settings.store.data, self.data);
        set(&mut settings.log.dir, self.log_dir);
        Ok(())
    }
}

pub(crate) fn run(args: Args, file: Option<&Path>) -> Result<()> {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // First of all: a stop is heard from here on.
    let stop = runtime.block_on(async { Stop::listen() })?;
    let mut settings = Settings::read(file)?;
    args.over(&mut settings)?;
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
    runtime.block_on(serve(settings, started, stop))
}

async fn serve(mut settings: Settings, started: Instant, mut stop: Stop) -> Result<()> {
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
            eprintln!("nobat: a model could not be loaded and is not served: {reason}");
        }
        print!("{}", welcome(&serving.gateway, &serving.worker, &models, started.elapsed()));
        notify::ready();
        tokio::spawn(notify::watchdog());
    }

    loop {
        tokio::select! {
            () = stop.asked() => break,
            _ = hangup.recv() => serving.worker.reload(),
        }
    }
    log::info!("draining: finishing what runs, leaving what waits in the queue");
    notify::stopping();
    tokio::select! {
        drained = serving.drain() => drained,
        () = stop.again() => {
            eprintln!("nobat: ended by a second signal before the drain was done; leased jobs run again");
            exit_now(1)
        }
    }
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
        let queue = store::open(&settings).await?;
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
