//! Runs batches on the engines of one session: concatenate, run, split, settle each job.
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

use nobat_core::ErrorCode;
use nobat_core::job::{JobError, Outcome, Settlement};
use nobat_core::statistics::BatchTimes;
use nobat_core::timings::Timings;
use nobat_queue::backend::LeaseTracker;
use nobat_runtime::traces::{self, Span};
use smallvec::SmallVec;
use smol_str::SmolStr;

use super::failure::Failure;
use super::gather::fill;
use super::scatter::{Joined, batch_axis, pack, within};
use crate::batch::latency::Run;
use crate::batch::queue::{Batch, ReadyJob, retry_delay};
use crate::engine::buffer::Buffer;
use crate::engine::{Engine, InputView, OutputView, RunError, RunLimit};
use crate::model::Version;
use crate::stats::JobWaits;
use crate::watchdog::{Ended, Watchdog};

/// One session's engines, one per ready version, and its reused buffers.
pub(crate) struct Executor {
    worker: SmolStr,
    tracker: Arc<LeaseTracker>,
    watchdog: Watchdog,
    engines: Vec<(Arc<Version>, Box<dyn Engine>)>,
    buffers: Vec<Buffer>,
    settled: Vec<Settlement>,
    /// Most bytes of one job's outputs.
    pub(super) max_bytes: usize,
}

/// One finished run; the time of its outputs is set after they are split.
struct Ran {
    started: Instant,
    ended: Instant,
    times: BatchTimes,
}

impl Executor {
    /// A session's executor for the worker with the short id `worker`, with outputs of at
    /// most `max_bytes` a job.
    pub(crate) fn new(worker: SmolStr, tracker: Arc<LeaseTracker>, watchdog: Watchdog, max_bytes: usize) -> Executor {
        let (engines, buffers, settled) = (Vec::new(), Vec::new(), Vec::new());
        Executor { worker, tracker, watchdog, engines, buffers, settled, max_bytes }
    }

    /// Adds a version's engine. An older one of the same number stays until it
    /// is removed: jobs planned on it still run on it.
    pub(crate) fn put(&mut self, version: Arc<Version>, engine: Box<dyn Engine>) {
        self.engines.push((version, engine));
    }

    /// Takes a version's engine out; the caller drops it where that delays no batch.
    pub(crate) fn remove(&mut self, version: &Arc<Version>) -> Option<Box<dyn Engine>> {
        let at = self.engines.iter().position(|(own, _)| Arc::ptr_eq(own, version))?;
        Some(self.engines.swap_remove(at).1)
    }

    /// Runs a batch and leaves a settlement for each of its jobs with the tracker.
    pub(crate) fn run(&mut self, batch: Batch) {
        let Batch { version, items, cap, fills } = batch;
        match self.engines.iter().position(|(own, _)| Arc::ptr_eq(own, &version)) {
            Some(at) => self.attempt(at, &version, &items, cap, fills),
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
        self.tracker.settle_all(&mut self.settled);
    }

    fn attempt(&mut self, engine: usize, version: &Version, items: &[ReadyJob], cap: u32, fills: u32) {
        let started = Instant::now();
        let outcome = match items {
            [item] if version.splits() && item.rows > cap => {
                self.guarded(engine, version, |run| run.run_split(item, cap))
            }
            _ => self.guarded(engine, version, |run| run.run_whole(items, fills)),
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
                self.attempt(engine, version, left, cap, 0);
                self.attempt(engine, version, right, cap, 0);
            }
        }
    }

    /// Runs `work`, containing a panic as the batch's failure. Settlements
    /// appear only when all of it succeeded.
    fn guarded(
        &mut self,
        engine: usize,
        version: &Version,
        work: impl FnOnce(&mut BatchRun<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let before = self.settled.len();
        let mut run = BatchRun {
            worker: &self.worker,
            watchdog: &self.watchdog,
            engine: self.engines[engine].1.as_mut(),
            version,
            buffers: &mut self.buffers,
            settled: &mut self.settled,
            max_bytes: self.max_bytes,
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut run))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
            Err(Failure::panicked(text.unwrap_or("no message"), version))
        });
        if outcome.is_err() {
            self.settled.truncate(before);
        }
        outcome
    }

    fn fail(&mut self, version: &Version, item: &ReadyJob, failure: Failure) {
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
                let retry_in = failure.again.then(|| retry_delay(job.retry, job.attempt)).flatten();
                if retry_in.is_none() {
                    version.stats.ended(error.code);
                }
                let (id, model, attempt) = (job.id.to_string(), version.signature.name.as_str(), job.attempt);
                // A caller's own mistake is reported to the caller only.
                let level = if error.code == ErrorCode::InvalidTensor { log::Level::Debug } else { log::Level::Warn };
                log::log!(level, job = id, model, attempt, request = job.trace.request_id.as_str(), traceparent = job.trace.traceparent.as_str(); "an attempt failed: {}", error.message);
                Outcome::Failed { error, retry_in }
            }
        };
        self.settled.push(Settlement { id: job.id, token: job.token, outcome });
    }
}

/// What one run uses of the executor.
struct BatchRun<'a> {
    worker: &'a SmolStr,
    watchdog: &'a Watchdog,
    engine: &'a mut dyn Engine,
    version: &'a Version,
    buffers: &'a mut Vec<Buffer>,
    settled: &'a mut Vec<Settlement>,
    max_bytes: usize,
}

impl BatchRun<'_> {
    /// One run over all rows of `items`.
    fn run_whole(&mut self, items: &[ReadyJob], fills: u32) -> Result<(), Failure> {
        let rows: u32 = items.iter().map(|item| item.rows).sum();
        let (worker, version, max_bytes) = (self.worker, self.version, self.max_bytes);
        let mut fresh = Vec::with_capacity(items.len());
        let ran = self.once(items, 0..rows, fills, &mut |outputs, ran| {
            if items.len() > 1 {
                batch_axis(version, outputs, rows)?;
            }
            let mut first = 0;
            for item in items {
                let times = BatchTimes { output: ran.ended.elapsed(), ..ran.times };
                let part = match items.len() {
                    1 => None,
                    _ => Some((first, item.rows, rows)),
                };
                let packed =
                    pack(version, item, outputs, part, &timings(item, worker, ran.started, &times), max_bytes)?;
                fresh.push(Settlement { id: item.job.id, token: item.job.token, outcome: Outcome::Succeeded(packed) });
                first += item.rows;
            }
            Ok(())
        })?;
        version.stats.ran(ran.times, items.iter().map(|item| waits(item, ran.started)));
        items.iter().for_each(|item| trace(version, item, &ran));
        if version.samples.are_wanted()
            && let [item] = items
        {
            version.samples.offer(&item.inputs);
        }
        self.settled.append(&mut fresh);
        Ok(())
    }

    /// Several runs over the rows of one large item, joined.
    fn run_split(&mut self, item: &ReadyJob, cap: u32) -> Result<(), Failure> {
        let (worker, version, max_bytes) = (self.worker, self.version, self.max_bytes);
        let started = Instant::now();
        let mut joined: Vec<Joined> = Vec::new();
        let mut total = BatchTimes::default();
        let mut from = 0;
        while from < item.rows {
            let to = item.rows.min(from.saturating_add(cap));
            let ran = self.once(std::slice::from_ref(item), from..to, 0, &mut |outputs, _| {
                batch_axis(version, outputs, to - from)?;
                joined.resize_with(outputs.len(), Joined::default);
                let specs = &version.signature.outputs;
                let mut rows = joined.iter_mut().zip(specs).zip(outputs);
                rows.try_for_each(|((whole, spec), output)| whole.append(version, &spec.name, output))?;
                // Stop before a result that grows run by run exhausts the memory.
                within(version, joined.iter().map(Joined::len).sum(), max_bytes)
            })?;
            version.stats.ran_part(ran.times);
            total = BatchTimes {
                rows: total.rows.max(to - from),
                input: total.input + ran.times.input,
                infer: total.infer + ran.times.infer,
                output: total.output + ran.times.output,
            };
            from = to;
        }
        let views: SmallVec<[OutputView<'_>; 4]> = joined.iter().map(Joined::view).collect();
        let packed = pack(version, item, &views, None, &timings(item, worker, started, &total), max_bytes)?;
        version.stats.joined(total, waits(item, started));
        trace(version, item, &Ran { started, ended: Instant::now(), times: total });
        self.settled.push(Settlement { id: item.job.id, token: item.job.token, outcome: Outcome::Succeeded(packed) });
        Ok(())
    }

    /// One call of the engine over `rows` of the concatenated jobs, which fill a cap of
    /// `fills` or of their own number.
    fn once(
        &mut self,
        items: &[ReadyJob],
        rows: std::ops::Range<u32>,
        fills: u32,
        split: &mut dyn FnMut(&[OutputView<'_>], &Ran) -> Result<(), Failure>,
    ) -> Result<Ran, Failure> {
        let started = Instant::now();
        let filled = fill(self.version, self.buffers, items, &rows)?;
        let views: SmallVec<[InputView<'_>; 2]> = filled.views(self.version, self.buffers);
        let rows = rows.end - rows.start;
        let limit = match items {
            // Ending a run ends it for all its jobs, so only for one alone.
            [item] => Some(RunLimit { at: item.deadline, lease: item.lease(), watchdog: self.watchdog }),
            _ => None,
        };
        let before_run = Instant::now();
        let mut outcome = Ok(());
        let mut ran = None;
        let run = self.engine.run(&views, limit, &mut |outputs| {
            let ended = Instant::now();
            let (input, infer) = (before_run - started, ended - before_run);
            let times = BatchTimes { rows, input, infer, output: Duration::ZERO };
            let ran = ran.insert(Ran { started, ended, times });
            outcome = split(outputs, ran);
            ran.times.output = ended.elapsed();
        });
        if let Err(error) = run {
            if matches!(error, RunError::Ended(Ended::TimedOut)) {
                self.learn(rows, 0, started);
            }
            return Err(Failure::run(error, self.version));
        }
        outcome?;
        self.learn(rows, rows.max(fills), started);
        ran.ok_or_else(|| Failure::run(RunError::Failed("the runtime gave no outputs".into()), self.version))
    }

    fn learn(&self, rows: u32, fills: u32, started: Instant) {
        let ended = Instant::now();
        let backs_off = self.version.controller.lock().observe(Run { rows, fills, took: ended - started, ended });
        if backs_off {
            self.version.stats.backed_off();
        }
    }
}

/// One line and one span per job that ran, with the request it came from.
fn trace(version: &Version, item: &ReadyJob, ran: &Ran) {
    if !log::log_enabled!(log::Level::Debug) && !traces::is_on() {
        return;
    }
    let (job, model) = (item.job.id.to_string(), version.signature.name.as_str());
    Span::run(&item.job.trace.traceparent, ran.started.elapsed(), &[("nobat.model", model), ("nobat.job", &job)]);
    log::debug!(
        job, model,
        request = item.job.trace.request_id.as_str(),
        traceparent = item.job.trace.traceparent.as_str(),
        attempt = item.job.attempt,
        batch = ran.times.rows,
        infer_us = micros(ran.times.infer);
        "a job ran"
    );
}

fn waits(item: &ReadyJob, started: Instant) -> JobWaits {
    let queue = Duration::from_micros(item.job.leased_at_us.saturating_sub(item.job.queued_at_us));
    JobWaits { queue, batch_wait: started.saturating_duration_since(item.since) }
}

/// How an item's answer came about, its attempts so far included.
fn timings(item: &ReadyJob, worker: &SmolStr, started: Instant, times: &BatchTimes) -> Timings {
    let waits = waits(item, started);
    Timings {
        queue_us: micros(waits.queue),
        batch_wait_us: micros(waits.batch_wait),
        input_us: micros(times.input),
        infer_us: micros(times.infer),
        output_us: micros(times.output),
        batch_size: times.rows,
        attempts: item.job.attempt,
        worker: worker.clone(),
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
