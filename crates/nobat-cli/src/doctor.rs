//! `nobat doctor`: is this machine fit to serve, and is the store well?

use nobat_runtime::streams::print;
use std::path::Path;

use anyhow::{Result, anyhow, bail};
use nobat_queue::sqlite::SqliteQueue;
use nobat_worker::config::{ProviderConfig, ProviderKind};
use nobat_worker::engine::library;

use crate::client::block_on;
use crate::config::Settings;
use crate::python::RuntimePackages;

/// Check settings, ONNX Runtime and the queue's store; exit 1 when one is unfit.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat doctor\n  \
    nobat doctor --redis redis://127.0.0.1:6379\n  \
    nobat doctor --redis redis://127.0.0.1:6379 --queue             what is out of order in the queues\n  \
    nobat doctor --redis redis://127.0.0.1:6379 --queue --repair    set it right, or dead-letter it")]
pub(crate) struct Args {
    /// Redis with the queues, instead of the configured store. Several
    /// servers: redis+cluster://HOST1,HOST2, redis+sentinel://HOST1,HOST2/SERVICE; TLS: rediss.
    #[arg(long, env = "NOBAT_REDIS", hide_env_values = true, value_name = "URL")]
    redis: Option<String>,
    /// Look the queues on Redis over: wrong types, lost records, counters that are off.
    #[arg(long)]
    queue: bool,
    /// Only this model's queue; without it, every model's that has one.
    #[arg(long, requires = "queue", value_name = "MODEL")]
    model: Option<String>,
    /// Set right what is found, or dead-letter it.
    #[arg(long, requires = "queue")]
    repair: bool,
}

pub(crate) fn run(args: Args, file: Option<&Path>) -> Result<()> {
    let mut unfit = 0;
    let mut judge = |what: &str, found: Result<String>| match found {
        Ok(good) => print(format_args!("ok      {what:14}{good}")),
        Err(error) => {
            unfit += 1;
            print(format_args!("unfit   {what:14}{error:#}"))
        }
    };
    let settings = Settings::read(file).and_then(|mut settings| {
        args.redis.into_iter().for_each(|url| settings.store.redis = url.into());
        settings.validate().map(|()| settings)
    });
    judge("settings", settings.as_ref().map(|_| "read".to_owned()).map_err(|error| anyhow::anyhow!("{error}")))?;
    let provider =
        settings.as_ref().map_or_else(|_| ProviderConfig::default(), |settings| settings.worker.provider.clone());
    judge("onnx runtime", look_at_runtime())?;
    if let Some(gpu) = look_at_gpu(&provider) {
        match (gpu, provider.kind) {
            (Err(error), ProviderKind::Cpu) => print(format_args!("warning {:14}{error:#}", "cuda"))?,
            (found, _) => judge("cuda", found)?,
        }
    }
    if let Ok(settings) = settings {
        let (found, warnings) = look_at_store(&settings);
        judge("store", found)?;
        for warning in warnings {
            print(format_args!("warning               {warning}"))?;
        }
        if args.queue {
            let findings = block_on(audit(&settings, args.model, args.repair));
            for finding in findings.iter().flatten() {
                print(format_args!("{}  {finding}", if args.repair { "mended" } else { "found " }))?;
            }
            judge(
                "queues",
                findings.and_then(|findings| match findings.len() {
                    0 => Ok("in order".to_owned()),
                    count if args.repair => Ok(format!("{count} things set right")),
                    count => bail!("{count} things are out of order; --repair sets them right"),
                }),
            )?;
        }
    }
    match unfit {
        0 => Ok(()),
        count => bail!("{count} of the checks failed"),
    }
}

/// Which library is loaded, and what brought it.
fn look_at_runtime() -> Result<String> {
    let path = library::find()?;
    let brought = RuntimePackages::around(&path).map(|packages| packages.check()).transpose()?;
    library::environment()?;
    Ok(match brought.filter(|brought| !brought.is_empty()) {
        Some(packages) => format!("{packages} loads from {}", path.display()),
        None => format!("loads from {}", path.display()),
    })
}

/// Whether CUDA can be used, where it is to be or where its library is there.
fn look_at_gpu(provider: &ProviderConfig) -> Option<Result<String>> {
    let path = library::find().ok()?;
    let has_gpu = RuntimePackages::around(&path).is_some_and(|packages| packages.for_gpu());
    if provider.kind != ProviderKind::Cuda && !has_gpu {
        return None;
    }
    library::environment().ok()?;
    let cuda = ProviderConfig { kind: ProviderKind::Cuda, ..provider.clone() };
    Some(match nobat_worker::engine::check_provider(&cuda) {
        Ok(()) => Ok("can be used".to_owned()),
        Err(reason) if has_gpu => Err(anyhow!(
            "{reason}; or let its packages bring them: `pip install 'onnxruntime-gpu[cuda,cudnn]'` and start with `python -m nobat`"
        )),
        Err(reason) => Err(anyhow!("{reason}")),
    })
}

/// What the store says of itself, and what it warns of.
fn look_at_store(settings: &Settings) -> (Result<String>, Vec<String>) {
    let data = &settings.store.data;
    let name = match settings.store.redis.is_empty() {
        true => data.display().to_string(),
        false => settings.store.redis.shown(),
    };
    // A folder belongs to one process: one that serves has opened it, and tells
    // of its store's health itself.
    if settings.store.redis.is_empty()
        && let Some(holder) = SqliteQueue::holder(data)
    {
        return (
            Ok(format!("the data folder {name} is served by {holder}; its /readyz?verbose tells its health")),
            Vec::new(),
        );
    }
    let health = block_on(async { Ok(settings.store.open(settings.queue.clone()).await?.health().await?) });
    let warnings = health.as_ref().map(|health| health.warnings.clone()).unwrap_or_default();
    (health.map(|health| format!("{} at {name}", health.store)), warnings)
}

/// What is out of order in the queues on Redis, a line each.
async fn audit(settings: &Settings, model: Option<String>, repair: bool) -> Result<Vec<String>> {
    if settings.store.redis.is_empty() {
        bail!("only queues on Redis are looked over; the embedded store checks itself when it opens");
    }
    let queue = settings.store.open_redis(settings.queue.clone()).await?;
    let mut models: Vec<String> = match model {
        Some(model) => vec![model],
        None => queue.models().await?.iter().map(ToString::to_string).collect(),
    };
    models.sort();
    let mut findings = Vec::new();
    for model in models {
        findings.extend(queue.audit(&model, repair).await?.into_iter().map(|finding| format!("{model}: {finding}")));
    }
    Ok(findings)
}
