//! What a deployment keeps about its periodic tasks in the metadata store, and the calls
//! that show and change it: declarations, how far each has been dealt with,
//! pauses, requests to run now, histories.

use std::collections::HashMap;
use std::sync::Arc;

use nobat_core::{Error, ErrorCode, Result};
use nobat_queue::MetadataStore;
use serde::Serialize;

use crate::run::{random_id, to_json};
use crate::schedule::{Crontab, Periodic, RunRecord};

/// One space holds it all, so that a scheduler reads it in one command. Keys
/// begin with what they are: `task:`, `seen:`, `paused:`, `run:`.
const SPACE: &str = "periodic";
/// Runs kept per task.
const HISTORY: usize = 100;

/// The schedules of a deployment. Cheap to clone.
#[derive(Clone)]
pub struct ScheduleStore(Arc<dyn MetadataStore>);

/// Everything the metadata store holds about periodic tasks, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedules {
    pub(crate) tasks: Vec<Periodic>,
    pub(crate) seen: HashMap<String, i64>,
    paused: HashMap<String, bool>,
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

impl Schedules {
    pub(crate) fn seen(&self, name: &str) -> Option<i64> {
        self.seen.get(name).copied()
    }

    /// Whether a task is paused: what was said last, else its declaration.
    pub(crate) fn is_paused(&self, task: &Periodic) -> bool {
        self.paused.get(task.name.as_str()).copied().unwrap_or(task.paused)
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

impl ScheduleStore {
    /// The schedules in this metadata.
    pub fn new(metadata: Arc<dyn MetadataStore>) -> ScheduleStore {
        ScheduleStore(metadata)
    }

    /// Reads everything.
    pub(crate) async fn read(&self) -> Result<Schedules> {
        let mut schedules = Schedules::default();
        for (key, value) in self.0.documents(SPACE).await? {
            let text = || String::from_utf8_lossy(&value).into_owned();
            match key.split_once(':') {
                Some(("task", name)) => match serde_json::from_slice(&value) {
                    Ok(task) => schedules.tasks.push(task),
                    Err(error) => log::warn!(task = name; "periodic: a declaration cannot be read: {error}"),
                },
                Some(("seen", name)) => schedules.seen.extend(text().parse().ok().map(|seen| (name.to_owned(), seen))),
                Some(("paused", name)) => drop(schedules.paused.insert(name.to_owned(), text() == "yes")),
                Some(("run", id)) => schedules.wanted.push((id.to_owned(), text())),
                _ => {}
            }
        }
        schedules.tasks.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(schedules)
    }

    /// Every task with its next and last run.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn list(&self) -> Result<Vec<TaskView>> {
        let (schedules, now) = (self.read().await?, self.now().await?);
        let mut views = Vec::with_capacity(schedules.tasks.len());
        for task in &schedules.tasks {
            let last_run = self.history(&task.name, 1).await?.pop();
            views.push(schedules.view(task, last_run, now));
        }
        Ok(views)
    }

    /// The newest runs of a task, newest first.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn history(&self, name: &str, limit: usize) -> Result<Vec<RunRecord>> {
        let entries = self.0.tail(&history_of(name), limit.min(HISTORY)).await?;
        Ok(entries.iter().filter_map(|entry| serde_json::from_slice(entry).ok()).collect())
    }

    /// One task and its newest runs, newest first.
    ///
    /// # Errors
    /// `route_not_found`; `queue_unavailable`.
    pub async fn show(&self, name: &str, limit: usize) -> Result<(TaskView, Vec<RunRecord>)> {
        let (schedules, now) = (self.read().await?, self.now().await?);
        let runs = self.history(name, limit).await?;
        Ok((schedules.view(schedules.task(name)?, runs.first().cloned(), now), runs))
    }

    /// Asks for a run now, outside the schedule; a scheduler sees it within seconds.
    ///
    /// # Errors
    /// `route_not_found`; `queue_unavailable`.
    pub async fn run_now(&self, name: &str) -> Result<String> {
        self.read().await?.task(name)?;
        let id = random_id();
        self.0.put(SPACE, &format!("run:{id}"), name.as_bytes()).await?;
        Ok(id)
    }

    /// Pauses or resumes a task. What came due while it was paused is no misfire.
    ///
    /// # Errors
    /// `route_not_found`; `queue_unavailable`.
    pub async fn set_paused(&self, name: &str, paused: bool) -> Result<()> {
        self.read().await?.task(name)?;
        if !paused {
            self.put_seen(name, self.now().await?).await?;
        }
        let said: &[u8] = if paused { b"yes" } else { b"no" };
        self.0.put(SPACE, &format!("paused:{name}"), said).await
    }

    pub(crate) async fn declare(&self, task: &Periodic) -> Result<()> {
        self.0.put(SPACE, &format!("task:{}", task.name), &to_json(task)?).await
    }

    pub(crate) async fn put_seen(&self, name: &str, seen: i64) -> Result<()> {
        self.0.put(SPACE, &format!("seen:{name}"), seen.to_string().as_bytes()).await
    }

    pub(crate) async fn answered(&self, id: &str) -> Result<()> {
        self.0.remove(SPACE, &format!("run:{id}")).await.map(drop)
    }

    pub(crate) async fn record(&self, name: &str, run: &RunRecord) -> Result<()> {
        self.0.append(&history_of(name), &to_json(run)?, HISTORY).await
    }

    /// The store's clock, Unix seconds.
    pub(crate) async fn now(&self) -> Result<i64> {
        Ok(self.0.now_ms().await? as i64 / 1000)
    }
}

fn history_of(name: &str) -> String {
    format!("periodic:{name}")
}
