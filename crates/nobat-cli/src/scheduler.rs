//! `nobat scheduler`: a scheduler of its own, around a Redis shared with
//! gateways and workers. Any number may run beside each other.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use nobat_runtime::logging;
use nobat_runtime::{Stop, exit_now, notify};

use crate::config::Settings;
use crate::store;

/// Schedule and run periodic tasks: a process of its own beside gateways and workers.
///
/// Gateways, workers and schedulers may all schedule; each tick is enqueued once.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat scheduler --redis redis://127.0.0.1:6379 --config config/nobat.toml\n\n\
    With the embedded queue `nobat serve` schedules; it is one process.")]
pub(crate) struct Args {
    /// Redis with the queues. Several
    /// servers: redis+cluster://HOST1,HOST2, redis+sentinel://HOST1,HOST2/SERVICE; TLS: rediss.
    #[arg(long, env = "NOBAT_REDIS", hide_env_values = true, value_name = "URL")]
    redis: Option<String>,
    /// Levels over the configured ones, such as debug or info,nobat_queue=trace.
    #[arg(long, env = "NOBAT_LOG_LEVEL", value_name = "LEVELS")]
    log_level: Option<String>,
    /// Folder of the daily log files.
    #[arg(long, env = "NOBAT_LOG_DIR", value_name = "DIR")]
    log_dir: Option<PathBuf>,
}

pub(crate) fn run(args: Args, file: Option<&Path>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // First of all: a stop is heard from here on.
    let stop = runtime.block_on(async { Stop::listen() })?;
    let mut settings = Settings::read(file)?;
    settings.store.redis = args.redis.map_or(settings.store.redis, Into::into);
    settings.log.level = args.log_level.unwrap_or(settings.log.level);
    settings.log.dir = args.log_dir.unwrap_or(settings.log.dir);
    settings.validate()?;
    if settings.store.redis.is_empty() {
        bail!("a scheduler of its own needs Redis; set --redis or store.redis, or let `nobat serve` schedule");
    }
    if settings.scheduler.periodic.is_empty() {
        bail!("no periodic task is declared; add [[scheduler.periodic]] to the configuration, see docs/CONFIG.md");
    }
    logging::init("nobat-scheduler", settings.log.clone().or_service_dir())?;
    runtime.block_on(schedule(settings, stop))
}

async fn schedule(mut settings: Settings, mut stop: Stop) -> Result<()> {
    settings.scheduler.enabled = true;
    let starting = async {
        let queue = store::open(&settings).await?;
        anyhow::Ok(
            nobat_scheduler::start(&settings.scheduler, queue, settings.store.redis.expose(), &settings.store.prefix)
                .await?,
        )
    };
    let Some(scheduler) = stop.unless_asked(starting).await else { return Ok(()) };
    let scheduler = scheduler?;
    notify::ready();
    tokio::spawn(notify::watchdog());
    stop.asked().await;
    notify::stopping();
    tokio::select! {
        () = scheduler.stop() => Ok(()),
        () = stop.again() => {
            eprintln!("nobat: ended by a second signal before the drain was done");
            exit_now(1)
        }
    }
}
