//! `nobat routes`: routes shown, declared and removed.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Subcommand;
use reqwest::{Method, header};
use serde_json::json;

use crate::client::{Output, Server, block_on, segment};
use crate::table::Columns;

const ROUTES: Columns = Columns {
    list: "routes",
    paths: &["name", "?direct|topic|fanout|weighted|shadow", "serves", "members", "reason"],
    empty: "no route is declared",
};

/// Show, declare and remove routes.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat routes list\n  \
    echo '{\"direct\": \"digits\"}' | nobat routes put numbers --input -\n  \
    nobat routes remove numbers\n\n\
    A route that is put here stands over the configuration's, on every gateway.")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    output: Output,
}

#[derive(Subcommand)]
enum Action {
    /// Every route: its kind, and whether it serves.
    List,
    /// One route with its rule and its signature.
    Get {
        /// The route's name.
        name: String,
    },
    /// Declare a route, or replace it.
    Put {
        /// The route's name.
        name: String,
        /// A JSON file with one rule, or - for standard input.
        #[arg(long, short, value_name = "FILE")]
        input: PathBuf,
    },
    /// Remove a route that was put; a configured one comes back.
    Remove {
        /// The route's name.
        name: String,
    },
}

pub(crate) fn run(args: Args) -> Result<()> {
    let client = args.server.client(Duration::from_secs(60))?;
    let route = |name: &str| format!("/api/v1/routes/{}", segment(name));
    let request = match &args.action {
        Action::List => client.request(Method::GET, "/api/v1/routes"),
        Action::Get { name } => client.request(Method::GET, &route(name)),
        Action::Put { name, input } => client
            .request(Method::PUT, &route(name))
            .header(header::CONTENT_TYPE, "application/json")
            .body(read(input)?),
        Action::Remove { name } => client.request(Method::DELETE, &route(name)),
    };
    block_on(async {
        let answer = client.json(request).await?.1;
        match &args.action {
            Action::Remove { name } => args.output.print(&json!({"removed": name}), None),
            _ => args.output.print(&answer, Some(&ROUTES)),
        }
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.as_os_str() != "-" {
        return std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()));
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
    Ok(bytes)
}
