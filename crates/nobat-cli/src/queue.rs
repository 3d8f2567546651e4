//! `nobat queue`: what waits, pause and resume, dead letters.

use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use reqwest::Method;

use crate::client::{Call, Tool, segment};
use crate::jobs;
use crate::table::Columns;

const QUEUES: Columns = Columns {
    list: "queues",
    paths: &["model", "queued", "scheduled", "leased", "dead", "oldest_ms", "queued_bytes", "paused"],
    empty: "no model has a queue yet",
};

const GROUPS: Columns = Columns {
    list: "groups",
    paths: &["id", "count", "code", "last_at", "detail"],
    empty: "no job of this queue died",
};

/// Show and steer the queues, one per model.
#[derive(Subcommand)]
#[command(after_help = "Examples:\n  \
    nobat queue list\n  \
    nobat queue pause digits\n  \
    nobat queue dead digits --limit 20\n  \
    nobat queue groups digits                   dead letters by what they died of\n  \
    nobat queue redrive digits --limit 1000     the oldest dead letters run again")]
pub(crate) enum Action {
    /// Every queue with its counts.
    List,
    /// One queue's counts.
    Get(QueueName),
    /// Stop leasing; enqueueing goes on.
    Pause(QueueName),
    /// Lease again.
    Resume(QueueName),
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
    /// Dead letters by what they died of.
    Groups(QueueName),
    /// Send dead letters back to their queue, their attempts forgotten.
    Redrive(Selection),
    /// Delete dead letters for good.
    Purge(Selection),
}

#[derive(clap::Args)]
pub(crate) struct QueueName {
    /// The model whose queue it is.
    model: String,
}

#[derive(clap::Args)]
pub(crate) struct Selection {
    /// The model whose queue it is.
    model: String,
    /// Only these jobs; without it the oldest.
    ids: Vec<String>,
    /// All of this group (`nobat queue groups`).
    #[arg(long, conflicts_with_all = ["ids", "limit"])]
    group: Option<String>,
    /// Most jobs, when none are named.
    #[arg(long, default_value_t = 100)]
    limit: u32,
}

impl Selection {
    fn call(&self, method: Method, end: &str) -> Call {
        let which = match (&self.group, self.ids.is_empty()) {
            (Some(group), _) => format!("group={}", segment(group)),
            (None, true) => format!("limit={}", self.limit),
            (None, false) => format!("limit={}&ids={}", self.limit, segment(&self.ids.join(","))),
        };
        Call::new(method, queue(&self.model, &format!("/dead{end}?{which}"))).columns(&QUEUES)
    }
}

fn queue(model: &str, end: &str) -> String {
    format!("/api/v1/queues/{}{end}", segment(model))
}

pub(crate) fn run(tool: Tool<Action>) -> Result<()> {
    let of = |method, model: &str, end: &str| Call::new(method, queue(model, end)).columns(&QUEUES);
    let call = match &tool.action {
        Action::List => Call::new(Method::GET, "/api/v1/queues").columns(&QUEUES),
        Action::Get(QueueName { model }) => of(Method::GET, model, ""),
        Action::Pause(QueueName { model }) => of(Method::POST, model, "/pause"),
        Action::Resume(QueueName { model }) => of(Method::POST, model, "/resume"),
        Action::Dead { model, limit, cursor } => {
            let cursor = cursor.as_ref().map(|cursor| format!("&cursor={}", segment(cursor))).unwrap_or_default();
            of(Method::GET, model, &format!("/dead?limit={limit}{cursor}")).columns(&jobs::COLUMNS)
        }
        Action::Groups(QueueName { model }) => of(Method::GET, model, "/dead/groups").columns(&GROUPS),
        Action::Redrive(selection) => selection.call(Method::POST, "/redrive"),
        Action::Purge(selection) => selection.call(Method::DELETE, ""),
    };
    tool.service.call(Duration::from_secs(60), call)
}
