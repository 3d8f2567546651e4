//! `nobat-gateway`: a gateway of its own, around a Redis shared with workers.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use nobat_core::secret::shown_url;
use nobat_core::{Error, ErrorCode, units};
use nobat_gateway::Gateway;
use nobat_gateway::config::{GatewayConfig, listen_address};
use nobat_runtime::config::{Layers, StoreSettings};
use nobat_runtime::logging::{self, LogSettings};
use nobat_runtime::{Stop, exit_now, notify, traces};
use nobat_scheduler::SchedulerSettings;
use nobat_serving::store::{self, QueueSettings};

/// Freed memory goes back to the system after a load; glibc's allocator keeps it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
struct Args {
    /// Configuration file [default: config/nobat.toml where there is one].
    #[arg(long, env = "NOBAT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Redis with the queues [default: redis://127.0.0.1:6379]. Several
    /// servers: redis+cluster://HOST1,HOST2, redis+sentinel://HOST1,HOST2/SERVICE; TLS: rediss.
    #[arg(long, env = "NOBAT_REDIS", hide_env_values = true, value_name = "URL")]
    redis: Option<String>,
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
    /// HTTP threads; 0 takes every core.
    #[arg(long, env = "NOBAT_THREADS", value_name = "N")]
    threads: Option<usize>,
    /// Levels over the configured ones, such as debug or info,nobat_queue=trace.
    #[arg(long, env = "NOBAT_LOG_LEVEL", value_name = "LEVELS")]
    log_level: Option<String>,
    /// Folder of the daily log files.
    #[arg(long, env = "NOBAT_LOG_DIR", value_name = "DIR")]
    log_dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = run(Args::parse());
    // What was counted is told.
    log::logger().flush();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nobat-gateway: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Error> {
    let system = |error| Error::new(ErrorCode::Internal, format!("cannot start: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
    // First of all: a stop is heard from here on.
    let mut stop = runtime.block_on(async { Stop::listen() }).map_err(system)?;
    let layers = Layers::read(args.config.as_deref())?;
    let mut settings: StoreSettings = layers.section("store")?;
    let queue: QueueSettings = layers.section("queue")?;
    let mut gateway: GatewayConfig = layers.section("gateway")?;
    let scheduler: SchedulerSettings = layers.section("scheduler")?;
    let mut log: LogSettings = layers.section("log")?;
    let set = |place: &mut String, flag: Option<String>| flag.into_iter().for_each(|value| *place = value);
    settings.redis = args.redis.map_or(settings.redis, Into::into);
    set(&mut gateway.listen, args.listen);
    if let Some(port) = args.port {
        gateway.listen = units::listen_address(&port.to_string(), &gateway.listen)?;
    }
    set(&mut gateway.grpc, args.grpc);
    set(&mut gateway.metrics, args.metrics);
    set(&mut gateway.auth.keys, args.keys);
    gateway.auth.insecure |= args.insecure;
    gateway.threads = args.threads.unwrap_or(gateway.threads);
    set(&mut log.level, args.log_level);
    log.dir = args.log_dir.unwrap_or(log.dir);
    gateway.validate()?;
    gateway.check_tasks(&scheduler)?;
    logging::init("nobat-gateway", log.or_service_dir())?;
    let _traces = traces::start("nobat-gateway")?;
    runtime.block_on(async {
        let starting = async {
            // What may be refused comes before the queue is asked for anything.
            let gateway = Gateway::bind(gateway)?;
            let url = settings.redis_or_local();
            let queue = store::redis(url, queue, &settings.prefix).await.map_err(|error| Error {
                message: format!("cannot use the queue at {}: {}", shown_url(url), error.message),
                ..error
            })?;
            let gateway = gateway.serve(queue.clone()).await?;
            Ok((gateway, nobat_scheduler::start(&scheduler, queue, url, &settings.prefix).await?))
        };
        let Some(started) = stop.unless_asked(starting).await else { return Ok(()) };
        let (gateway, scheduler) = started?;
        notify::ready();
        tokio::spawn(notify::watchdog());
        stop.asked().await;
        notify::stopping();
        log::info!("draining: answering what is in flight");
        tokio::select! {
            () = async { scheduler.stop().await; gateway.stop().await } => Ok(()),
            () = stop.again() => {
                eprintln!("nobat-gateway: ended by a second signal before the drain was done");
                exit_now(1)
            }
        }
    })
}
