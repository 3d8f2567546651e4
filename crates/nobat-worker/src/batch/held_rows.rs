//! The rows that a pool holds, and which of them run next.
//!
//! Order: as in the queue, by score (priority, aging, arrival). The first row is in the next
//! run, others are there for their length. Where better ranked jobs keep coming, a job that
//! was passed over for several runs goes first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nobat_queue::backend::{Lease, Next};
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::held_job::HeldJob;
use super::judge::{judge, limits};
use super::lengths::{RunLimits, WINDOW, next_run};
use super::planner::{Slot, latest_start};
use super::row_job::RowJob;
use crate::model::Version;

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

/// One session's end of the pool.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    /// Told when there may be something to run or to settle.
    pub(crate) wake: Arc<Notify>,
    pub(super) idle: AtomicBool,
}

/// What a pool holds, under its lock.
#[derive(Default)]
pub(super) struct HeldRows {
    pub(super) preparing: Vec<Preparing>,
    /// By rank.
    pub(super) jobs: Vec<HeldJob>,
    pub(super) seats: Vec<Weak<Seat>>,
    /// Runs since the job that is held longest had a row in one.
    passed_over: u32,
    pub(super) admitted: u64,
}

/// A job that is being prepared.
pub(super) struct Preparing {
    pub(super) lease: Lease,
    pub(super) rows: u32,
    pub(super) level: i16,
    pub(super) since: Instant,
}

impl HeldRows {
    /// Rows that may come where only what ranks at `level` or above takes room.
    pub(super) fn room_beside(&self, level: i16) -> u32 {
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
    pub(super) fn prepared(&mut self, lease: Lease) -> bool {
        let at = self.preparing.iter().position(|one| one.lease == lease);
        at.map(|at| self.preparing.swap_remove(at)).is_some()
    }

    pub(super) fn wake_idle(&self) {
        let idle = self.seats.iter().filter_map(Weak::upgrade).filter(|seat| seat.idle.load(Ordering::Relaxed));
        idle.for_each(|seat| seat.wake.notify_one());
    }

    /// Sessions other than `seat`'s that have nothing to do.
    fn idle_beside(&self, seat: &Seat) -> usize {
        let others = self.seats.iter().filter_map(Weak::upgrade).filter(|other| !std::ptr::eq(&**other, seat));
        others.filter(|other| other.idle.load(Ordering::Relaxed)).count()
    }

    pub(super) fn versions(&self) -> SmallVec<[Arc<Version>; 2]> {
        let mut versions: SmallVec<[Arc<Version>; 2]> = SmallVec::new();
        for one in &self.jobs {
            if !versions.iter().any(|version| Arc::ptr_eq(version, &one.job.version)) {
                versions.push(Arc::clone(&one.job.version));
            }
        }
        versions
    }

    pub(super) fn of_version(&self, version: &Arc<Version>) -> impl Iterator<Item = usize> {
        let own = |at: &usize| Arc::ptr_eq(&self.jobs[*at].job.version, version);
        (0..self.jobs.len()).filter(own)
    }

    pub(super) fn plan(&mut self, seat: &Seat, room: bool, now: Instant) -> Next<RowBatch> {
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
