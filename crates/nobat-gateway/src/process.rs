//! The `nobat-gateway` program, which is `nobat gateway` too: a gateway of its own,
//! around a Redis shared with workers.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use nobat_core::{Error, Result, units};
use nobat_runtime::config::Layers;
use nobat_runtime::logging::{self, LogSettings};
use nobat_runtime::process::{self, LogFlags};
use nobat_runtime::{notify, traces};
use nobat_scheduler::SchedulerSettings;
use nobat_serving::store::{QueueSettings, StoreSettings};

use crate::config::{GatewayConfig, listen_address};
use crate::server::Gateway;

/// HTTP and gRPC in front of the queues on Redis; workers elsewhere serve the models.
#[derive(Parser)]
#[command(
    name = "nobat-gateway",
    version,
    max_term_width = 100,
    after_help = "Examples:\n  \
        nobat-gateway --redis redis://127.0.0.1:6379\n  \
        nobat-gateway --redis rediss://nobat@redis.internal --listen 0.0.0.0:8000\n\n\
        SIGTERM and SIGINT drain; a second one ends at once."
)]
pub struct Args {
    /// Configuration file [default: config/nobat.toml where there is one].
    #[arg(long, env = "NOBAT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Redis with the queues [default: redis://127.0.0.1:6379]. Several
    /// servers: redis+cluster://HOST1,HOST2, redis+sentinel://HOST1,HOST2/SERVICE; TLS: rediss.
    #[arg(long, env = "NOBAT_REDIS", hide_env_values = true, value_name = "URL")]
    redis: Option<String>,
    #[command(flatten)]
    gateway: GatewayFlags,
    /// HTTP threads; 0 takes every core.
    #[arg(long, env = "NOBAT_THREADS", value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    log: LogFlags,
}

/// The flags of whatever has a gateway.
#[derive(clap::Args, Clone, Debug)]
pub struct GatewayFlags {
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
}

impl GatewayFlags {
    /// Sets what was given.
    ///
    /// # Errors
    /// `invalid_parameter` for a port on an address that has none.
    pub fn over(self, settings: &mut GatewayConfig) -> Result<()> {
        let set = |place: &mut String, flag: Option<String>| flag.into_iter().for_each(|value| *place = value);
        set(&mut settings.listen, self.listen);
        if let Some(port) = self.port {
            settings.listen = units::listen_address(&port.to_string(), &settings.listen)?;
        }
        set(&mut settings.grpc, self.grpc);
        set(&mut settings.metrics, self.metrics);
        set(&mut settings.auth.keys, self.keys);
        settings.auth.insecure |= self.insecure;
        Ok(())
    }
}

/// Runs the program to its end.
pub fn run(args: Args) -> ExitCode {
    process::end("nobat-gateway", serve(args))
}

fn serve(args: Args) -> Result<()> {
    let (runtime, mut stop) = process::begin().map_err(|error| Error::internal(format!("cannot start: {error}")))?;
    let layers = Layers::read(args.config.as_deref())?;
    let mut store: StoreSettings = layers.section("store")?;
    let queue: QueueSettings = layers.section("queue")?;
    let mut gateway: GatewayConfig = layers.section("gateway")?;
    let scheduler: SchedulerSettings = layers.section("scheduler")?;
    let mut log: LogSettings = layers.section("log")?;
    store.redis = args.redis.map_or(store.redis, Into::into);
    args.gateway.over(&mut gateway)?;
    gateway.threads = args.threads.unwrap_or(gateway.threads);
    args.log.over(&mut log);
    gateway.validate()?;
    gateway.check_tasks(&scheduler)?;
    logging::init("nobat-gateway", log.or_service_dir())?;
    let _traces = traces::start("nobat-gateway")?;
    runtime.block_on(async {
        let starting = async {
            // What may be refused comes before the queue is asked for anything.
            let gateway = Gateway::bind(gateway)?;
            let queue = store.open_redis(queue).await?;
            let gateway = gateway.serve(queue.clone()).await?;
            Ok((gateway, nobat_scheduler::start(&scheduler, queue, store.redis_or_local(), &store.prefix).await?))
        };
        let Some(started) = stop.unless_asked(starting).await else { return Ok(()) };
        let (gateway, scheduler) = started?;
        notify::ready();
        stop.asked().await;
        log::info!("draining: answering what is in flight");
        let drained = async {
            scheduler.stop().await;
            gateway.stop().await;
        };
        stop.drain("nobat-gateway", "", drained).await;
        Ok(())
    })
}
