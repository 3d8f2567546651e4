//! `nobat queue`: what waits, pause and resume, dead letters.

use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use reqwest::Method;

use crate::client::{Output, Server, block_on, segment};
use crate::jobs;
use crate::table::Columns;

const QUEUES: Columns = Columns {
    list: "queues",
    paths: &["model", "queued", "scheduled", "leased", "dead", "oldest_ms", "queued_bytes", "paused"],
    empty: "no model has a queue yet",
};

/// Show and steer the queues, one per model.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat queue list\n  \
    nobat queue pause digits\n  \
    nobat queue dead digits --limit 20\n  \
    nobat queue redrive digits --limit 1000     the oldest dead letters run again")]
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
    /// Every queue with its counts.
    List,
    /// One queue's counts.
    Get {
        /// The model whose queue it is.
        model: String,
    },
    /// Stop leasing; enqueueing goes on.
    Pause {
        /// The model whose queue it is.
        model: String,
    },
    /// Lease again.
    Resume {
        /// The model whose queue it is.
        model: String,
    },
    /// List dead letters.
    Dead {
        /// The model whose queue it is.
        model: String,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Where the page before ended.
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Send dead letters back to their queue, their attempts forgotten.
    Redrive(Selection),
    /// Delete dead letters for good.
    Purge(Selection),
}

#[derive(clap::Args)]
struct Selection {
    /// The model whose queue it is.
    model: String,
    /// Only these jobs; without it the oldest.
    ids: Vec<String>,
    /// Most jobs, when none are named.
    #[arg(long, default_value_t = 100)]
    limit: u32,
}

impl Selection {
    fn path(&self, end: &str) -> String {
        let ids = match self.ids.is_empty() {
            true => String::new(),
            false => format!("&ids={}", segment(&self.ids.join(","))),
        };
        format!("/api/v1/queues/{}/dead{end}?limit={}{ids}", segment(&self.model), self.limit)
    }
}

pub(crate) fn run(args: Args) -> Result<()> {
    let client = args.server.client(Duration::from_secs(60))?;
    let queue = |model: &str, end: &str| format!("/api/v1/queues/{}{end}", segment(model));
    let (method, path) = match &args.action {
        Action::List => (Method::GET, "/api/v1/queues".to_owned()),
        Action::Get { model } => (Method::GET, queue(model, "")),
        Action::Pause { model } => (Method::POST, queue(model, "/pause")),
        Action::Resume { model } => (Method::POST, queue(model, "/resume")),
        Action::Dead { model, limit, cursor } => {
            let cursor = cursor.as_ref().map(|cursor| format!("&cursor={}", segment(cursor))).unwrap_or_default();
            (Method::GET, queue(model, &format!("/dead?limit={limit}{cursor}")))
        }
        Action::Redrive(selection) => (Method::POST, selection.path("/redrive")),
        Action::Purge(selection) => (Method::DELETE, selection.path("")),
    };
    let columns = if matches!(args.action, Action::Dead { .. }) { &jobs::COLUMNS } else { &QUEUES };
    block_on(async { args.output.print(&client.json(client.request(method, &path)).await?.1, Some(columns)) })
}
