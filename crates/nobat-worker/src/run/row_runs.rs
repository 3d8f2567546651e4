//! Runs rows of transformed jobs on one session's engine: collate, run, finish, and answer
//! the jobs whose last rows these were.
//!
//! Invariants:
//! - A run that fails is halved until the guilty job's rows stand alone: only that job
//!   burns an attempt. A panic in a run or a transformation counts as its failure.
//! - What rows came to is read out of the runtime's own buffers, row by row.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use nobat_core::job::{Outcome, Settlement};
use nobat_core::statistics::BatchTimes;
use nobat_runtime::traces::Span;
use nobat_transform::{Finished, Row};
use smallvec::SmallVec;
use smol_str::SmolStr;

use super::answer::{failed, micros, pack_tensors, timings, waits};
use super::failure::{Failure, panic_text};
use crate::batch::held_rows::RowBatch;
use crate::batch::latency::Run;
use crate::batch::row_job::{AllFinished, RowJob, RowsFinished};
use crate::engine::tensors::{TensorInputs, lend_outputs};
use crate::engine::{Engine, RunError, RunLimit};
use crate::model::{Transformed, Version};
use crate::watchdog::{Ended, Watchdog};

/// One session's engine of a transformed version, and where settlements go.
pub(super) struct RowRuns<'a> {
    pub(super) worker: &'a SmolStr,
    pub(super) watchdog: &'a Watchdog,
    pub(super) engine: &'a mut dyn Engine,
    pub(super) version: &'a Version,
    pub(super) transformed: &'a Transformed,
    pub(super) settled: &'a mut Vec<Settlement>,
    /// Most bytes of one job's outputs.
    pub(super) max_bytes: usize,
}

type JobRow = (Arc<RowJob>, u32);

/// What one run came to.
struct RowsRan {
    finished: Vec<Finished>,
    times: BatchTimes,
    started: Instant,
}

impl RowRuns<'_> {
    /// Runs a batch; what becomes of its jobs is settled when their last rows have run.
    pub(super) fn run(&mut self, batch: &RowBatch) {
        self.attempt(&batch.rows, batch.fills);
    }

    fn attempt(&mut self, rows: &[JobRow], fills: u32) {
        let wanted: Vec<JobRow> = rows.iter().filter(|(job, _)| !job.is_over()).cloned().collect();
        let Some((first, _)) = wanted.first() else { return };
        let one_job = wanted.iter().all(|(job, _)| Arc::ptr_eq(job, first));
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.once(&wanted, one_job, fills)))
            .unwrap_or_else(|panic| Err(Failure::panicked(panic_text(&*panic), self.version)));
        match outcome {
            Ok(ran) => self.hand_out(&wanted, ran),
            Err(failure) if one_job => self.fail(first, failure, started),
            Err(failure) => {
                let model = self.version.signature.name.as_str();
                log::debug!(model, rows = wanted.len(); "a run failed and is halved: {}", failure.message);
                let (left, right) = wanted.split_at(wanted.len() / 2);
                self.attempt(left, 0);
                self.attempt(right, 0);
            }
        }
    }

    /// One run of the engine.
    fn once(&mut self, rows: &[JobRow], one_job: bool, fills: u32) -> Result<RowsRan, Failure> {
        let started = Instant::now();
        let transform = &self.transformed.transform;
        let own: SmallVec<[&Row; 16]> = rows.iter().map(|(job, at)| job.row(*at)).collect();
        let inputs = TensorInputs::new(transform.collate(&own).map_err(Failure::of)?);
        let views = inputs.views();
        let job = &rows[0].0;
        // Ending a run ends it for all its jobs, so only for one alone.
        let limit = one_job.then(|| RunLimit { at: job.deadline, lease: job.lease(), watchdog: self.watchdog });
        let before_run = Instant::now();
        let mut finished = Ok(Vec::new());
        let mut ended = before_run;
        let ran = self.engine.run(&views, limit, &mut |outputs| {
            ended = Instant::now();
            finished = lend_outputs(outputs, |outputs| transform.finish(&own, outputs));
        });
        let longest = own.iter().map(|row| row.cost).max().unwrap_or(1);
        let count = rows.len() as u32;
        let units = self.transformed.cost.units(count, longest);
        if let Err(error) = ran {
            if matches!(error, RunError::Ended(Ended::TimedOut)) {
                self.learn(units, 0, started);
            }
            return Err(Failure::run(error, self.version));
        }
        let finished = finished.map_err(Failure::of)?;
        if finished.len() != rows.len() {
            let what = format!("{} rows came to {} answers", rows.len(), finished.len());
            return Err(Failure::outputs(&what, self.version));
        }
        self.learn(units, units.max(fills), started);
        let (input, infer) = (before_run - started, ended - before_run);
        let times = BatchTimes { rows: count, input, infer, output: ended.elapsed() };
        self.version.stats.ran_part(times);
        let task = &transform.signature().task;
        if task.kind.reads_texts() && task.image.is_none() {
            let tokens = own.iter().map(|row| u64::from(row.cost)).sum();
            self.version.stats.padded(tokens, u64::from(count) * u64::from(longest) - tokens);
        }
        Ok(RowsRan { finished, times, started })
    }

    /// Hands each job what its rows came to, and settles those that are complete.
    fn hand_out(&mut self, rows: &[JobRow], ran: RowsRan) {
        let RowsRan { finished, times, started } = ran;
        let mut finished: Vec<Option<Finished>> = finished.into_iter().map(Some).collect();
        for (at, (job, _)) in rows.iter().enumerate() {
            if finished[at].is_none() {
                continue;
            }
            let mut own = Vec::new();
            for (other, (of, place)) in rows.iter().enumerate().skip(at) {
                if Arc::ptr_eq(of, job) {
                    own.extend(finished[other].take().map(|came_to| (*place, came_to)));
                }
            }
            match job.finish(own.into_iter(), times, started, self.max_bytes) {
                RowsFinished::Part => {}
                RowsFinished::All(all) => self.answer(job, all),
                RowsFinished::TooLarge(bytes) => {
                    self.settle_failed(job, Failure::too_large(bytes, self.max_bytes, self.version), started);
                }
            }
        }
    }

    fn answer(&mut self, job: &RowJob, all: AllFinished) {
        let AllFinished { rows, times, started } = all;
        let (version, transform, before) = (self.version, &self.transformed.transform, Instant::now());
        let waits = waits(&job.leased, job.since, started);
        let answered =
            catch_unwind(AssertUnwindSafe(|| transform.answer(&job.prepared.job, rows).map_err(Failure::of)))
                .unwrap_or_else(|panic| Err(Failure::panicked(panic_text(&*panic), version)));
        let times = BatchTimes { output: times.output + before.elapsed(), ..times };
        let packed = answered.and_then(|tensors| {
            let timings = timings(&job.leased, waits, self.worker, &times);
            pack_tensors(version, &job.outputs, &tensors, &timings, self.max_bytes)
        });
        match packed {
            Ok(packed) => {
                version.stats.joined(times, waits);
                trace(version, job, started, times);
                self.settle(job, Outcome::Succeeded(packed));
            }
            Err(failure) => self.settle_failed(job, failure, started),
        }
    }

    fn fail(&mut self, job: &RowJob, failure: Failure, started: Instant) {
        if job.end() {
            self.settle_failed(job, failure, started);
        }
    }

    fn settle_failed(&mut self, job: &RowJob, failure: Failure, started: Instant) {
        self.version.stats.failed(waits(&job.leased, job.since, started), started.elapsed());
        if let Some(outcome) = failed(self.version, &job.leased, failure) {
            self.settle(job, outcome);
        }
    }

    fn settle(&mut self, job: &RowJob, outcome: Outcome) {
        self.settled.push(Settlement { id: job.leased.id, token: job.leased.token, outcome });
    }

    fn learn(&self, units: u32, fills: u32, started: Instant) {
        let ended = Instant::now();
        let run = Run { rows: units, fills, took: ended - started, ended };
        if self.version.controller.lock().observe(run) {
            self.version.stats.backed_off();
        }
    }
}

/// One line and one span per job, with the request it came from.
fn trace(version: &Version, job: &RowJob, started: Instant, times: BatchTimes) {
    if !log::log_enabled!(log::Level::Debug) && !nobat_runtime::traces::is_on() {
        return;
    }
    let (leased, model) = (&job.leased, version.signature.name.as_str());
    let id = leased.id.to_string();
    Span::run(&leased.trace.traceparent, started.elapsed(), &[("nobat.model", model), ("nobat.job", &id)]);
    log::debug!(
        job = id, model,
        request = leased.trace.request_id.as_str(),
        traceparent = leased.trace.traceparent.as_str(),
        attempt = leased.attempt,
        batch = times.rows,
        infer_us = micros(times.infer);
        "a job ran"
    );
}
