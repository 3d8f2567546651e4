//! `nobat jobs`: look at jobs, wait for one, cancel or retry it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Subcommand;
use nobat_core::units::whole_seconds;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::client::{Call, Service, Tool, block_on, segment};
use crate::table::Columns;

/// A list of jobs.
pub(crate) const COLUMNS: Columns = Columns {
    list: "jobs",
    paths: &["id", "model", "state", "priority", "attempts", "created_at|created_at_ms", "error.message"],
    empty: "no such jobs",
};

/// Longest one long poll; the loop goes on until the caller's time is up.
const POLL_S: u64 = 30;

/// List, show, wait for, cancel and retry jobs.
#[derive(Subcommand)]
#[command(after_help = "Examples:\n  \
    nobat jobs list --model digits --state dead\n  \
    nobat jobs wait ID --timeout 300\n  \
    nobat jobs cancel ID")]
pub(crate) enum Action {
    /// List jobs.
    List {
        /// Only this model's.
        #[arg(long)]
        model: Option<String>,
        /// Only this state: scheduled, queued, leased, failed, succeeded, dead, cancelled or expired.
        #[arg(long)]
        state: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Where the page before ended.
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Show a job.
    Get(Id),
    /// Print a job's result, waiting until there is one.
    Wait {
        /// The job's id.
        id: String,
        /// How long to wait: seconds, or a duration such as 5m.
        #[arg(long, default_value = "60", value_parser = whole_seconds, value_name = "DURATION")]
        timeout: u64,
    },
    /// Cancel a job that has not finished.
    Cancel(Id),
    /// Send a dead job back to its queue, its attempts forgotten.
    Retry(Id),
}

#[derive(clap::Args)]
pub(crate) struct Id {
    /// The job's id.
    id: String,
}

pub(crate) fn run(tool: Tool<Action>) -> Result<()> {
    let call = match &tool.action {
        Action::List { model, state, limit, cursor } => {
            let mut path = format!("/api/v1/jobs?limit={limit}");
            for (key, value) in [("model", model), ("state", state), ("cursor", cursor)] {
                if let Some(value) = value {
                    path += &format!("&{key}={}", segment(value));
                }
            }
            Call::new(Method::GET, path)
        }
        Action::Get(Id { id }) => Call::new(Method::GET, job(id)),
        Action::Wait { id, timeout } => return wait(&tool.service, id, Duration::from_secs(*timeout)),
        Action::Cancel(Id { id }) => Call::new(Method::POST, format!("{}/cancel", job(id))),
        Action::Retry(Id { id }) => Call::new(Method::POST, format!("{}/retry", job(id))),
    };
    tool.service.call(Duration::from_secs(POLL_S + 10), call.columns(&COLUMNS))
}

fn job(id: &str) -> String {
    format!("/api/v1/jobs/{}", segment(id))
}

fn wait(service: &Service, id: &str, timeout: Duration) -> Result<()> {
    let client = service.server.client(Duration::from_secs(POLL_S + 10))?;
    let end = Instant::now() + timeout;
    block_on(async {
        loop {
            let left_s = end.saturating_duration_since(Instant::now()).as_secs_f64();
            let path = format!("{}/result?wait={:.3}", job(id), left_s.min(POLL_S as f64));
            let (status, answer) = client.json(client.request(Method::GET, &path)).await?;
            if status != StatusCode::ACCEPTED {
                return service.print(&answer, None);
            }
            if Instant::now() >= end {
                let state = answer.get("state").and_then(Value::as_str).unwrap_or("unfinished");
                bail!("job {id} is {state} after {} s", timeout.as_secs());
            }
        }
    })
}
