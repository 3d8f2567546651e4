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
    paths: &["id", "model", "state", "priority", "attempts", "created_at|created_at_ms", "tags", "error.message"],
    empty: "no such jobs",
};

const OPERATIONS: Columns = Columns {
    list: "operations",
    paths: &["id", "action", "filter", "state", "done", "skipped", "failed", "by", "started_at_ms", "error"],
    empty: "many jobs were never changed at once",
};
/// How often an operation is asked how far it is.
const FOLLOW_EVERY: Duration = Duration::from_millis(300);

/// Longest one long poll; the loop goes on until the caller's time is up.
const POLL_S: u64 = 30;

/// List, show, wait for, cancel and retry jobs.
#[derive(Subcommand)]
#[command(after_help = "Examples:\n  \
    nobat jobs list --model digits --state dead\n  \
    nobat jobs wait ID --timeout 300\n  \
    nobat jobs cancel ID\n  \
    nobat jobs list --tag team=vision --error inference_failed\n  \
    nobat jobs cancel --tag nightly --all")]
pub(crate) enum Action {
    /// List jobs.
    List {
        #[command(flatten)]
        filter: Filter,
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
    /// Cancel a job that has not finished, or with --all whatever the filter finds.
    Cancel(Chosen),
    /// Send a dead job back to its queue, its attempts forgotten, or with --all whatever the filter finds.
    Retry(Chosen),
    /// Delete for good what of the dead jobs the filter finds; needs --all.
    Delete(Chosen),
    /// List the changes of many jobs, or show one.
    Operations {
        /// The operation's id.
        id: Option<String>,
        /// Stop it; what it has changed stays so.
        #[arg(long, requires = "id")]
        stop: bool,
    },
}

/// Which jobs.
#[derive(clap::Args, Default)]
pub(crate) struct Filter {
    /// Only this model's.
    #[arg(long)]
    model: Option<String>,
    /// Only this state: scheduled, queued, leased, failed, succeeded, dead, cancelled or expired.
    #[arg(long)]
    state: Option<String>,
    /// Only with this tag.
    #[arg(long)]
    tag: Option<String>,
    /// Only those that were made for the job of this id: a chain's steps elsewhere, a route's.
    #[arg(long, value_name = "JOB")]
    parent: Option<String>,
    /// Only those whose last error has this code, such as inference_failed.
    #[arg(long, value_name = "CODE")]
    error: Option<String>,
    /// Only of this priority.
    #[arg(long)]
    priority: Option<u8>,
    /// Only of the key with this id; for administrators.
    #[arg(long, value_name = "KEY")]
    owner: Option<String>,
    /// Only enqueued then or later: RFC 3339, or a duration before now such as 15m.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only enqueued before then.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only the job of this id or idempotency key, those with this tag, and those of this request id.
    #[arg(long = "find", value_name = "TEXT")]
    q: Option<String>,
}

impl Filter {
    /// As a query string, each pair after an `&`.
    fn query(&self) -> String {
        let priority = self.priority.map(|priority| priority.to_string());
        let pairs = [
            ("model", &self.model),
            ("state", &self.state),
            ("tag", &self.tag),
            ("parent", &self.parent),
            ("error", &self.error),
            ("priority", &priority),
            ("owner", &self.owner),
            ("since", &self.since),
            ("until", &self.until),
            ("q", &self.q),
        ];
        let given = pairs.into_iter().filter_map(|(key, value)| value.as_ref().map(|value| (key, value)));
        given.map(|(key, value)| format!("&{key}={}", segment(value))).collect()
    }
}

/// One job, or many.
#[derive(clap::Args)]
pub(crate) struct Chosen {
    /// The job's id.
    #[arg(conflicts_with = "all", required_unless_present = "all")]
    id: Option<String>,
    /// All jobs that the filter finds, in the background; without a filter every one of yours.
    #[arg(long)]
    all: bool,
    /// Only say how many they are.
    #[arg(long, requires = "all")]
    dry_run: bool,
    #[command(flatten)]
    filter: Filter,
}

#[derive(clap::Args)]
pub(crate) struct Id {
    /// The job's id.
    id: String,
}

pub(crate) fn run(tool: Tool<Action>) -> Result<()> {
    let call = match &tool.action {
        Action::List { filter, limit, cursor } => {
            let cursor = cursor.as_ref().map(|cursor| format!("&cursor={}", segment(cursor))).unwrap_or_default();
            Call::new(Method::GET, format!("/api/v1/jobs?limit={limit}{}{cursor}", filter.query()))
        }
        Action::Get(Id { id }) => Call::new(Method::GET, job(id)),
        Action::Wait { id, timeout } => return wait(&tool.service, id, Duration::from_secs(*timeout)),
        Action::Cancel(chosen) => return change(&tool.service, chosen, "cancel"),
        Action::Retry(chosen) => return change(&tool.service, chosen, "retry"),
        Action::Delete(chosen) => return change(&tool.service, chosen, "delete"),
        Action::Operations { id: None, .. } => {
            let call = Call::new(Method::GET, "/api/v1/jobs/operations").columns(&OPERATIONS);
            return tool.service.call(Duration::from_secs(POLL_S), call);
        }
        Action::Operations { id: Some(id), stop } => {
            let method = if *stop { Method::DELETE } else { Method::GET };
            Call::new(method, format!("/api/v1/jobs/operations/{}", segment(id)))
        }
    };
    tool.service.call(Duration::from_secs(POLL_S + 10), call.columns(&COLUMNS))
}

/// Changes one job, or begins the change of many and follows it to its end.
fn change(service: &Service, chosen: &Chosen, action: &str) -> Result<()> {
    match &chosen.id {
        Some(_) if action == "delete" => bail!("dead jobs are deleted with --all and a filter, such as --find ID"),
        Some(id) => {
            let call = Call::new(Method::POST, format!("{}/{action}", job(id)));
            return service.call(Duration::from_secs(POLL_S), call.columns(&COLUMNS));
        }
        None => {}
    }
    let path =
        format!("/api/v1/jobs/operations?action={action}&all=true&dry_run={}{}", chosen.dry_run, chosen.filter.query());
    let client = service.server.client(Duration::from_secs(POLL_S))?;
    let last = block_on(async {
        let mut answer = client.json(client.request(Method::POST, &path)).await?.1;
        while answer.get("state").and_then(Value::as_str) == Some("running") {
            tokio::time::sleep(FOLLOW_EVERY).await;
            let id = answer.get("id").and_then(Value::as_str).unwrap_or_default();
            let path = format!("/api/v1/jobs/operations/{}", segment(id));
            answer = client.json(client.request(Method::GET, &path)).await?.1;
        }
        Ok(answer)
    })?;
    service.print(&last, None)?;
    match last.get("state").and_then(Value::as_str) {
        None | Some("finished") => Ok(()),
        Some(state) => bail!("the operation is {state}"),
    }
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
