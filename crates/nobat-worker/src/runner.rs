//! Runs batches on one session: concatenate, run, split, settle each job.
//!
//! Invariants:
//! - Every job of a batch is settled exactly once, whatever the run does; only
//!   one whose lease was lost is not.
//! - A batch that fails is halved until the guilty job stands alone: only that
//!   one burns an attempt. A panic in a run counts as its failure.
//! - Output bytes are copied once, from the runtime's buffer into the packed result.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::explain::Explain;
use nobat_core::job::{JobError, Outcome, Settlement};
use nobat_core::statistics::BatchTimes;
use nobat_core::{Error, ErrorCode};
use nobat_ops::traces::{self, Span};
use nobat_queue::backend::Desk;
use smallvec::SmallVec;
use smol_str::SmolStr;

use crate::batch::intake::{Batch, Item};
use crate::engine::buffer::Buffer;
use crate::engine::{Engine, InputView, OutputView, RunError, RunLimit};
use crate::model::Version;
use crate::stats::JobWaits;
use crate::watchdog::{Ended, Watchdog};

mod gather;
mod scatter;

use gather::fill;
use scatter::{Joined, batch_axis, pack};

/// One session's engines, one per ready version, and its reused buffers.
pub(crate) struct Runner {
    worker: SmolStr,
    desk: Arc<Desk>,
    watchdog: Watchdog,
    engines: Vec<(Arc<Version>, Box<dyn Engine>)>,
    buffers: Vec<Buffer>,
    settled: Vec<Settlement>,
}

/// A failed run of several rows or one.
struct Failure {
    code: ErrorCode,
    message: String,
    /// Whether another attempt may fare better.
    again: bool,
}

impl Failure {
    fn run(error: RunError, version: &Version) -> Failure {
        let (model, number) = (&version.signature.name, &version.signature.version);
        match error {
            RunError::Failed(reason) => Failure {
                code: ErrorCode::InferenceFailed,
                message: format!("model `{model}` version {number} failed: {reason}"),
                again: true,
            },
            RunError::Ended(Ended::TimedOut) => Failure {
                code: ErrorCode::DeadlineExceeded,
                message: format!("the run of model `{model}` was ended at the job's deadline; allow more time"),
                again: false,
            },
            RunError::Ended(Ended::Abandoned) => Failure {
                code: ErrorCode::JobCancelled,
                message: format!("the run of model `{model}` was ended: its job is cancelled or runs elsewhere"),
                again: false,
            },
        }
    }

    fn invalid(message: String) -> Failure {
        Failure { code: ErrorCode::InvalidTensor, message, again: false }
    }
}

/// The times of one finished run.
struct Ran {
    times: BatchTimes,
    started: Instant,
}

impl Runner {
    /// A session of the worker with the short id `worker`.
    pub(crate) fn new(worker: SmolStr, desk: Arc<Desk>, watchdog: Watchdog) -> Runner {
        Runner { worker, desk, watchdog, engines: Vec::new(), buffers: Vec::new(), settled: Vec::new() }
    }

    /// Adds a version's engine. An older one of the same number stays until it
    /// is removed: jobs planned on it still run on it.
    pub(crate) fn put(&mut self, version: Arc<Version>, engine: Box<dyn Engine>) {
        self.engines.push((version, engine));
    }

    /// Takes a version's engine out, to be dropped where that delays nobody.
    pub(crate) fn remove(&mut self, version: &Arc<Version>) -> Option<Box<dyn Engine>> {
        let at = self.engines.iter().position(|(own, _)| Arc::ptr_eq(own, version))?;
        Some(self.engines.swap_remove(at).1)
    }

    /// Runs a batch and puts a settlement for each of its jobs on the desk.
    pub(crate) fn run(&mut self, batch: Batch) {
        let Batch { version, items, cap } = batch;
        match self.engines.iter().position(|(own, _)| Arc::ptr_eq(own, &version)) {
            Some(at) => self.attempt(at, &version, &items, cap),
            None => {
                let message = format!(
                    "model `{}` version {} was unloaded while the job waited",
                    version.signature.name, version.signature.version
                );
                for item in &items {
                    let failure = Failure { code: ErrorCode::ModelNotReady, message: message.clone(), again: true };
                    self.fail(&version, item, failure);
                }
            }
        }
        self.desk.settle_all(&mut self.settled);
    }

    fn attempt(&mut self, engine: usize, version: &Version, items: &[Item], cap: u32) {
        let started = Instant::now();
        let outcome = match items {
            [item] if version.batches() && item.rows > cap => {
                self.guarded(engine, version, |turn| turn.run_split(item, cap))
            }
            _ => self.guarded(engine, version, |turn| turn.run_whole(items)),
        };
        match (outcome, items) {
            (Ok(()), _) => {}
            (Err(failure), [item]) => {
                version.stats.failed(waits(item, started), started.elapsed());
                self.fail(version, item, failure);
            }
            (Err(failure), _) => {
                let (model, jobs) = (version.signature.name.as_str(), items.len());
                log::debug!(model, jobs; "a batch failed and is halved: {}", failure.message);
                let (left, right) = items.split_at(items.len() / 2);
                self.attempt(engine, version, left, cap);
                self.attempt(engine, version, right, cap);
            }
        }
    }

    /// Runs `work`, containing a panic as the batch's failure. Settlements
    /// appear only when all of it succeeded.
    fn guarded(
        &mut self,
        engine: usize,
        version: &Version,
        work: impl FnOnce(&mut Turn<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let before = self.settled.len();
        let mut turn = Turn {
            worker: &self.worker,
            watchdog: &self.watchdog,
            engine: self.engines[engine].1.as_mut(),
            version,
            buffers: &mut self.buffers,
            settled: &mut self.settled,
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut turn))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
            let message =
                format!("the run of model `{}` panicked: {}", version.signature.name, text.unwrap_or("no message"));
            Err(Failure { code: ErrorCode::InferenceFailed, message, again: true })
        });
        if outcome.is_err() {
            self.settled.truncate(before);
        }
        outcome
    }

    fn fail(&mut self, version: &Version, item: &Item, failure: Failure) {
        let job = &item.job;
        let error = JobError { code: failure.code, message: failure.message };
        let outcome = match failure.code {
            // Its lease is gone: there is nothing left to settle.
            ErrorCode::JobCancelled => return log::info!(job = job.id.to_string(); "{}", error.message),
            ErrorCode::DeadlineExceeded => {
                version.stats.expired();
                Outcome::Expired(error)
            }
            _ => {
                let retry_in = failure.again.then(|| job.retry.next_delay(job.attempt, random())).flatten();
                let (id, model, attempt) = (job.id.to_string(), version.signature.name.as_str(), job.attempt);
                log::warn!(job = id, model, attempt, request = job.request_id(), traceparent = job.traceparent(); "an attempt failed: {}", error.message);
                Outcome::Failed { error, retry_in }
            }
        };
        self.settled.push(Settlement { id: job.id, token: job.token, outcome });
    }
}

/// Uniform in 0..2^32, for the retry schedule's jitter.
pub(crate) fn random() -> u32 {
    // Without entropy the schedule runs without jitter, which is only less spread.
    getrandom::u32().unwrap_or(0)
}

/// One run's view of the runner.
struct Turn<'a> {
    worker: &'a SmolStr,
    watchdog: &'a Watchdog,
    engine: &'a mut dyn Engine,
    version: &'a Version,
    buffers: &'a mut Vec<Buffer>,
    settled: &'a mut Vec<Settlement>,
}

impl Turn<'_> {
    /// One run over all rows of `items`.
    fn run_whole(&mut self, items: &[Item]) -> Result<(), Failure> {
        let rows: u32 = items.iter().map(|item| item.rows).sum();
        let (worker, version) = (self.worker, self.version);
        let mut fresh = Vec::with_capacity(items.len());
        let ran = self.once(
            items,
            0..rows,
            &mut |outputs, explain, since_run| {
                if items.len() > 1 {
                    batch_axis(version, outputs, rows)?;
                }
                let mut first = 0;
                for item in items {
                    let explain = Explain { output_us: micros(since_run.elapsed()), ..explain_for(item, explain) };
                    let part = match items.len() {
                        1 => None,
                        _ => Some((first, item.rows, rows)),
                    };
                    let packed = pack(version, item, outputs, part, &explain);
                    fresh.push(Settlement {
                        id: item.job.id,
                        token: item.job.token,
                        outcome: Outcome::Succeeded(packed),
                    });
                    first += item.rows;
                }
                Ok(())
            },
            worker,
        )?;
        self.count(items, &ran);
        self.settled.append(&mut fresh);
        Ok(())
    }

    /// Several runs over the rows of one large item, joined.
    fn run_split(&mut self, item: &Item, cap: u32) -> Result<(), Failure> {
        let (worker, version) = (self.worker, self.version);
        let items = std::slice::from_ref(item);
        let mut joined: Vec<Joined> = Vec::new();
        let mut total = Explain::default();
        let mut from = 0;
        let mut first_start = None;
        while from < item.rows {
            let to = (from + cap).min(item.rows);
            let ran = self.once(
                items,
                from..to,
                &mut |outputs, explain, _| {
                    batch_axis(version, outputs, to - from)?;
                    total.input_us += explain.input_us;
                    total.infer_us += explain.infer_us;
                    total.batch_size = total.batch_size.max(to - from);
                    joined.resize_with(outputs.len(), Joined::default);
                    for (whole, output) in joined.iter_mut().zip(outputs) {
                        whole.append(output)?;
                    }
                    Ok(())
                },
                worker,
            )?;
            first_start.get_or_insert(ran.started);
            // The job counts once, with its last run.
            self.count(if to == item.rows { items } else { &[] }, &ran);
            from = to;
        }
        total.batch_wait_us = micros(first_start.map_or(Duration::ZERO, |start| start - item.since));
        total.worker = worker.clone();
        let views: SmallVec<[OutputView<'_>; 4]> = joined.iter().map(Joined::view).collect();
        let packed = pack(version, item, &views, None, &explain_for(item, &total));
        self.settled.push(Settlement { id: item.job.id, token: item.job.token, outcome: Outcome::Succeeded(packed) });
        Ok(())
    }

    /// One call of the engine over `rows` of the concatenated items.
    fn once(
        &mut self,
        items: &[Item],
        rows: std::ops::Range<u32>,
        split: &mut dyn FnMut(&[OutputView<'_>], &Explain, Instant) -> Result<(), Failure>,
        worker: &SmolStr,
    ) -> Result<Ran, Failure> {
        let started = Instant::now();
        let filled = fill(self.version, self.buffers, items, &rows)?;
        let views: SmallVec<[InputView<'_>; 2]> = filled.views(self.version, self.buffers);
        let limit = match items {
            // Ending a run ends it for all its jobs, so only for one alone.
            [item] => Some(RunLimit { at: item.deadline, lease: item.lease(), watchdog: self.watchdog }),
            _ => None,
        };
        let before_run = Instant::now();
        let mut outcome = Ok(());
        let mut times = None;
        let engine = &mut *self.engine;
        engine
            .run(&views, limit, &mut |outputs| {
                let after_run = Instant::now();
                let explain = Explain {
                    batch_wait_us: micros(items.first().map_or(Duration::ZERO, |item| started - item.since)),
                    input_us: micros(before_run - started),
                    infer_us: micros(after_run - before_run),
                    batch_size: rows.end - rows.start,
                    worker: worker.clone(),
                    ..Explain::default()
                };
                outcome = split(outputs, &explain, after_run);
                times = Some(BatchTimes {
                    rows: rows.end - rows.start,
                    input: before_run - started,
                    infer: after_run - before_run,
                    output: after_run.elapsed(),
                });
            })
            .map_err(|error| Failure::run(error, self.version))?;
        outcome?;
        let times =
            times.ok_or_else(|| Failure::run(RunError::Failed("the runtime gave no outputs".into()), self.version))?;
        self.version.controller.lock().observe(times.rows, started.elapsed());
        Ok(Ran { times, started })
    }

    fn count(&self, items: &[Item], ran: &Ran) {
        self.version.stats.ran(ran.times, items.iter().map(|item| waits(item, ran.started)));
        items.iter().for_each(|item| trace(self.version, item, ran));
    }
}

/// One line and one span per job that ran, with the request it came from.
fn trace(version: &Version, item: &Item, ran: &Ran) {
    if !log::log_enabled!(log::Level::Debug) && !traces::is_on() {
        return;
    }
    let (job, model) = (item.job.id.to_string(), version.signature.name.as_str());
    Span::run(item.job.traceparent(), ran.started.elapsed(), &[("nobat.model", model), ("nobat.job", &job)]);
    log::debug!(
        job, model,
        request = item.job.request_id(),
        traceparent = item.job.traceparent(),
        attempt = item.job.attempt,
        batch = ran.times.rows,
        infer_us = micros(ran.times.infer);
        "a job ran"
    );
}

fn waits(item: &Item, started: Instant) -> JobWaits {
    let queue = Duration::from_micros(item.job.leased_at_us.saturating_sub(item.job.queued_at_us));
    JobWaits { queue, batch_wait: started.saturating_duration_since(item.since) }
}

/// The explanation of one item of a run.
fn explain_for(item: &Item, run: &Explain) -> Explain {
    Explain {
        queue_us: item.job.leased_at_us.saturating_sub(item.job.queued_at_us),
        attempts: item.job.attempt,
        worker: run.worker.clone(),
        ..*run
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { code: error.code, message: error.message, again: false }
    }
}

#[cfg(test)]
mod tests;
