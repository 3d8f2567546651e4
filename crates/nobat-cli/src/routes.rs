//! `nobat routes`: routes shown, declared and removed.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use reqwest::Method;
use serde_json::json;

use crate::client::{Call, Tool, segment};
use crate::input;
use crate::table::Columns;

const ROUTES: Columns = Columns {
    list: "routes",
    paths: &["name", "?direct|topic|fanout|weighted|shadow", "serves", "members", "reason"],
    empty: "no route is declared",
};

/// Show, declare and remove routes.
#[derive(Subcommand)]
#[command(after_help = "Examples:\n  \
    nobat routes list\n  \
    echo '{\"direct\": \"digits\"}' | nobat routes put numbers --input -\n  \
    nobat routes remove numbers\n\n\
    A route that is put here stands over the configuration's, on every gateway.")]
pub(crate) enum Action {
    /// Every route: its kind, and whether it serves.
    List,
    /// One route with its rule and its signature.
    Get(RouteName),
    /// Declare a route, or replace it.
    Put {
        /// The route's name.
        name: String,
        /// A JSON file with one rule, or - for standard input.
        #[arg(long, short, value_name = "FILE")]
        input: PathBuf,
    },
    /// Remove a route that was put; a configured one comes back.
    Remove(RouteName),
}

#[derive(clap::Args)]
pub(crate) struct RouteName {
    /// The route's name.
    name: String,
}

pub(crate) fn run(tool: Tool<Action>) -> Result<()> {
    let route = |name: &str| format!("/api/v1/routes/{}", segment(name));
    let call = match &tool.action {
        Action::List => Call::new(Method::GET, "/api/v1/routes"),
        Action::Get(RouteName { name }) => Call::new(Method::GET, route(name)),
        Action::Put { name, input } => Call::new(Method::PUT, route(name)).body(input::bytes(input)?),
        Action::Remove(RouteName { name }) => Call::new(Method::DELETE, route(name)).shown(json!({"removed": name})),
    };
    tool.service.call(Duration::from_secs(60), call.columns(&ROUTES))
}
