//! Carries out one run: overlap, attempts, timeout, history.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::schedule::{Overlap, Periodic, RunOutcome, RunRecord};
use nobat_core::{Error, ErrorCode, Result};
use nobat_queue::{Lane, Ledger, Queue};

use crate::board;
use crate::carrier::{Carrier, RunRequest};
use crate::kinds::{self, Done};
use crate::scheduler::now_ms;

/// How long a running task stays claimed after its runner died.
const CLAIM: Duration = Duration::from_secs(30);
const PROLONG: Duration = Duration::from_secs(10);
/// How often a queued run asks whether the earlier one has ended.
const ASK: Duration = Duration::from_millis(500);

/// Everything a run may need. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Runner {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    name: String,
    tasks: Vec<Periodic>,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) lane: Arc<dyn Lane>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) carrier: Carrier,
    pub(crate) http: reqwest::Client,
}

impl Runner {
    /// # Errors
    /// `internal` when TLS cannot be set up.
    pub(crate) fn new(
        name: &str,
        tasks: Vec<Periodic>,
        queue: Arc<dyn Queue>,
        ledger: Arc<dyn Ledger>,
        carrier: Carrier,
    ) -> Result<Runner> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("nobat/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .build()
            .map_err(|e| Error::new(ErrorCode::Internal, format!("cannot set up the fetching client: {e}")))?;
        let lane = queue.lane();
        Ok(Runner { inner: Arc::new(Inner { name: name.to_owned(), tasks, queue, lane, ledger, carrier, http }) })
    }

    /// Carries a run out and records it. Never fails: what went wrong is in the
    /// history and the log.
    pub(crate) async fn run(&self, run: RunRequest) {
        let inner = &self.inner;
        let Some(task) = inner.tasks.iter().find(|task| task.name == run.task) else {
            // A declaration out of the store is not run: a command must be the operator's.
            let why =
                "the scheduler that took it does not declare it; give every scheduler the same [scheduler] section";
            log::warn!(task = run.task.as_str(); "periodic: `{}` is not run: {why}", run.task);
            let record = RunRecord {
                tick: run.tick,
                manual: run.manual,
                outcome: RunOutcome::Failed,
                attempts: 0,
                started_at_ms: now_ms(),
                duration_ms: 0,
                message: why.into(),
                exit_code: None,
                output: String::new(),
                job: None,
                scheduler: inner.name.clone(),
            };
            if let Err(error) = board::record(&*inner.ledger, &run.task, &record).await {
                log::warn!(task = run.task.as_str(); "periodic: a run is not in the history: {error}");
            }
            return;
        };
        let started = Instant::now();
        let started_at_ms = now_ms();
        let claim = format!("running:{}", task.name);
        let (attempts, outcome) = match task.overlap {
            Overlap::Allow => self.attempts(task, &run).await,
            Overlap::Skip | Overlap::Queue => match self.take(task, &claim, &run.key).await {
                Err(error) => (0, Err(error)),
                Ok(false) => (0, Ok(None)),
                Ok(true) => {
                    let done = tokio::select! {
                        done = self.attempts(task, &run) => done,
                        () = self.prolong(&claim, &run.key) => (0, Err(Error::new(ErrorCode::Internal, "the claim ended"))),
                    };
                    if let Err(error) = inner.ledger.release(&claim, &run.key).await {
                        log::warn!(task = task.name.as_str(); "periodic: the claim runs out by itself: {error}");
                    }
                    done
                }
            },
        };
        let record = RunRecord {
            tick: run.tick,
            manual: run.manual,
            outcome: match &outcome {
                Ok(Some(_)) => RunOutcome::Succeeded,
                Ok(None) => RunOutcome::Skipped,
                Err(_) => RunOutcome::Failed,
            },
            attempts,
            started_at_ms,
            duration_ms: started.elapsed().as_millis() as u64,
            message: match &outcome {
                Ok(Some(done)) => done.message.clone(),
                Ok(None) => "an earlier run was still going; overlap policy `skip`".into(),
                Err(error) => error.message.clone(),
            },
            exit_code: outcome.as_ref().ok().and_then(|done| done.as_ref()?.exit_code),
            output: outcome.as_ref().ok().and_then(|done| Some(done.as_ref()?.output.clone())).unwrap_or_default(),
            job: outcome.as_ref().ok().and_then(|done| done.as_ref()?.job.clone()),
            scheduler: inner.name.clone(),
        };
        match &outcome {
            Ok(_) => {
                log::info!(task = task.name.as_str(), ms = record.duration_ms; "periodic: `{}`: {}", task.name, record.message)
            }
            Err(_) => {
                log::warn!(task = task.name.as_str(), attempts; "periodic: `{}` failed: {}", task.name, record.message)
            }
        }
        if let Err(error) = board::record(&*inner.ledger, &task.name, &record).await {
            log::warn!(task = task.name.as_str(); "periodic: a run is not in the history: {error}");
        }
    }

    /// Waits, or not, until no earlier run is going.
    async fn take(&self, task: &Periodic, claim: &str, key: &str) -> Result<bool> {
        loop {
            if self.inner.ledger.claim(claim, key, CLAIM).await? {
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
            if let Err(error) = self.inner.ledger.claim(claim, key, CLAIM).await {
                log::debug!("periodic: the claim is prolonged later: {error}");
            }
        }
    }

    async fn attempts(&self, task: &Periodic, run: &RunRequest) -> (u32, Result<Option<Done>>) {
        let timeout = Duration::from_secs(u64::from(task.timeout_s));
        for attempt in 1.. {
            let error = match tokio::time::timeout(timeout, kinds::carry_out(&self.inner, task, run)).await {
                Ok(Ok(done)) => return (attempt, Ok(Some(done))),
                Ok(Err(error)) => error,
                Err(_) => Error::new(
                    ErrorCode::DeadlineExceeded,
                    format!("it took longer than timeout_s = {}; raise it or do less", task.timeout_s),
                ),
            };
            match task.retry.next_delay(attempt, now_ms() as u32) {
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
