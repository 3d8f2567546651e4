//! `nobat webhooks`: deliveries shown and repeated, endpoints enabled again.

use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use reqwest::Method;
use serde_json::json;

use crate::client::{Call, Tool, segment};
use crate::table::Columns;

const DELIVERIES: Columns = Columns {
    list: "deliveries",
    paths: &["id", "event", "endpoint", "attempts", "outcome", "last", "created_at", "due_in_s"],
    empty: "no message waits, and none was sent",
};

/// Show webhook deliveries, and send them again.
#[derive(Subcommand)]
#[command(after_help = "Examples:\n  \
    nobat webhooks list --limit 20\n  \
    nobat webhooks redeliver msg_…\n  \
    nobat webhooks endpoints                          what is left alone, and what answered 410\n  \
    nobat webhooks enable https://example.com/hook    send to it again")]
pub(crate) enum Action {
    /// Messages that wait, the next due first; then those that are over, newest first.
    List {
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Send a message again under its id.
    Redeliver {
        /// The message's id, `msg_…`.
        id: String,
    },
    /// Endpoints that the circuit breakers leave alone, and URLs that answered 410.
    Endpoints,
    /// Send to a URL again that answered 410.
    Enable {
        /// The URL, as it was declared.
        // Not `url`: that is the service's address, by its flag.
        #[arg(value_name = "URL")]
        receiver: String,
    },
}

pub(crate) fn run(tool: Tool<Action>) -> Result<()> {
    let path = |end: &str| format!("/api/v1/webhooks/{end}");
    let call = match &tool.action {
        Action::List { limit } => Call::new(Method::GET, path(&format!("deliveries?limit={limit}"))),
        Action::Redeliver { id } => Call::new(Method::POST, path(&format!("deliveries/{}/redeliver", segment(id)))),
        Action::Endpoints => Call::new(Method::GET, path("endpoints")),
        Action::Enable { receiver } => Call::new(Method::POST, path("endpoints/enable"))
            .body(json!({ "url": receiver }).to_string().into())
            .shown(json!({ "enabled": receiver })),
    };
    tool.service.call(Duration::from_secs(60), call.columns(&DELIVERIES))
}
