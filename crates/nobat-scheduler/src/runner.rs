//! Carries out one run: overlap, attempts, timeout, history.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nobat_core::units::unix_ms;
use nobat_core::{Error, ErrorCode, Result};
use nobat_queue::{MetadataStore, Queue};

use crate::kinds::{self, Done, Services};
use crate::run::RunRequest;
use crate::run_queue::RunQueue;
use crate::schedule::{Overlap, Periodic, RunOutcome, RunRecord};
use crate::schedule_store::ScheduleStore;

/// How long a running task stays claimed after its runner died.
const CLAIM: Duration = Duration::from_secs(30);
const PROLONG: Duration = Duration::from_secs(10);
/// How often a queued run asks whether the earlier one has ended.
const ASK: Duration = Duration::from_millis(500);

/// Carries runs out in the name of one scheduler.
pub(crate) struct Runner {
    name: String,
    tasks: Vec<Periodic>,
    services: Services,
    store: ScheduleStore,
}

impl Runner {
    /// # Errors
    /// `internal` when TLS cannot be set up.
    pub(crate) fn new(
        name: &str,
        tasks: Vec<Periodic>,
        queue: Arc<dyn Queue>,
        metadata: Arc<dyn MetadataStore>,
        run_queue: RunQueue,
    ) -> Result<Runner> {
        let store = ScheduleStore::new(metadata.clone());
        Ok(Runner { name: name.to_owned(), tasks, services: Services::new(queue, metadata, run_queue)?, store })
    }

    /// Carries a run out and records it. Never fails: what went wrong is in the
    /// history and the log.
    pub(crate) async fn run(&self, run: RunRequest) {
        let (started, name) = (Instant::now(), run.task.as_str());
        let mut record = RunRecord {
            tick: run.tick,
            manual: run.manual,
            started_at_ms: unix_ms(SystemTime::now()),
            scheduler: self.name.clone(),
            ..RunRecord::default()
        };
        match self.tasks.iter().find(|task| task.name == run.task) {
            Some(task) => {
                let (attempts, outcome) = self.alone(task, &run).await;
                record.attempts = attempts;
                record.duration_ms = started.elapsed().as_millis() as u64;
                (record.outcome, record.message) = match outcome {
                    Ok(Some(Done { message, exit_code, output, job })) => {
                        (record.exit_code, record.output, record.job) = (exit_code, output, job);
                        (RunOutcome::Succeeded, message)
                    }
                    Ok(None) => {
                        (RunOutcome::Skipped, "an earlier run was still going; overlap policy `skip`".to_owned())
                    }
                    Err(error) => (RunOutcome::Failed, error.message),
                };
            }
            // A declaration out of the store is not run: a command must be the operator's.
            None => {
                record.message =
                    "the scheduler that took it does not declare it; give every scheduler the same [scheduler] section"
                        .into();
            }
        }
        let (ms, message) = (record.duration_ms, &record.message);
        if record.outcome == RunOutcome::Failed {
            log::warn!(task = name, attempts = record.attempts; "periodic: `{name}` failed: {message}");
        } else {
            log::info!(task = name, ms; "periodic: `{name}`: {message}");
        }
        if let Err(error) = self.store.record(name, &record).await {
            log::warn!(task = name; "periodic: a run is not in the history: {error}");
        }
    }

    /// Carries a run out beside earlier ones of its task as the overlap policy says;
    /// attempts, and what came of them: nothing where it was skipped.
    async fn alone(&self, task: &Periodic, run: &RunRequest) -> (u32, Result<Option<Done>>) {
        if task.overlap == Overlap::Allow {
            return self.attempts(task, run).await;
        }
        let (metadata, claim) = (&self.services.metadata, format!("running:{}", task.name));
        match self.take(task, &claim, &run.key).await {
            Err(error) => return (0, Err(error)),
            Ok(false) => return (0, Ok(None)),
            Ok(true) => {}
        }
        let done = tokio::select! {
            done = self.attempts(task, run) => done,
            () = self.prolong(&claim, &run.key) => (0, Err(Error::internal("the claim ended"))),
        };
        if let Err(error) = metadata.unlock(&claim, &run.key).await {
            log::warn!(task = task.name.as_str(); "periodic: the claim runs out by itself: {error}");
        }
        done
    }

    /// Waits, or not, until no earlier run is going.
    async fn take(&self, task: &Periodic, claim: &str, key: &str) -> Result<bool> {
        loop {
            if self.services.metadata.lock(claim, key, CLAIM).await? {
                return Ok(true);
            }
            if task.overlap == Overlap::Skip {
                return Ok(false);
            }
            tokio::time::sleep(ASK).await;
        }
    }

    /// Keeps the claim for as long as it is polled.
    async fn prolong(&self, claim: &str, key: &str) {
        loop {
            tokio::time::sleep(PROLONG).await;
            if let Err(error) = self.services.metadata.lock(claim, key, CLAIM).await {
                log::debug!("periodic: the claim is prolonged later: {error}");
            }
        }
    }

    async fn attempts(&self, task: &Periodic, run: &RunRequest) -> (u32, Result<Option<Done>>) {
        let timeout = Duration::from_secs(u64::from(task.timeout_s));
        for attempt in 1.. {
            let error = match tokio::time::timeout(timeout, kinds::carry_out(&self.services, task, run)).await {
                Ok(Ok(done)) => return (attempt, Ok(Some(done))),
                Ok(Err(error)) => error,
                Err(_) => Error::new(
                    ErrorCode::DeadlineExceeded,
                    format!("it took longer than timeout_s = {}; raise it or do less", task.timeout_s),
                ),
            };
            match task.retry.next_delay(attempt, unix_ms(SystemTime::now()) as u32) {
                Some(delay) => {
                    log::info!(task = task.name.as_str(), attempt; "periodic: `{}` is tried again: {error}", task.name);
                    tokio::time::sleep(delay).await;
                }
                None => return (attempt, Err(error)),
            }
        }
        (0, Ok(None))
    }
}
