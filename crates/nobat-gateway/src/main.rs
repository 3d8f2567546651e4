//! `nobat-gateway`: the gateway as a process of its own, in front of Redis.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;
use nobat_core::config::{Layers, StoreSettings};
use nobat_core::logging::{self, LogSettings};
use nobat_gateway::{Gateway, GatewayConfig};
use nobat_queue::queue::QueueSettings;
use nobat_queue::redis::RedisQueue;
use tokio::signal::unix::{SignalKind, signal};

/// What every key in Redis begins with.
const PREFIX: &str = "nobat";

/// The HTTP and gRPC gateway of nobat, in front of a Redis queue.
///
/// Settings: flags over NOBAT_… variables over the configuration file.
#[derive(Parser)]
#[command(name = "nobat-gateway", version)]
struct Args {
    /// Configuration file; config/nobat.toml where there is one.
    #[arg(long, env = "NOBAT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Redis with the queues, such as redis://127.0.0.1:6379.
    #[arg(long, env = "NOBAT_REDIS", value_name = "URL")]
    redis: Option<String>,
    /// Address for HTTP; port 0 takes a free one.
    #[arg(long, env = "NOBAT_LISTEN", value_name = "ADDRESS")]
    listen: Option<String>,
    /// Address for gRPC; empty turns it off.
    #[arg(long, env = "NOBAT_GRPC", value_name = "ADDRESS")]
    grpc: Option<String>,
    /// Address for metrics; empty turns it off.
    #[arg(long, env = "NOBAT_METRICS", value_name = "ADDRESS")]
    metrics: Option<String>,
    /// HTTP threads; 0 takes half of the cores.
    #[arg(long, env = "NOBAT_THREADS", value_name = "N")]
    threads: Option<usize>,
    /// Levels over the configured ones, such as debug or info,nobat_queue=trace.
    #[arg(long, env = "NOBAT_LOG_LEVEL", value_name = "LEVELS")]
    log_level: Option<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let layers = Layers::read(args.config.as_deref())?;
    let mut gateway: GatewayConfig = layers.section("gateway")?;
    let mut store: StoreSettings = layers.section("store")?;
    let mut log: LogSettings = layers.section("log")?;
    let queue: QueueSettings = layers.section("queue")?;
    let set = |place: &mut String, flag: Option<String>| flag.into_iter().for_each(|value| *place = value);
    set(&mut store.redis, args.redis);
    set(&mut gateway.listen, args.listen);
    set(&mut gateway.grpc, args.grpc);
    set(&mut gateway.metrics, args.metrics);
    set(&mut log.level, args.log_level);
    gateway.threads = args.threads.unwrap_or(gateway.threads);
    if store.redis.is_empty() {
        bail!("no Redis is named; give --redis redis://HOST:PORT, or run `nobat serve` for the embedded queue");
    }
    if log.dir.as_os_str().is_empty() {
        log.dir = logging::default_dir(None);
    }
    logging::init("nobat-gateway", log)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(gateway, &store.redis, queue))
}

async fn serve(config: GatewayConfig, redis: &str, settings: QueueSettings) -> Result<()> {
    // Before anything listens: a signal during the start drains too.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let queue = RedisQueue::connect(redis, settings, PREFIX).await?;
    let gateway = Gateway::start(config, queue).await?;
    tokio::select! {
        _ = terminate.recv() => log::info!("drain: SIGTERM"),
        _ = interrupt.recv() => log::info!("drain: SIGINT"),
    }
    let drained = tokio::select! {
        () = gateway.stop() => true,
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
    };
    if !drained {
        log::warn!("drain: a second signal came; ending at once");
    }
    Ok(())
}
