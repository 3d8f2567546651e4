//! `nobat cron`: periodic tasks shown, run now, paused and resumed.

use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use reqwest::Method;

use crate::client::{Call, Tool, segment};
use crate::table::Columns;

const TASKS: Columns = Columns {
    list: "tasks",
    paths: &[
        "name",
        "schedule",
        "timezone",
        "next",
        "is_paused",
        "last_run.outcome",
        "last_run.tick",
        "last_run.message",
    ],
    empty: "no periodic task is declared; see [[scheduler.periodic]] in docs/CONFIG.md",
};

/// Show and steer periodic tasks.
#[derive(Subcommand)]
#[command(after_help = "Examples:\n  \
    nobat cron list\n  \
    nobat cron show refresh --limit 5     its schedule and its newest runs\n  \
    nobat cron run refresh                now, beside its schedule\n  \
    nobat cron pause refresh\n\n\
    Tasks are declared in the configuration: [[scheduler.periodic]], see docs/CONFIG.md.")]
pub(crate) enum Action {
    /// Every task with its schedule in words, next tick and newest run.
    List,
    /// One task with its newest runs.
    Show {
        /// The task's name.
        name: String,
        /// At most so many runs.
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Run it now, beside its schedule.
    Run(TaskName),
    /// Let its ticks pass; what runs goes on.
    Pause(TaskName),
    /// Run it on its schedule again; ticks that passed are not made up for.
    Resume(TaskName),
}

#[derive(clap::Args)]
pub(crate) struct TaskName {
    /// The task's name.
    name: String,
}

pub(crate) fn run(tool: Tool<Action>) -> Result<()> {
    let task = |name: &str, end: &str| format!("/api/v1/periodic/{}{end}", segment(name));
    let call = match &tool.action {
        Action::List => Call::new(Method::GET, "/api/v1/periodic"),
        Action::Show { name, limit } => Call::new(Method::GET, task(name, &format!("?limit={limit}"))),
        Action::Run(TaskName { name }) => Call::new(Method::POST, task(name, "/run")),
        Action::Pause(TaskName { name }) => Call::new(Method::POST, task(name, "/pause")),
        Action::Resume(TaskName { name }) => Call::new(Method::POST, task(name, "/resume")),
    };
    tool.service.call(Duration::from_secs(60), call.columns(&TASKS))
}
