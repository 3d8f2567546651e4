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

use nobat_core::job::{Outcome, Settlement};
use nobat_core::statistics::BatchTimes;
use nobat_queue::backend::LeaseTracker;
use nobat_runtime::traces::{self, Span};
use smallvec::SmallVec;
use smol_str::SmolStr;

use super::answer::{failed, micros, timings, waits, within};
use super::failure::{Failure, panic_text};
use super::gather::fill;
use super::row_runs::RowRuns;
use super::scatter::{Joined, batch_axis, pack};
use crate::batch::held_rows::RowBatch;
use crate::batch::latency::Run;
use crate::batch::queue::{Batch, ReadyJob, Work};
use crate::engine::buffer::Buffer;
use crate::engine::input::OwnedInput;
use crate::engine::{Engine, InputView, OutputView, RunError, RunLimit};
use crate::model::Version;
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
        let at = self.engine_of(version)?;
        Some(self.engines.swap_remove(at).1)
    }

    /// Runs a batch and leaves a settlement for each of its jobs with the tracker; of a job
    /// whose rows run in several batches, with the last of them.
    pub(crate) fn run(&mut self, work: Work) {
        match work {
            Work::Jobs(batch) => self.run_jobs(batch),
            Work::Rows(batch) => self.run_rows(&batch),
        }
        self.tracker.settle_all(&mut self.settled);
    }

    fn run_jobs(&mut self, batch: Batch) {
        let Batch { version, jobs, cap, fills } = batch;
        match self.engine_of(&version) {
            Some(at) => self.attempt(at, &version, &jobs, cap, fills),
            None => jobs.iter().for_each(|job| self.fail(&version, job, Failure::unloaded(&version))),
        }
    }

    fn run_rows(&mut self, batch: &RowBatch) {
        let version = &batch.version;
        let (Some(at), Some(transformed)) = (self.engine_of(version), &version.transformed) else {
            for (job, _) in batch.rows.iter().filter(|(job, _)| job.end()) {
                let outcome = failed(version, &job.leased, Failure::unloaded(version));
                let settled = outcome.map(|outcome| Settlement { id: job.leased.id, token: job.leased.token, outcome });
                self.settled.extend(settled);
            }
            return;
        };
        let mut runs = RowRuns {
            worker: &self.worker,
            watchdog: &self.watchdog,
            engine: self.engines[at].1.as_mut(),
            version,
            transformed,
            settled: &mut self.settled,
            max_bytes: self.max_bytes,
        };
        runs.run(batch);
    }

    fn engine_of(&self, version: &Arc<Version>) -> Option<usize> {
        self.engines.iter().position(|(own, _)| Arc::ptr_eq(own, version))
    }

    fn attempt(&mut self, engine: usize, version: &Version, jobs: &[ReadyJob], cap: u32, fills: u32) {
        let started = Instant::now();
        let outcome = match jobs {
            [job] if version.splits() && job.rows > cap => self.guarded(engine, version, |run| run.run_split(job, cap)),
            _ => self.guarded(engine, version, |run| run.run_whole(jobs, fills)),
        };
        match (outcome, jobs) {
            (Ok(()), _) => {}
            (Err(failure), [job]) => {
                version.stats.failed(waits(&job.leased, job.since, started), started.elapsed());
                self.fail(version, job, failure);
            }
            (Err(failure), _) => {
                let model = version.signature.name.as_str();
                log::debug!(model, jobs = jobs.len(); "a batch failed and is halved: {}", failure.message);
                let (left, right) = jobs.split_at(jobs.len() / 2);
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
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut run)))
            .unwrap_or_else(|panic| Err(Failure::panicked(panic_text(&*panic), version)));
        if outcome.is_err() {
            self.settled.truncate(before);
        }
        outcome
    }

    fn fail(&mut self, version: &Version, job: &ReadyJob, failure: Failure) {
        if let Some(outcome) = failed(version, &job.leased, failure) {
            self.settled.push(Settlement { id: job.leased.id, token: job.leased.token, outcome });
        }
    }
}

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
    /// One run over all rows of `jobs`.
    fn run_whole(&mut self, jobs: &[ReadyJob], fills: u32) -> Result<(), Failure> {
        let rows: u32 = jobs.iter().map(|job| job.rows).sum();
        let (worker, version, max_bytes) = (self.worker, self.version, self.max_bytes);
        let mut fresh = Vec::with_capacity(jobs.len());
        let ran = self.once(jobs, 0..rows, fills, &mut |outputs, ran| {
            if jobs.len() > 1 {
                batch_axis(version, outputs, rows)?;
            }
            let mut first = 0;
            for job in jobs {
                let times = BatchTimes { output: ran.ended.elapsed(), ..ran.times };
                let part = (jobs.len() > 1).then_some((first, job.rows, rows));
                let timings = timings(&job.leased, waits(&job.leased, job.since, ran.started), worker, &times);
                let packed = pack(version, job, outputs, part, &timings, max_bytes)?;
                fresh.push(Settlement {
                    id: job.leased.id,
                    token: job.leased.token,
                    outcome: Outcome::Succeeded(packed),
                });
                first += job.rows;
            }
            Ok(())
        })?;
        version.stats.ran(ran.times, jobs.iter().map(|job| waits(&job.leased, job.since, ran.started)));
        jobs.iter().for_each(|job| trace(version, job, &ran));
        if version.samples.are_wanted()
            && let [job] = jobs
        {
            version.samples.offer(&job.inputs);
        }
        self.settled.append(&mut fresh);
        Ok(())
    }

    /// Several runs over the rows of one large job, joined.
    fn run_split(&mut self, job: &ReadyJob, cap: u32) -> Result<(), Failure> {
        let (worker, version, max_bytes) = (self.worker, self.version, self.max_bytes);
        let started = Instant::now();
        let mut joined: Vec<Joined> = Vec::new();
        let mut total = BatchTimes::default();
        let mut from = 0;
        while from < job.rows {
            let to = job.rows.min(from.saturating_add(cap));
            let ran = self.once(std::slice::from_ref(job), from..to, 0, &mut |outputs, _| {
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
        let packed = pack(
            version,
            job,
            &views,
            None,
            &timings(&job.leased, waits(&job.leased, job.since, started), worker, &total),
            max_bytes,
        )?;
        version.stats.joined(total, waits(&job.leased, job.since, started));
        trace(version, job, &Ran { started, ended: Instant::now(), times: total });
        self.settled.push(Settlement {
            id: job.leased.id,
            token: job.leased.token,
            outcome: Outcome::Succeeded(packed),
        });
        Ok(())
    }

    /// One call of the engine over `rows` of the concatenated jobs, which fill a cap of
    /// `fills` or of their own number.
    fn once(
        &mut self,
        jobs: &[ReadyJob],
        rows: std::ops::Range<u32>,
        fills: u32,
        split: &mut dyn FnMut(&[OutputView<'_>], &Ran) -> Result<(), Failure>,
    ) -> Result<Ran, Failure> {
        let started = Instant::now();
        let filled = fill(self.version, self.buffers, jobs, &rows)?;
        let views: SmallVec<[InputView<'_>; 2]> = filled.iter().map(OwnedInput::view).collect();
        let rows = rows.end - rows.start;
        let limit = match jobs {
            // Ending a run ends it for all its jobs, so only for one alone.
            [job] => Some(RunLimit { at: job.deadline, lease: job.lease(), watchdog: self.watchdog }),
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
        drop(views);
        filled.into_iter().for_each(|input| self.buffers[input.index] = input.bytes);
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
fn trace(version: &Version, job: &ReadyJob, ran: &Ran) {
    if !log::log_enabled!(log::Level::Debug) && !traces::is_on() {
        return;
    }
    let (leased, model) = (&job.leased, version.signature.name.as_str());
    let job = leased.id.to_string();
    Span::run(&leased.trace.traceparent, ran.started.elapsed(), &[("nobat.model", model), ("nobat.job", &job)]);
    log::debug!(
        job, model,
        request = leased.trace.request_id.as_str(),
        traceparent = leased.trace.traceparent.as_str(),
        attempt = leased.attempt,
        batch = ran.times.rows,
        infer_us = micros(ran.times.infer);
        "a job ran"
    );
}
