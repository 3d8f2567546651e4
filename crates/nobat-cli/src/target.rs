//! A served model as the tools that test, measure and compare ask it.

use std::time::Duration;

use anyhow::{Result, bail};
use nobat_check::client::{ModelDescription, Target, TargetSettings};

use crate::client::Server;

/// Longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where `reference`, `MODEL` or `MODEL/VERSION`, is asked.
pub(crate) fn settings(server: &Server, reference: &str) -> TargetSettings {
    let (name, version) = reference.split_once('/').map_or((reference, None), |(name, version)| (name, Some(version)));
    TargetSettings {
        url: server.url().to_owned(),
        grpc: None,
        api_key: server.api_key().map(str::to_owned),
        model: name.into(),
        version: version.map(Into::into),
        template: None,
        patience: PATIENCE,
    }
}

/// What a model takes, as its server says.
///
/// # Errors
/// What it says instead; where it says nothing at all, with the remedy.
pub(crate) async fn described(target: &Target) -> Result<ModelDescription> {
    match target.describe().await {
        Ok(model) => Ok(model),
        Err(why) => {
            let TargetSettings { url, model, .. } = target.settings();
            let remedy = match why.starts_with("no answer") {
                true => "; is it running? start it with `nobat serve`, or set --url",
                false => "",
            };
            bail!("{url} does not say what model `{model}` takes: {why}{remedy}")
        }
    }
}
