//! What a deployment keeps about its periodic tasks in the ledger, and the calls
//! that show and change it: declarations, how far each has been dealt with,
//! pauses, requests to run now, histories.

use crate::schedule::{Crontab, Periodic, RunRecord};
use nobat_core::{Error, ErrorCode, Result};
use nobat_queue::Ledger;
use serde::Serialize;

/// One space holds it all, so that a scheduler reads it in one command. Keys
/// begin with what they are: `task:`, `seen:`, `paused:`, `run:`.
const SPACE: &str = "periodic";
/// Runs kept per task.
const HISTORY: usize = 100;

/// Everything the ledger holds about periodic tasks, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Board {
    pub(crate) tasks: Vec<Periodic>,
    pub(crate) seen: Vec<(String, i64)>,
    pub(crate) paused: Vec<(String, bool)>,
    /// Requests to run now: id and task.
    pub(crate) wanted: Vec<(String, String)>,
}

/// A task as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct TaskView {
    /// Its declaration.
    #[serde(flatten)]
    pub task: Periodic,
    /// The schedule in words.
    pub means: String,
    /// Whether it is paused now.
    pub is_paused: bool,
    /// The next tick, Unix seconds; `None` while paused.
    pub next: Option<i64>,
    /// The newest run.
    pub last_run: Option<RunRecord>,
}

impl Board {
    /// Reads it.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn read(ledger: &dyn Ledger) -> Result<Board> {
        let mut board = Board::default();
        for (key, value) in ledger.documents(SPACE).await? {
            let text = || String::from_utf8_lossy(&value).into_owned();
            match key.split_once(':') {
                Some(("task", name)) => match serde_json::from_slice(&value) {
                    Ok(task) => board.tasks.push(task),
                    Err(error) => log::warn!(task = name; "periodic: a declaration cannot be read: {error}"),
                },
                Some(("seen", name)) => board.seen.extend(text().parse().ok().map(|seen| (name.to_owned(), seen))),
                Some(("paused", name)) => board.paused.push((name.to_owned(), text() == "yes")),
                Some(("run", id)) => board.wanted.push((id.to_owned(), text())),
                _ => {}
            }
        }
        board.tasks.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(board)
    }

    pub(crate) fn seen(&self, name: &str) -> Option<i64> {
        self.seen.iter().find(|(task, _)| task == name).map(|(_, seen)| *seen)
    }

    pub(crate) fn set_seen(&mut self, name: &str, now: i64) {
        self.seen.retain(|(task, _)| task != name);
        self.seen.push((name.to_owned(), now));
    }

    /// Whether a task is paused: what was said last, else its declaration.
    pub(crate) fn is_paused(&self, task: &Periodic) -> bool {
        let said = self.paused.iter().find(|(name, _)| *name == task.name);
        said.map_or(task.paused, |(_, paused)| *paused)
    }

    fn view(&self, task: &Periodic, last_run: Option<RunRecord>, now: i64) -> TaskView {
        let crontab = Crontab::parse(&task.schedule, &task.timezone).ok();
        let is_paused = self.is_paused(task);
        TaskView {
            means: crontab.as_ref().map(Crontab::describe).unwrap_or_default(),
            next: crontab.filter(|_| !is_paused).and_then(|crontab| crontab.next_after(now)),
            is_paused,
            last_run,
            task: task.clone(),
        }
    }

    fn task(&self, name: &str) -> Result<&Periodic> {
        self.tasks.iter().find(|task| task.name == name).ok_or_else(|| {
            let known: Vec<_> = self.tasks.iter().map(|task| task.name.as_str()).collect();
            let known =
                if known.is_empty() { "none is declared".into() } else { format!("tasks: {}", known.join(", ")) };
            Error::new(ErrorCode::RouteNotFound, format!("there is no periodic task `{name}`; {known}"))
        })
    }
}

/// Every task with its next and last run.
///
/// # Errors
/// `queue_unavailable`.
pub async fn list(ledger: &dyn Ledger) -> Result<Vec<TaskView>> {
    let (board, now) = (Board::read(ledger).await?, now(ledger).await?);
    let mut views = Vec::with_capacity(board.tasks.len());
    for task in &board.tasks {
        let last_run = history(ledger, &task.name, 1).await?.pop();
        views.push(board.view(task, last_run, now));
    }
    Ok(views)
}

/// The newest runs of a task, newest first.
///
/// # Errors
/// `queue_unavailable`.
pub async fn history(ledger: &dyn Ledger, name: &str, limit: usize) -> Result<Vec<RunRecord>> {
    let entries = ledger.tail(&history_of(name), limit.min(HISTORY)).await?;
    Ok(entries.iter().filter_map(|entry| serde_json::from_slice(entry).ok()).collect())
}

/// One task and its newest runs, newest first.
///
/// # Errors
/// `route_not_found`; `queue_unavailable`.
pub async fn show(ledger: &dyn Ledger, name: &str, limit: usize) -> Result<(TaskView, Vec<RunRecord>)> {
    let (board, now) = (Board::read(ledger).await?, now(ledger).await?);
    let runs = history(ledger, name, limit).await?;
    Ok((board.view(board.task(name)?, runs.first().cloned(), now), runs))
}

/// Asks for a run now, outside the schedule; a scheduler sees it within seconds.
///
/// # Errors
/// `route_not_found`; `queue_unavailable`.
pub async fn run_now(ledger: &dyn Ledger, name: &str) -> Result<String> {
    Board::read(ledger).await?.task(name)?;
    let id = crate::scheduler::unique();
    ledger.put(SPACE, &format!("run:{id}"), name.as_bytes()).await?;
    Ok(id)
}

/// Pauses or resumes a task. What came due while it was paused is no misfire.
///
/// # Errors
/// `route_not_found`; `queue_unavailable`.
pub async fn set_paused(ledger: &dyn Ledger, name: &str, paused: bool) -> Result<()> {
    Board::read(ledger).await?.task(name)?;
    if !paused {
        put_seen(ledger, name, now(ledger).await?).await?;
    }
    let said: &[u8] = if paused { b"yes" } else { b"no" };
    ledger.put(SPACE, &format!("paused:{name}"), said).await
}

pub(crate) async fn declare(ledger: &dyn Ledger, task: &Periodic) -> Result<()> {
    let json = serde_json::to_vec(task)
        .map_err(|error| Error::new(ErrorCode::Internal, format!("a task cannot be written: {error}")))?;
    ledger.put(SPACE, &format!("task:{}", task.name), &json).await
}

pub(crate) async fn put_seen(ledger: &dyn Ledger, name: &str, seen: i64) -> Result<()> {
    ledger.put(SPACE, &format!("seen:{name}"), seen.to_string().as_bytes()).await
}

pub(crate) async fn answered(ledger: &dyn Ledger, id: &str) -> Result<()> {
    ledger.remove(SPACE, &format!("run:{id}")).await.map(drop)
}

pub(crate) async fn record(ledger: &dyn Ledger, name: &str, run: &RunRecord) -> Result<()> {
    let json = serde_json::to_vec(run)
        .map_err(|error| Error::new(ErrorCode::Internal, format!("a run cannot be written: {error}")))?;
    ledger.append(&history_of(name), &json, HISTORY).await
}

/// The store's clock, Unix seconds.
async fn now(ledger: &dyn Ledger) -> Result<i64> {
    Ok(ledger.now_ms().await? as i64 / 1000)
}

fn history_of(name: &str) -> String {
    format!("periodic:{name}")
}
