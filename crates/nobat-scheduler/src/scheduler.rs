//! The scheduler: looks at the store's clock once a second and hands due runs to
//! the run queue. Every scheduler looks; the queue takes each run once.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apalis_cron::{CronScheduler, Schedule, Tick};
use futures::StreamExt;
use nobat_core::units::unix_ms;
use nobat_core::{Error, Result};
use nobat_queue::{MetadataStore, Queue};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::SchedulerSettings;
use crate::run::{Handler, RunRequest, random_id};
use crate::run_queue::RunQueue;
use crate::runner::Runner;
use crate::schedule::{Crontab, Periodic, RunOutcome, RunRecord, due};
use crate::schedule_store::{ScheduleStore, Schedules};

/// How often the schedules are read for pauses and requests of others.
const READ_EVERY_S: i64 = 2;
/// How long a missed tick's record is claimed for, so that one scheduler writes it.
const MISSED_CLAIM: Duration = Duration::from_secs(86_400);

/// A mark further ahead than this was made under a clock that has been set right
/// since, in seconds. Less is what lies between two looks of a busy machine.
const AHEAD: i64 = 60;

/// Decides, tick by tick, what is enqueued. Pure time: callers pass `now`.
pub struct Scheduler {
    metadata: Arc<dyn MetadataStore>,
    store: ScheduleStore,
    run_queue: RunQueue,
    tasks: Vec<Entry>,
    schedules: Schedules,
    read_at: Option<i64>,
    name: String,
}

struct Entry {
    task: Periodic,
    crontab: Crontab,
    /// Every tick up to here has been dealt with; `None` before the first look.
    seen: Option<i64>,
}

impl Scheduler {
    /// Makes a scheduler of checked tasks.
    pub fn new(
        name: &str,
        tasks: Vec<(Periodic, Crontab)>,
        metadata: Arc<dyn MetadataStore>,
        run_queue: RunQueue,
    ) -> Scheduler {
        let tasks = tasks.into_iter().map(|(task, crontab)| Entry { task, crontab, seen: None }).collect();
        let (store, schedules) = (ScheduleStore::new(metadata.clone()), Schedules::default());
        Scheduler { metadata, store, run_queue, tasks, schedules, read_at: None, name: name.to_owned() }
    }

    /// Publishes the declarations, so that every process can show them.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn declare(&self) -> Result<()> {
        for entry in &self.tasks {
            self.store.declare(&entry.task).await?;
        }
        Ok(())
    }

    /// One look at the clock, in Unix seconds. Enqueues what is due and returns
    /// how many runs were new.
    ///
    /// # Errors
    /// `queue_unavailable`; the next step takes up what this one left.
    pub async fn step(&mut self, now: i64) -> Result<usize> {
        let late = |entry: &Entry| entry.seen.is_none_or(|seen| now - seen > i64::from(entry.task.grace_s));
        // Before anything counts as misfired, see how far the others have come.
        if self.read_at.is_none_or(|at| now.abs_diff(at) >= READ_EVERY_S as u64) || self.tasks.iter().any(late) {
            self.schedules = self.store.read().await?;
            self.read_at = Some(now);
        }
        let mut new = 0;
        for at in 0..self.tasks.len() {
            new += self.step_task(at, now).await?;
        }
        new += self.answer_requests(now).await?;
        Ok(new)
    }

    async fn step_task(&mut self, at: usize, now: i64) -> Result<usize> {
        let entry = &self.tasks[at];
        let task = &entry.task;
        let shared = self.schedules.seen(&task.name);
        if self.schedules.is_paused(task) {
            // Comes back at the instant of its resumption, which the store tells.
            self.tasks[at].seen = None;
            return Ok(0);
        }
        let seen = match entry.seen.max(shared) {
            Some(seen) if seen <= now + AHEAD => seen,
            ahead => {
                // Where the clock was wrong, ticks between now and the mark were not
                // due; those that ran all the same are known by their keys.
                if let Some(ahead) = ahead {
                    log::warn!(task = task.name.as_str(), ahead_s = ahead - now; "periodic: `{}` was dealt with up to a time that is yet to come: the clock was set back; it goes on from now", task.name);
                }
                self.store.put_seen(&task.name, now).await?;
                self.schedules.seen.insert(task.name.to_string(), now);
                self.tasks[at].seen = Some(now);
                return Ok(0);
            }
        };
        let ticks = due(&entry.crontab, seen, now, task.grace_s, task.misfire);
        let mut new = 0;
        for &tick in &ticks.run {
            if self.run_queue.push(&RunRequest::at(task, tick)).await? {
                new += 1;
                log::info!(task = task.name.as_str(), tick; "periodic: enqueued `{}`", task.name);
            }
        }
        if let Some(tick) = ticks.skipped {
            self.record_missed(task, tick).await?;
        }
        if !ticks.run.is_empty() || ticks.skipped.is_some() {
            self.store.put_seen(&task.name, ticks.seen).await?;
        }
        self.tasks[at].seen = Some(ticks.seen);
        Ok(new)
    }

    async fn record_missed(&self, task: &Periodic, tick: i64) -> Result<()> {
        if !self.metadata.lock(&format!("missed:{}@{tick}", task.name), &self.name, MISSED_CLAIM).await? {
            return Ok(());
        }
        log::warn!(task = task.name.as_str(), tick; "periodic: `{}` was missed and is skipped (misfire policy)", task.name);
        let run = RunRecord {
            tick,
            outcome: RunOutcome::Missed,
            started_at_ms: unix_ms(SystemTime::now()),
            message: "nobody looked at its time; misfire policy `skip`".into(),
            scheduler: self.name.clone(),
            ..RunRecord::default()
        };
        self.store.record(&task.name, &run).await
    }

    /// Enqueues what somebody asked for. Pushed before it is taken off the
    /// store: killed between the two, the same key is pushed again and refused.
    async fn answer_requests(&mut self, now: i64) -> Result<usize> {
        let mut new = 0;
        for (id, name) in std::mem::take(&mut self.schedules.wanted) {
            if !self.tasks.iter().any(|entry| entry.task.name == name) {
                continue;
            }
            let run = RunRequest { task: name.as_str().into(), tick: now, manual: true, key: format!("{name}!{id}") };
            new += usize::from(self.run_queue.push(&run).await?);
            self.store.answered(&id).await?;
        }
        Ok(new)
    }
}

/// A scheduler at work in this process.
pub struct SchedulerHandle {
    stop: watch::Sender<bool>,
    /// The beat, and the thread that carries runs out; none without tasks.
    at_work: Option<(JoinHandle<()>, std::thread::JoinHandle<()>)>,
}

impl SchedulerHandle {
    /// Stops looking and taking runs; a run in flight is taken up by another
    /// scheduler, or by the next one to start.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let Some((beat, worker)) = self.at_work else { return };
        beat.abort();
        let _ = beat.await;
        let _ = tokio::task::spawn_blocking(move || worker.join()).await;
    }
}

/// Starts scheduling and running `settings`' tasks around a queue: the one at `redis`
/// under `prefix`, or the embedded store's (no URL). Call it inside a tokio runtime.
///
/// # Errors
/// `invalid_parameter` for a task that is wrong; `queue_unavailable`.
pub async fn start(
    settings: &SchedulerSettings,
    queue: Arc<dyn Queue>,
    redis: &str,
    prefix: &str,
) -> Result<SchedulerHandle> {
    let metadata = queue.metadata();
    let run_queue = RunQueue::around(metadata.clone(), redis, prefix);
    start_on(settings, queue, metadata, run_queue).await
}

/// As [`start`], on a metadata store that need not be the queue's own.
#[doc(hidden)]
pub async fn start_on(
    settings: &SchedulerSettings,
    queue: Arc<dyn Queue>,
    metadata: Arc<dyn MetadataStore>,
    run_queue: RunQueue,
) -> Result<SchedulerHandle> {
    let tasks = settings.check()?;
    let (stop, stopped) = watch::channel(false);
    if tasks.is_empty() || !settings.enabled {
        return Ok(SchedulerHandle { stop, at_work: None });
    }
    let name = format!("scheduler-{}", random_id());
    let mut scheduler = Scheduler::new(&name, tasks.clone(), metadata.clone(), run_queue.clone());
    scheduler.declare().await?;
    let tasks = tasks.into_iter().map(|(task, _)| task).collect();
    let runner = Arc::new(Runner::new(&name, tasks, queue, metadata, run_queue.clone())?);
    let handler: Handler = Arc::new(move |run| {
        let runner = runner.clone();
        Box::pin(async move { runner.run(run).await })
    });
    log::info!(scheduler = name.as_str(); "periodic: {} tasks are scheduled", scheduler.tasks.len());
    let system = |error| Error::internal(format!("cannot start the thread of periodic tasks: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
    let worker = std::thread::Builder::new()
        .name("nobat-periodic".into())
        .spawn(move || runtime.block_on(run_queue.work(name, handler, stopped)))
        .map_err(system)?;
    let beat = tokio::spawn(async move {
        let mut failing = false;
        loop {
            // apalis-cron ends its stream when a tick is in the past (a suspend,
            // a clock set forward): a new stream begins at the next second.
            let mut beat = std::pin::pin!(CronScheduler::new(EverySecond).into_stream());
            while let Some(Ok(_)) = beat.next().await {
                let done = match scheduler.store.now().await {
                    Ok(now) => scheduler.step(now).await,
                    Err(error) => Err(error),
                };
                match done {
                    Ok(_) if std::mem::take(&mut failing) => log::info!("periodic: looking at the clock again"),
                    Ok(_) => {}
                    // Said once: what follows from one outage is one thing.
                    Err(error) if !std::mem::replace(&mut failing, true) => {
                        log::warn!("periodic: this look is made up for by a later one: {error}");
                    }
                    Err(error) => log::debug!("periodic: the store is still away: {error}"),
                }
            }
        }
    });
    Ok(SchedulerHandle { stop, at_work: Some((beat, worker)) })
}

/// The beat: the next whole second, reckoned from the clock each time.
struct EverySecond;

impl<Tz> Schedule<Tz> for EverySecond {
    fn next_tick(&mut self, _: &Tz) -> Option<Tick<Tz>> {
        Some(Tick::new(unix_ms(SystemTime::now()) / 1000 + 1))
    }
}
