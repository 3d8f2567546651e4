//! Where jobs stand, by queue and by time: everything that must be found
//! without looking at each job.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use nobat_core::ErrorCode;
use nobat_core::job::{JobError, LeaseToken};
use smol_str::SmolStr;

use super::idle_consumers::{ConsumerNo, IdleConsumers};
use super::job::{Job, Phase, QueueNo, Row};
use super::ready::Ready;

/// Orders over all queues, and the queues.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) queues: Vec<QueueState>,
    /// Scheduled, failed and postponed jobs by the time they are due.
    pub(crate) scheduled: BTreeSet<(u64, Row)>,
    /// Waiting jobs that have a deadline.
    pub(crate) deadlines: BTreeSet<(u64, Row)>,
    /// Dead letters of all queues by the time they died.
    pub(crate) dead: BTreeSet<(u64, Row)>,
    /// Jobs in memory that have an error, by its code.
    pub(crate) errors: BTreeSet<(ErrorCode, Row)>,
    /// Leases in the order they were given or renewed, which is the order in
    /// which they end. An entry that is no longer true is skipped when it
    /// reaches the front.
    pub(crate) leases: VecDeque<(u64, Row, LeaseToken)>,
}

/// One queue.
#[derive(Debug)]
pub(crate) struct QueueState {
    pub(crate) model: SmolStr,
    pub(crate) ready: Ready,
    /// Dead letters by the time they died.
    pub(crate) dead: BTreeSet<(u64, Row)>,
    pub(crate) idle_consumers: IdleConsumers,
    pub(crate) drain: DrainRate,
    pub(crate) scheduled: u64,
    pub(crate) leased: u64,
    /// The lease of the job on its last chance, until the consumer that held it has
    /// noted that it holds it no more.
    pub(crate) last_chance: Option<(ConsumerNo, LeaseToken)>,
    /// Payload bytes of ready, scheduled and failed jobs.
    pub(crate) waiting_bytes: u64,
    pub(crate) paused: bool,
    pub(crate) enqueued: u64,
    pub(crate) finished: u64,
    pub(crate) dropped: u64,
}

impl QueueState {
    /// Jobs that count against the queue's length limit.
    pub(crate) fn waiting(&self) -> u64 {
        self.ready.len() as u64 + self.scheduled
    }
}

impl Index {
    pub(crate) fn add_queue(&mut self, model: SmolStr, paused: bool, enqueued: u64, finished: u64) -> QueueNo {
        self.queues.push(QueueState {
            model,
            ready: Ready::default(),
            dead: BTreeSet::new(),
            idle_consumers: IdleConsumers::default(),
            drain: DrainRate::default(),
            scheduled: 0,
            leased: 0,
            last_chance: None,
            waiting_bytes: 0,
            paused,
            enqueued,
            finished,
            dropped: 0,
        });
        self.queues.len() as QueueNo - 1
    }

    /// Puts a job where its phase says. Undone by [`Index::leave`] before the
    /// phase, the position, the deadline or the payload's length changes.
    pub(crate) fn enter(&mut self, row: Row, job: &Job) {
        let queue = &mut self.queues[job.queue as usize];
        match job.phase {
            Phase::Scheduled { due_us } | Phase::Failed { due_us } | Phase::Postponed { due_us } => {
                self.scheduled.insert((due_us, row));
                queue.scheduled += 1;
            }
            Phase::Queued => queue.ready.insert(job.rank(), job.position, row),
            Phase::Leased { token, expires_us } => {
                self.leases.push_back((expires_us, row, token));
                queue.leased += 1;
            }
            Phase::Dead { at_us } => {
                queue.dead.insert((at_us, row));
                self.dead.insert((at_us, row));
            }
            Phase::Finished(_) | Phase::Purged => {}
        }
        if is_waiting(&job.phase) {
            queue.waiting_bytes += job.payload.len();
            if let Some(deadline_us) = job.deadline_us {
                self.deadlines.insert((deadline_us, row));
            }
        }
    }

    /// Takes a job out of its place.
    pub(crate) fn leave(&mut self, row: Row, job: &Job) {
        let queue = &mut self.queues[job.queue as usize];
        match job.phase {
            Phase::Scheduled { due_us } | Phase::Failed { due_us } | Phase::Postponed { due_us } => {
                self.scheduled.remove(&(due_us, row));
                queue.scheduled -= 1;
            }
            Phase::Queued => queue.ready.remove(job.rank(), job.position, row),
            Phase::Leased { .. } => queue.leased -= 1,
            Phase::Dead { at_us } => {
                queue.dead.remove(&(at_us, row));
                self.dead.remove(&(at_us, row));
            }
            Phase::Finished(_) | Phase::Purged => {}
        }
        if is_waiting(&job.phase) {
            queue.waiting_bytes -= job.payload.len();
            if let Some(deadline_us) = job.deadline_us {
                self.deadlines.remove(&(deadline_us, row));
            }
        }
    }

    /// Gives a job another last error, or none.
    pub(crate) fn set_error(&mut self, row: Row, job: &mut Job, error: Option<JobError>) {
        if let Some(before) = &job.error {
            self.errors.remove(&(before.code, row));
        }
        if let Some(error) = &error {
            self.errors.insert((error.code, row));
        }
        job.error = error.map(Box::new);
    }

    /// When the oldest lease ends (or an entry that is no longer true says so).
    pub(crate) fn next_lease_end(&self) -> Option<u64> {
        self.leases.front().map(|&(at, _, _)| at)
    }
}

fn is_waiting(phase: &Phase) -> bool {
    matches!(phase, Phase::Scheduled { .. } | Phase::Failed { .. } | Phase::Postponed { .. } | Phase::Queued)
}

/// How fast a queue drains, for an honest `Retry-After`.
#[derive(Debug, Default)]
pub(crate) struct DrainRate {
    window_start_us: u64,
    in_window: u64,
    last_per_s: f64,
}

const WINDOW_US: u64 = 2_000_000;

impl DrainRate {
    /// A job left the queue for good.
    pub(crate) fn count(&mut self, now_us: u64) {
        let age_us = now_us.saturating_sub(self.window_start_us);
        if age_us >= WINDOW_US {
            self.last_per_s = self.in_window as f64 * 1e6 / age_us as f64;
            self.in_window = 0;
            self.window_start_us = now_us;
        }
        self.in_window += 1;
    }

    /// How long until `jobs` have left, at the present rate; between a tenth of
    /// a second and a minute, which is also the answer when nothing drains.
    pub(crate) fn time_for(&self, now_us: u64, jobs: u64) -> Duration {
        let age_us = now_us.saturating_sub(self.window_start_us).max(WINDOW_US / 10);
        let now_per_s = self.in_window as f64 * 1e6 / age_us as f64;
        let per_s = if age_us < WINDOW_US { self.last_per_s.max(now_per_s) } else { now_per_s };
        let seconds = jobs as f64 / per_s.max(1e-3);
        Duration::from_secs_f64(seconds.clamp(0.1, 60.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_follows_the_drain_rate() {
        let mut drain = DrainRate::default();
        assert_eq!(drain.time_for(10_000_000, 5), Duration::from_secs(60), "nothing drains");
        for job in 0..3_000u64 {
            drain.count(10_000_000 + job * 1_000);
        }
        let wait = drain.time_for(13_000_000, 500).as_secs_f64();
        assert!((0.4..0.6).contains(&wait), "a thousand a second: {wait}");
        assert_eq!(drain.time_for(3_600_000_000, 500), Duration::from_secs(60), "it stopped long ago");
    }
}
