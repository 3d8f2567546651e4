//! `nobat models`: what the service serves.

use std::time::Duration;

use anyhow::Result;
use reqwest::Method;

use crate::client::{Server, block_on, print, segment};

/// List the models, or show one with its signature and statistics.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  nobat models\n  nobat models digits")]
pub(crate) struct Args {
    /// Name of one model.
    model: Option<String>,
    #[command(flatten)]
    server: Server,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let client = args.server.client(Duration::from_secs(30))?;
    let path = match &args.model {
        Some(model) => format!("/api/v1/models/{}", segment(model)),
        None => "/api/v1/models".to_owned(),
    };
    block_on(async { print(&client.json(client.request(Method::GET, &path)).await?.1) })
}
