//! `nobat healthcheck`: ready or not, by exit code; for containers and scripts.

use std::time::Duration;

use anyhow::{Result, bail};
use nobat_core::units::whole_seconds;
use reqwest::Method;

use crate::client::{Server, block_on};

/// Exit 0 when the service is ready, 1 when it is not.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  nobat healthcheck\n  nobat healthcheck --live --url http://127.0.0.1:8000")]
pub(crate) struct Args {
    /// Ask only whether the process is alive, not whether it can serve.
    #[arg(long)]
    live: bool,
    /// How long to wait for the answer: seconds, or a duration.
    #[arg(long, default_value = "3", value_parser = whole_seconds, value_name = "DURATION")]
    timeout: u64,
    #[command(flatten)]
    server: Server,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let client = args.server.client(Duration::from_secs(args.timeout))?;
    let path = if args.live { "/livez" } else { "/readyz" };
    block_on(async {
        let response = client.send(client.request(Method::GET, path)).await?;
        if response.status().is_success() {
            return Ok(());
        }
        let status = response.status().as_u16();
        let why = response.text().await.unwrap_or_default();
        bail!("{}{path} answers {status}: {}", args.server.url(), why.trim());
    })
}
