//! `nobat webhooks`: deliveries shown and repeated, endpoints enabled again.

use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use reqwest::{Method, header};
use serde_json::json;

use crate::client::{Output, Server, block_on, segment};
use crate::table::Columns;

const DELIVERIES: Columns = Columns {
    list: "deliveries",
    paths: &["id", "event", "endpoint", "attempts", "outcome", "last", "created_at", "due_in_s"],
    empty: "no message waits, and none was sent",
};

/// Show webhook deliveries, and send them again.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat webhooks list --limit 20\n  \
    nobat webhooks redeliver msg_…\n  \
    nobat webhooks endpoints                          what is left alone, and what answered 410\n  \
    nobat webhooks enable https://example.com/hook    send to it again")]
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

pub(crate) fn run(args: Args) -> Result<()> {
    let client = args.server.client(Duration::from_secs(60))?;
    let request = match &args.action {
        Action::List { limit } => client.request(Method::GET, &format!("/api/v1/webhooks/deliveries?limit={limit}")),
        Action::Redeliver { id } => {
            client.request(Method::POST, &format!("/api/v1/webhooks/deliveries/{}/redeliver", segment(id)))
        }
        Action::Endpoints => client.request(Method::GET, "/api/v1/webhooks/endpoints"),
        Action::Enable { receiver } => client
            .request(Method::POST, "/api/v1/webhooks/endpoints/enable")
            .header(header::CONTENT_TYPE, "application/json")
            .body(json!({ "url": receiver }).to_string()),
    };
    block_on(async {
        let answer = client.json(request).await?.1;
        match &args.action {
            Action::Enable { receiver } => args.output.print(&json!({"enabled": receiver}), None),
            _ => args.output.print(&answer, Some(&DELIVERIES)),
        }
    })
}
