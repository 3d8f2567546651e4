//! Carries out the jobs of chains that one session leases, beside that session.
//!
//! Invariants:
//! - A job is settled once: by its run, or given back by a drain, whichever takes it out of
//!   `running` first.
//! - No more jobs are under way than the chain allows; what is over that stays queued.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use nobat_core::ErrorCode;
use nobat_core::job::{Outcome, Settlement};
use nobat_core::statistics::BatchTimes;
use nobat_queue::backend::{Lease, LeaseTracker};
use nobat_runtime::traces::Span;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::loaded::LoadedChain;
use super::run::{ChainAnswer, ChainRun};
use super::site::{ChainJob, Site};
use super::step_call::StepFailure;
use crate::model::Version;
use crate::run::answer::{failed, pack_tensors, timings, waits};
use crate::run::failure::Failure;
use crate::watchdog::Ended;

/// One session's chains.
pub(crate) struct ChainRunner {
    site: Arc<Site>,
    tracker: Arc<LeaseTracker>,
    /// Tells the session that a job is settled.
    wake: Arc<Notify>,
    running: Arc<Mutex<BTreeMap<Lease, JoinHandle<()>>>>,
}

impl ChainRunner {
    /// Settles through `tracker` and tells `wake`.
    pub(crate) fn new(site: Arc<Site>, tracker: Arc<LeaseTracker>, wake: Arc<Notify>) -> ChainRunner {
        ChainRunner { site, tracker, wake, running: Arc::default() }
    }

    /// How many more jobs of this version to lease.
    pub(crate) fn room(&self, chain: &LoadedChain) -> usize {
        (chain.plan.max_in_flight as usize).saturating_sub(self.running.lock().len())
    }

    /// Begins to carry a job out, in the current runtime.
    pub(crate) fn admit(&self, job: ChainJob, chain: &Arc<LoadedChain>) {
        let lease = (job.leased.id, job.leased.token);
        let (site, job, chain) = (Arc::clone(&self.site), Arc::new(job), Arc::clone(chain));
        let (tracker, wake, all) = (Arc::clone(&self.tracker), Arc::clone(&self.wake), Arc::clone(&self.running));
        // Locked until the handle is in, before which the run must not end.
        let mut running = self.running.lock();
        let handle = tokio::spawn(async move {
            let outcome = carry_out(&site, &job, &chain).await;
            if all.lock().remove(&lease).is_some() {
                if let Some(outcome) = outcome {
                    tracker.settle(Settlement { id: lease.0, token: lease.1, outcome });
                }
                wake.notify_one();
            }
        });
        running.insert(lease, handle);
    }

    /// Ends the runs of jobs whose leases are lost.
    pub(crate) fn drop_lost(&self, lost: &[Lease]) {
        let mut running = self.running.lock();
        lost.iter().filter_map(|lease| running.remove(lease)).for_each(|run| run.abort());
    }

    /// Ends every run, for a drain; their steps are cancelled.
    pub(crate) fn release(&self) -> Vec<Lease> {
        let running = std::mem::take(&mut *self.running.lock());
        running.values().for_each(JoinHandle::abort);
        running.into_keys().collect()
    }
}

impl Drop for ChainRunner {
    fn drop(&mut self) {
        self.release();
    }
}

/// Runs a job to its outcome; `None` where its lease is gone.
async fn carry_out(site: &Arc<Site>, job: &Arc<ChainJob>, chain: &Arc<LoadedChain>) -> Option<Outcome> {
    let (version, began) = (&job.version, Instant::now());
    let (end, ended) = oneshot::channel();
    let lease = (job.leased.id, job.leased.token);
    let armed = site.watchdog.arm(lease, job.deadline, move || {
        let _ = end.send(());
    });
    let run = ChainRun::new(Arc::clone(site), Arc::clone(job), Arc::clone(chain), began).run();
    let outcome = tokio::select! {
        outcome = run => outcome,
        _ = ended => Err(was_ended(job, armed.ended())),
    };
    drop(armed);
    let waits = waits(&job.leased, job.since, began);
    let failure = match outcome {
        Ok(answer) => {
            let ran = Instant::now();
            match packed(site, job, answer, began, ran) {
                Ok((packed, times)) => {
                    version.stats.ran(times, std::iter::once(waits));
                    trace(version, job, began);
                    return Some(Outcome::Succeeded(packed));
                }
                Err(failure) => failure,
            }
        }
        Err(StepFailure { code, message, again }) => Failure::new(code, again, message),
    };
    version.stats.failed(waits, began.elapsed());
    failed(version, &job.leased, failure)
}

fn packed(
    site: &Site,
    job: &ChainJob,
    answer: ChainAnswer,
    began: Instant,
    ran: Instant,
) -> Result<(bytes::Bytes, BatchTimes), Failure> {
    let waits = waits(&job.leased, job.since, began);
    let times = BatchTimes { rows: job.rows, infer: ran - began, output: ran.elapsed(), ..BatchTimes::default() };
    let mut timings = timings(&job.leased, waits, &site.worker, &times);
    timings.steps = answer.steps;
    let packed = pack_tensors(&job.version, &job.request.outputs, &answer.outputs, &timings, site.max_bytes)?;
    Ok((packed, times))
}

/// Why the watchdog ended a chain, and at which steps.
fn was_ended(job: &ChainJob, why: Option<Ended>) -> StepFailure {
    let running = job.steps.running.lock().join(" and ");
    match why {
        Some(Ended::Abandoned) => {
            StepFailure::new(ErrorCode::JobCancelled, false, format!("cancelled, or runs elsewhere, at {running}"))
        }
        _ => {
            let message = format!("the deadline passed at {running}; allow more time or send less");
            StepFailure::new(ErrorCode::DeadlineExceeded, false, message)
        }
    }
}

/// One line and one span per job, with the request it came from.
fn trace(version: &Version, job: &ChainJob, began: Instant) {
    if !log::log_enabled!(log::Level::Debug) && !nobat_runtime::traces::is_on() {
        return;
    }
    let (leased, model) = (&job.leased, version.signature.name.as_str());
    let (id, took) = (leased.id.to_string(), began.elapsed());
    Span::run(&leased.trace.traceparent, took, &[("nobat.model", model), ("nobat.job", &id)]);
    log::debug!(
        job = id, model,
        request = leased.trace.request_id.as_str(),
        traceparent = leased.trace.traceparent.as_str(),
        attempt = leased.attempt,
        chain_us = took.as_micros() as u64;
        "a chain ran"
    );
}
