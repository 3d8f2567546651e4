//! `nobat scheduler`: a scheduler of its own, around a Redis shared with
//! gateways and workers. Any number may run beside each other.

use std::path::Path;

use anyhow::{Result, bail};
use nobat_runtime::process::{self, LogFlags};
use nobat_runtime::{Stop, logging, notify};

use crate::config::Settings;

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
    #[command(flatten)]
    log: LogFlags,
}

pub(crate) fn run(args: Args, file: Option<&Path>) -> Result<()> {
    let (runtime, stop) = process::begin()?;
    let mut settings = Settings::read(file)?;
    settings.store.redis = args.redis.map_or(settings.store.redis, Into::into);
    args.log.over(&mut settings.log);
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

async fn schedule(settings: Settings, mut stop: Stop) -> Result<()> {
    let Settings { store, queue, mut scheduler, .. } = settings;
    scheduler.enabled = true;
    let starting = async {
        let queue = store.open(queue).await?;
        nobat_scheduler::start(&scheduler, queue, store.redis.expose(), &store.prefix).await
    };
    let Some(scheduler) = stop.unless_asked(starting).await else { return Ok(()) };
    let scheduler = scheduler?;
    notify::ready();
    stop.asked().await;
    stop.drain("nobat", "", scheduler.stop()).await;
    Ok(())
}
