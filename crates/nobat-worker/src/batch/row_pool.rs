//! The rows of transformed models between their leases and their runs: prepared beside the
//! sessions, held together for all sessions of a model, and put together by length.
//!
//! One pool for all sessions, because like lengths are found among many rows. Its leases
//! are in one tracker, which every session settles.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use nobat_core::infer::InferRequest;
use nobat_core::job::{LeasedJob, Outcome, Settlement};
use nobat_core::score::{Aging, rank};
use nobat_core::statistics::BatchTimes;
use nobat_core::tensor::Tensor;
use nobat_queue::backend::{Lease, LeaseTracker, Next};
use nobat_transform::{JobState, Prepared};
use parking_lot::Mutex;
use smallvec::SmallVec;
use smol_str::SmolStr;

use super::held_job::HeldJob;
use super::held_rows::{HeldRows, Preparing, RowBatch, Seat};
use super::judge::{judge, too_late};
use super::planner::Slot;
use super::row_job::RowJob;
use crate::model::{Transformed, Version};
use crate::run::answer::{failed, pack_tensors, timings, waits};
use crate::run::failure::{Failure, panic_text};
use crate::transform_threads::TransformThreads;

/// A job on its way into the pool, checked against the signature.
pub(crate) struct NewRowJob {
    pub(crate) leased: LeasedJob,
    pub(crate) version: Arc<Version>,
    pub(crate) request: InferRequest,
    pub(crate) inputs: SmallVec<[Option<Tensor>; 2]>,
    pub(crate) rows: u32,
    /// It ranks below others of its priority.
    pub(crate) background: bool,
    pub(crate) since: Instant,
    pub(crate) deadline: Option<Instant>,
}

/// The rows of one model, for all its sessions.
pub(crate) struct RowPool {
    /// Holds the leases of all of them.
    tracker: Arc<LeaseTracker>,
    threads: TransformThreads,
    /// Short id of the worker, for results.
    worker: SmolStr,
    max_result_bytes: usize,
    aging: Aging,
    held: Mutex<HeldRows>,
}

impl RowPool {
    pub(crate) fn new(
        tracker: Arc<LeaseTracker>,
        threads: TransformThreads,
        worker: SmolStr,
        max_result_bytes: usize,
        aging: Aging,
    ) -> RowPool {
        RowPool { tracker, threads, worker, max_result_bytes, aging, held: Mutex::default() }
    }

    /// A session's end of the pool, until it is dropped.
    pub(crate) fn seat(&self) -> Arc<Seat> {
        let seat = Arc::new(Seat::default());
        let mut held = self.held.lock();
        held.seats.retain(|other| other.strong_count() > 0);
        held.seats.push(Arc::downgrade(&seat));
        seat
    }

    /// Takes a leased job and has it prepared.
    pub(crate) fn admit(self: &Arc<Self>, job: NewRowJob) {
        let Some(transform) = job.version.transformed.as_ref().map(|own| Arc::clone(&own.transform)) else { return };
        let number = {
            let mut held = self.held.lock();
            let lease = (job.leased.id, job.leased.token);
            let level = rank(job.leased.priority, job.background);
            held.preparing.push(Preparing { lease, rows: job.rows, level, since: job.since });
            held.admitted += 1;
            held.admitted
        };
        let pool = Arc::clone(self);
        self.threads.run(job.background, move || {
            let (leased, version) = (job.leased.clone(), Arc::clone(&job.version));
            let worked = catch_unwind(AssertUnwindSafe(|| {
                let prepared = guarded(&job.version, || transform.prepare(&job.inputs, &job.request.parameters));
                match prepared {
                    Ok(Prepared { rows, job: state }) if rows.is_empty() => pool.answer(&job, &state),
                    Ok(prepared) => pool.hold(job, prepared, number),
                    Err(failure) => pool.fail(&job.leased, &job.version, failure),
                }
            }));
            // Outside of the transformation too a panic costs an attempt, and not the time of a lease.
            if let Err(panic) = worked {
                let failure = Failure::panicked(panic_text(&*panic), &version);
                pool.fail(&leased, &version, failure);
            }
            pool.wake();
        });
    }

    /// Jobs that are held or prepared.
    pub(crate) fn jobs(&self) -> usize {
        let held = self.held.lock();
        held.jobs.len() + held.preparing.len()
    }

    /// Whether nothing is held or prepared.
    pub(crate) fn is_empty(&self) -> bool {
        let held = self.held.lock();
        held.jobs.is_empty() && held.preparing.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn is_preparing(&self) -> bool {
        !self.held.lock().preparing.is_empty()
    }

    /// How many more rows would be of use.
    pub(crate) fn room(&self) -> u32 {
        self.held.lock().room_beside(i16::MIN)
    }

    /// How many rows would be of use of what ranks above a level, the lowest that is held: beside
    /// a pool that is full of it there is as much room again.
    pub(crate) fn room_above(&self) -> Option<(u32, i16)> {
        let held = self.held.lock();
        let levels = held.jobs.iter().map(|one| one.level).chain(held.preparing.iter().map(|one| one.level));
        let lowest = levels.min()?;
        Some((held.room_beside(lowest + 1), lowest))
    }

    /// Lets go of jobs whose leases are lost.
    pub(crate) fn drop_lost(&self, lost: &[Lease]) {
        let mut held = self.held.lock();
        held.preparing.retain(|one| !lost.contains(&one.lease));
        held.jobs.retain(|one| !lost.contains(&one.job.lease()) || !one.job.end());
    }

    /// Gives up every job that no run has wholly; for a drain.
    pub(crate) fn release(&self) -> Vec<Lease> {
        let mut held = self.held.lock();
        let preparing = std::mem::take(&mut held.preparing).into_iter().map(|one| one.lease);
        let jobs = std::mem::take(&mut held.jobs).into_iter().filter(|one| one.job.end()).map(|one| one.job.lease());
        preparing.chain(jobs).collect()
    }

    /// What the session of `seat` runs next; `room` says whether more jobs could come.
    pub(crate) fn next(&self, seat: &Seat, room: bool, now: Instant) -> Next<RowBatch> {
        let mut held = self.held.lock();
        held.jobs.retain(|one| !one.job.is_over());
        self.give_up_hopeless(&mut held, now);
        seat.idle.store(true, Ordering::Relaxed);
        let next = held.plan(seat, room, now);
        if let Next::Run(_) = &next {
            seat.idle.store(false, Ordering::Relaxed);
            if !held.jobs.is_empty() {
                held.wake_idle();
            }
        }
        next
    }

    /// Settles jobs that cannot meet their deadlines, before they cost a run.
    fn give_up_hopeless(&self, held: &mut HeldRows, now: Instant) {
        if held.jobs.iter().all(|one| one.job.deadline.is_none()) {
            return;
        }
        for version in held.versions() {
            let jobs: Vec<usize> = held.of_version(&version).collect();
            let slots: Vec<Slot> = jobs.iter().map(|&at| held.jobs[at].slot()).collect();
            if slots.iter().all(|slot| slot.deadline.is_none()) {
                continue;
            }
            let (verdict, run) = judge(&version, &slots, 0, now);
            for at in verdict.hopeless.into_iter().rev() {
                let job = held.jobs.remove(jobs[at]).job;
                if job.end() {
                    version.stats.expired();
                    self.settle(&job.leased, too_late(job.deadline, run, now));
                }
            }
        }
    }

    /// Puts a prepared job among those that wait, unless it was given up meanwhile.
    fn hold(&self, job: NewRowJob, prepared: Prepared, number: u64) {
        let NewRowJob { leased, version, request, background, since, deadline, .. } = job;
        let level = rank(leased.priority, background);
        let order = (self.aging.score(leased.queued_at_us as i64, level), number);
        let waiting = (0..prepared.rows.len() as u32).collect();
        let job = Arc::new(RowJob::new(leased, version, request.outputs, prepared, since, deadline));
        let mut held = self.held.lock();
        if held.prepared(job.lease()) {
            let at = held.jobs.partition_point(|other| other.order < order);
            held.jobs.insert(at, HeldJob::new(job, background, order, waiting));
        }
    }

    /// Answers a job that needs no run.
    fn answer(&self, job: &NewRowJob, state: &JobState) {
        let NewRowJob { version, leased, request, .. } = job;
        let Some(Transformed { transform, .. }) = &version.transformed else { return };
        let waits = waits(leased, job.since, Instant::now());
        let times = BatchTimes { rows: job.rows, ..BatchTimes::default() };
        let packed = guarded(version, || transform.answer(state, Vec::new())).and_then(|tensors| {
            let timings = timings(leased, waits, &self.worker, &times);
            pack_tensors(version, &request.outputs, &tensors, &timings, self.max_result_bytes)
        });
        match packed {
            Err(failure) => self.fail(leased, version, failure),
            Ok(packed) => {
                // Settled under the lock, as a drain finds it either here or settled.
                let mut held = self.held.lock();
                if held.prepared((leased.id, leased.token)) {
                    version.stats.joined(times, waits);
                    self.settle(leased, Outcome::Succeeded(packed));
                }
            }
        }
    }

    fn fail(&self, leased: &LeasedJob, version: &Version, failure: Failure) {
        let mut held = self.held.lock();
        if held.prepared((leased.id, leased.token))
            && let Some(outcome) = failed(version, leased, failure)
        {
            self.settle(leased, outcome);
        }
    }

    fn settle(&self, leased: &LeasedJob, outcome: Outcome) {
        self.tracker.settle(Settlement { id: leased.id, token: leased.token, outcome });
    }

    /// Wakes the sessions that have nothing to do.
    fn wake(&self) {
        self.held.lock().wake_idle();
    }
}

/// Calls into a transformation. Its refusal is the caller's mistake or ours by its code.
fn guarded<T>(version: &Version, work: impl FnOnce() -> nobat_core::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.map_err(Failure::of),
        Err(panic) => Err(Failure::panicked(panic_text(&*panic), version)),
    }
}
