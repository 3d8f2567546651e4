//! The rows of transformed models between their leases and their runs: prepared beside the
//! sessions, held together for all sessions of a model, and put together by length.
//!
//! One pool for all sessions, because like lengths are found among many rows. Its leases
//! are in one tracker, which every session settles.
//!
//! Order: as in the queue, by score (priority, aging, arrival). The first row is in the next
//! run, others are there for their length. Where better ranked jobs keep coming, a job that
//! was passed over for several runs goes first.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

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
use tokio::sync::Notify;

use super::held_job::HeldJob;
use super::judge::{judge, limits, too_late};
use super::lengths::{RunLimits, WINDOW, next_run};
use super::planner::{Slot, latest_start};
use super::row_job::RowJob;
use crate::model::{Transformed, Version};
use crate::run::answer::{failed, pack_tensors, timings, waits};
use crate::run::failure::{Failure, panic_text};
use crate::transform_threads::TransformThreads;

/// Rows that are held for each session: among so many, like lengths are found.
const ROWS_A_SESSION: u32 = 64;
/// Work that is held for each session: what is held here no other worker can take.
const SECONDS_A_SESSION: f64 = 0.5;
/// A session that is free waits so long for what is being prepared, to run it together.
const PREPARED_WITHIN: Duration = Duration::from_millis(1);
/// And so long for a job of a higher priority than all that is ready: it would wait for a whole
/// run otherwise, and preparing goes the faster while no session runs.
const URGENT_WITHIN: Duration = Duration::from_millis(20);
/// Runs that may pass over the job that is held longest.
const PASSED_OVER: u32 = 8;
/// While something is prepared, its end wakes the session.
const UNTIL_WOKEN: Duration = Duration::from_secs(60);

/// Rows for one run.
#[derive(Debug)]
pub(crate) struct RowBatch {
    pub(crate) version: Arc<Version>,
    /// Each row's job, and its place there.
    pub(crate) rows: Vec<(Arc<RowJob>, u32)>,
    /// The controller's cap, where these rows fill it as far as the next one allowed; else 0.
    pub(crate) fills: u32,
}

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
    held: Mutex<Held>,
}

/// One session's end of the pool.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    /// Told when there may be something to run or to settle.
    pub(crate) wake: Arc<Notify>,
    idle: AtomicBool,
}

#[derive(Default)]
struct Held {
    preparing: Vec<Preparing>,
    /// By rank.
    jobs: Vec<HeldJob>,
    seats: Vec<Weak<Seat>>,
    /// Runs since the job that is held longest had a row in one.
    passed_over: u32,
    admitted: u64,
}

struct Preparing {
    lease: Lease,
    rows: u32,
    level: i16,
    since: Instant,
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
    fn give_up_hopeless(&self, held: &mut Held, now: Instant) {
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

impl Held {
    /// Rows that may come where only what ranks at `level` or above takes room.
    fn room_beside(&self, level: i16) -> u32 {
        let sessions = self.seats.iter().filter(|seat| seat.strong_count() > 0).count().max(1) as u32;
        let held = self.jobs.iter().filter(|one| one.level >= level);
        let (rows, seconds) =
            held.fold((0, 0.0), |(rows, seconds), one| (rows + one.waiting.len() as u32, seconds + one.seconds));
        if seconds >= SECONDS_A_SESSION * f64::from(sessions) {
            return 0;
        }
        let preparing: u32 = self.preparing.iter().filter(|one| one.level >= level).map(|one| one.rows).sum();
        (ROWS_A_SESSION * sessions).saturating_sub(rows + preparing)
    }

    /// Notes that a job is prepared; false where it was given up meanwhile.
    fn prepared(&mut self, lease: Lease) -> bool {
        let at = self.preparing.iter().position(|one| one.lease == lease);
        at.map(|at| self.preparing.swap_remove(at)).is_some()
    }

    fn wake_idle(&self) {
        let idle = self.seats.iter().filter_map(Weak::upgrade).filter(|seat| seat.idle.load(Ordering::Relaxed));
        idle.for_each(|seat| seat.wake.notify_one());
    }

    /// Sessions other than `seat`'s that have nothing to do.
    fn idle_beside(&self, seat: &Seat) -> usize {
        let others = self.seats.iter().filter_map(Weak::upgrade).filter(|other| !std::ptr::eq(&**other, seat));
        others.filter(|other| other.idle.load(Ordering::Relaxed)).count()
    }

    fn versions(&self) -> SmallVec<[Arc<Version>; 2]> {
        let mut versions: SmallVec<[Arc<Version>; 2]> = SmallVec::new();
        for one in &self.jobs {
            if !versions.iter().any(|version| Arc::ptr_eq(version, &one.job.version)) {
                versions.push(Arc::clone(&one.job.version));
            }
        }
        versions
    }

    fn of_version(&self, version: &Arc<Version>) -> impl Iterator<Item = usize> {
        let own = |at: &usize| Arc::ptr_eq(&self.jobs[*at].job.version, version);
        (0..self.jobs.len()).filter(own)
    }

    fn plan(&mut self, seat: &Seat, room: bool, now: Instant) -> Next<RowBatch> {
        if self.jobs.is_empty() {
            return if self.preparing.is_empty() { Next::Empty } else { Next::Wait(UNTIL_WOKEN) };
        }
        let first = self.first();
        let version = Arc::clone(&self.jobs[first].job.version);
        let Some(transformed) = &version.transformed else { return Next::Empty };
        let Candidates { rows: candidates, waiting: all } = self.candidates(first, &version);
        let lengths: Vec<u32> = candidates.iter().map(|&(at, row)| self.jobs[at].job.row(row).cost).collect();
        let padded: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
        let sees_all = candidates.len() == all;
        if let Some(wait) = self.wait_for_preparing(now)
            && (sees_all && padded < u64::from(transformed.padded) || self.is_outranked())
        {
            return Next::Wait(wait);
        }
        let allowed = limits(&version, u32::MAX, now);
        let units = |rows, longest| transformed.cost.units(rows, longest);
        if !allowed.delay.is_zero() && room {
            let waiting: u32 = lengths.iter().map(|&length| units(1, length)).fold(0, u32::saturating_add);
            let of_version = self.of_version(&version).map(|at| latest_start(&self.jobs[at].slot(), &allowed, now));
            match of_version.min() {
                Some(until) if sees_all && waiting < allowed.rows && until > now => return Next::Wait(until - now),
                _ => {}
            }
        }
        let most = self.most_units(&version, allowed.rows, now);
        let share = all.div_ceil(1 + self.idle_beside(seat)) as u32;
        let rows = if version.batches() { transformed.max_rows.min(share).max(1) } else { 1 };
        let cost = |rows, longest| match rows > 1 && units(rows, longest) > most {
            true => f64::INFINITY,
            false => transformed.cost.seconds(rows, longest),
        };
        let picked = next_run(&lengths, &RunLimits { rows, padded: transformed.padded }, cost);
        let longest = picked.iter().map(|&at| lengths[at]).max().unwrap_or(1);
        let more = picked.len() < all && units(picked.len() as u32 + 1, longest) > allowed.rows;
        let fills = if more { allowed.rows } else { 0 };
        let rows = self.take(picked.iter().map(|&at| candidates[at]).collect());
        Next::Run(RowBatch { version, rows, fills })
    }

    /// The job that goes now.
    fn first(&self) -> usize {
        let longest_held = self.longest_held();
        if self.passed_over >= PASSED_OVER { longest_held } else { 0 }
    }

    fn longest_held(&self) -> usize {
        (0..self.jobs.len()).min_by_key(|&at| self.jobs[at].job.since).unwrap_or(0)
    }

    /// The rows that may share a run with the first of job `first`, that one before all. As many
    /// are listed as a plan looks at, however many wait. What runs in the background makes no
    /// run longer that somebody waits for.
    fn candidates(&self, first: usize, version: &Arc<Version>) -> Candidates {
        let leader = &self.jobs[first];
        let joins = |other: &HeldJob| !other.runs_alone() && (leader.background || !other.background);
        let others =
            self.of_version(version).filter(|&at| at != first && !leader.runs_alone() && joins(&self.jobs[at]));
        let jobs: Vec<usize> = std::iter::once(first).chain(others).collect();
        let rows = |&at: &usize| self.jobs[at].waiting.iter().map(move |&row| (at, row));
        Candidates {
            rows: jobs.iter().flat_map(rows).take(WINDOW).collect(),
            waiting: jobs.iter().map(|&at| self.jobs[at].waiting.len()).sum(),
        }
    }

    /// How long a free session waits for what is being prepared.
    fn wait_for_preparing(&self, now: Instant) -> Option<Duration> {
        let since = self.preparing.iter().map(|one| one.since).min()?;
        let within = if self.is_outranked() { URGENT_WITHIN } else { PREPARED_WITHIN };
        (since + within).checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// Whether something of a higher priority than all that is ready is being prepared.
    fn is_outranked(&self) -> bool {
        let ready = self.jobs.iter().map(|one| one.level).max();
        self.preparing.iter().any(|one| Some(one.level) > ready)
    }

    /// Most units of the next run, for those who have a deadline to meet it.
    fn most_units(&self, version: &Arc<Version>, cap: u32, now: Instant) -> u32 {
        let slots: Vec<Slot> = self.of_version(version).map(|at| self.jobs[at].slot()).collect();
        match slots.iter().any(|slot| slot.deadline.is_some()) {
            true => cap.min(judge(version, &slots, 0, now).0.rows),
            false => cap,
        }
    }

    /// Takes rows out, each of a job and a place there.
    fn take(&mut self, picked: Vec<(usize, u32)>) -> Vec<(Arc<RowJob>, u32)> {
        let longest_held = self.longest_held();
        match picked.iter().any(|&(at, _)| at == longest_held) {
            true => self.passed_over = 0,
            false => self.passed_over += 1,
        }
        // Rows of a job follow each other there, in the order of their places.
        for of_job in picked.chunk_by(|(at, _), (other, _)| at == other) {
            let taken: SmallVec<[u32; 16]> = of_job.iter().map(|&(_, row)| row).collect();
            self.jobs[of_job[0].0].take(&taken);
        }
        let rows = picked.iter().map(|&(at, row)| (Arc::clone(&self.jobs[at].job), row)).collect();
        self.jobs.retain(|one| !one.waiting.is_empty());
        rows
    }
}

/// Rows that may run next.
struct Candidates {
    /// Each as its job and its place there: as many as a plan looks at.
    rows: Vec<(usize, u32)>,
    /// How many there are in all.
    waiting: usize,
}

/// Calls into a transformation. Its refusal is the caller's mistake or ours by its code.
fn guarded<T>(version: &Version, work: impl FnOnce() -> nobat_core::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.map_err(Failure::of),
        Err(panic) => Err(Failure::panicked(panic_text(&*panic), version)),
    }
}
