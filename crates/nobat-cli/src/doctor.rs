//! `nobat doctor`: is this machine fit to serve, and is the store well?

use std::path::Path;

use anyhow::{Result, bail};
use nobat_core::config::without_password;

use crate::client::block_on;
use crate::config::Settings;
use crate::store;

/// Check settings, ONNX Runtime and the queue's store; exit 1 when one is unfit.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  nobat doctor\n  nobat doctor --redis redis://127.0.0.1:6379")]
pub(crate) struct Args {
    /// Redis with the queues, instead of the configured store.
    #[arg(long, env = "NOBAT_REDIS", value_name = "URL")]
    redis: Option<String>,
}

pub(crate) fn run(args: Args, file: Option<&Path>) -> Result<()> {
    let mut unfit = 0;
    let mut tell = |what: &str, found: Result<String>| match found {
        Ok(good) => println!("ok      {what:14}{good}"),
        Err(error) => {
            println!("unfit   {what:14}{error:#}");
            unfit += 1;
        }
    };
    let settings = Settings::read(file).and_then(|mut settings| {
        args.redis.into_iter().for_each(|url| settings.store.redis = url);
        settings.validate().map(|()| settings)
    });
    tell("settings", settings.as_ref().map(|_| "read".to_owned()).map_err(|error| anyhow::anyhow!("{error}")));
    let library = nobat_worker::engine::library::environment().map(|_| "loads".to_owned());
    tell("onnx runtime", library.map_err(anyhow::Error::from));
    if let Ok(settings) = settings {
        let (name, health) = block_on(async {
            let name = match settings.store.redis.as_str() {
                "" => settings.store.data.display().to_string(),
                url => without_password(url),
            };
            let health = match store::open(&settings).await {
                Ok(queue) => queue.health().await.map_err(anyhow::Error::from),
                Err(error) => Err(error),
            };
            Ok((name, health))
        })?;
        let warnings = health.as_ref().map(|health| health.warnings.clone()).unwrap_or_default();
        tell("store", health.map(|health| format!("{} at {name}", health.store)));
        warnings.iter().for_each(|warning| println!("warning               {warning}"));
    }
    match unfit {
        0 => Ok(()),
        count => bail!("{count} of the checks failed"),
    }
}
