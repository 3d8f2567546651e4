//! What memory knows and the journal does not yet, handed out in groups.
//!
//! A changed job is marked once however often it changes; the group takes its
//! state as it stands then. A job that came and went between two groups is one
//! write, of its end.
//!
//! One group is in flight at a time. It ends in [`Machine::committed`] or in
//! [`Machine::failed`]; a job whose first record was in a failed group is
//! refused (nobody was told that it was accepted), everything else is tried
//! again with the next group.

use std::collections::VecDeque;

use nobat_core::job::JobView;
use nobat_core::{JobId, OwnerId};
use smol_str::SmolStr;

use super::Machine;
use super::idempotency::Known;
use super::job::{Dirty, Job, Payload, Phase, QueueNo, Row, Stored};

/// Most jobs in one group: it is put together, and taken leave of, under the lock.
const MAX_WRITES: usize = 128;
/// Most payload and result bytes in one group (but at least one job).
const MAX_BYTES: u64 = 32 << 20;

/// No job has this row: its mark only gives a waiter something to wait for.
const NO_ROW: Row = 0;

/// What the next groups have to write.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    /// Rows to write next, in order of marking.
    marked: VecDeque<Row>,
    /// Rows ever taken off `marked`: a mark's number is this plus its place.
    taken: u64,
    /// New rows that may wait, with the time to which.
    deferred: VecDeque<(u64, Row)>,
    /// Ended rows that may wait, likewise.
    ended: VecDeque<(u64, Row)>,
    queues: Vec<QueueNo>,
    /// Idempotency keys of this row and all before it are forgotten.
    forget_keys_to: Option<Row>,
}

/// One transaction's worth of changes.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) writes: Vec<Write>,
    pub(crate) keys: Vec<KeyRecord>,
    pub(crate) queues: Vec<QueueRecord>,
    pub(crate) forget_keys_to: Option<Row>,
    /// Marks up to and with this number are in here or in earlier groups.
    pub(crate) upto: u64,
}

impl Group {
    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.queues.is_empty() && self.forget_keys_to.is_none()
    }

    /// Payload and result bytes in it.
    pub(crate) fn bytes(&self) -> u64 {
        self.writes.iter().map(|write| write.job.payload.len() + write.job.result_len()).sum()
    }
}

/// One job's change.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) row: Row,
    pub(crate) kind: Kind,
    pub(crate) job: Job,
}

/// What to do with a changed job's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A live (or already dead) job's first record.
    Insert,
    /// A live or dead job changed.
    Update,
    /// It ended: its result replaces its record, if it has one.
    Finish { stored: bool },
    /// It was purged.
    Delete,
}

/// An idempotency key's record.
#[derive(Debug)]
pub(crate) struct KeyRecord {
    pub(crate) owner: OwnerId,
    pub(crate) queue: QueueNo,
    pub(crate) key: SmolStr,
    pub(crate) known: Known,
}

/// A queue's record.
#[derive(Debug)]
pub(crate) struct QueueRecord {
    pub(crate) queue: QueueNo,
    pub(crate) model: SmolStr,
    pub(crate) paused: bool,
    pub(crate) enqueued: u64,
    pub(crate) finished: u64,
    pub(crate) dropped: u64,
}

/// A job whose terminal state is now durable.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) row: Row,
    pub(crate) view: JobView,
    /// When its result is forgotten; `None` for a dead letter.
    pub(crate) expires_ms: Option<u64>,
}

impl Lag {
    pub(super) fn mark_queue(&mut self, queue: QueueNo) {
        if !self.queues.contains(&queue) {
            self.queues.push(queue);
        }
    }

    /// As [`Lag::mark_queue`], for a caller that waits for the commit.
    pub(super) fn mark_queue_now(&mut self, queue: QueueNo) {
        self.mark_queue(queue);
        self.marked.push_back(NO_ROW);
    }

    pub(super) fn forget_keys(&mut self, row: Row) {
        self.forget_keys_to = self.forget_keys_to.max(Some(row));
    }

    /// When a deferred row must be written.
    pub(super) fn next_flush(&self) -> Option<u64> {
        let firsts = [self.deferred.front(), self.ended.front()];
        firsts.into_iter().flatten().map(|&(at, _)| at).min()
    }
}

impl Machine {
    /// A job changed: the next group carries it.
    pub(super) fn mark(&mut self, row: Row) {
        if let Some(job) = self.jobs.get_mut(&row)
            && job.dirty != Dirty::Yes
        {
            job.dirty = Dirty::Yes;
            self.lag.marked.push_back(row);
        }
    }

    /// A job came in that nobody waits for the commit of: a group carries it by `at_us`.
    pub(super) fn defer(&mut self, row: Row, at_us: u64) {
        if let Some(job) = self.jobs.get_mut(&row) {
            job.dirty = Dirty::Deferred;
            self.lag.deferred.push_back((at_us, row));
        }
    }

    /// A job ended whose caller is answered already: a group carries its end by `at_us`.
    pub(super) fn defer_end(&mut self, row: Row, at_us: u64) {
        if let Some(job) = self.jobs.get_mut(&row) {
            job.dirty = Dirty::Deferred;
            self.lag.ended.push_back((at_us, row));
        }
    }

    /// A deferred job must be in the journal after all: its caller stops waiting.
    pub(crate) fn hurry(&mut self, id: JobId) {
        if self.find(id).is_some_and(|job| job.dirty == Dirty::Deferred) {
            self.mark(id.locator);
        }
    }

    /// The number of the last mark: once a group with `upto` at least this is
    /// committed, everything changed so far is durable.
    pub(crate) fn last_mark(&self) -> u64 {
        self.lag.taken + self.lag.marked.len() as u64
    }

    /// Whether the next group should not wait.
    pub(crate) fn has_marks(&self) -> bool {
        !self.lag.marked.is_empty()
    }

    /// Takes the next group; empty when there is nothing to write.
    pub(crate) fn take_group(&mut self, now_us: u64) -> Group {
        if self.has_marks() || self.lag.next_flush().is_some_and(|at_us| at_us <= now_us) {
            // A commit costs little more for a hundred rows than for one: whatever has ended
            // goes along, and new ones that are due.
            let ended = std::mem::take(&mut self.lag.ended).into_iter().map(|(_, row)| (0, row));
            for (at_us, row) in ended.chain(std::mem::take(&mut self.lag.deferred)) {
                match self.jobs.get(&row).is_some_and(|job| job.dirty == Dirty::Deferred) {
                    true if at_us <= now_us => self.mark(row),
                    true => self.lag.deferred.push_back((at_us, row)),
                    // It is marked already: kept, it would only wake the writer.
                    false => {}
                }
            }
        }
        let mut group = Group::default();
        let mut bytes = 0;
        let before = self.lag.taken;
        while group.writes.len() < MAX_WRITES && bytes < MAX_BYTES {
            let Some(row) = self.lag.marked.pop_front() else { break };
            self.lag.taken += 1;
            let Some(job) = self.jobs.get_mut(&row) else { continue };
            job.dirty = Dirty::No;
            let first = job.stored == Stored::No;
            let kind = match (&job.phase, first) {
                (Phase::Purged, _) => Kind::Delete,
                (Phase::Finished(_), _) => Kind::Finish { stored: !first },
                (_, true) => Kind::Insert,
                (_, false) => Kind::Update,
            };
            if first {
                job.stored = Stored::InFlight;
                if let Some((scope, known)) = self.keys.of_row(row) {
                    let (owner, queue, key) = (scope.owner, scope.queue, scope.key.clone());
                    group.keys.push(KeyRecord { owner, queue, key, known: known.clone() });
                }
            }
            let job = job.snapshot();
            bytes += job.result_len() + if kind == Kind::Insert { job.payload.len() } else { 0 };
            group.writes.push(Write { row, kind, job });
        }
        group.upto = self.lag.taken;
        // Totals alone are not worth a commit: they go along with the next, or the last.
        let totals = self.lag.taken > before || now_us == u64::MAX;
        if self.lag.forget_keys_to.is_none() && (self.lag.queues.is_empty() || !totals) {
            return group;
        }
        group.forget_keys_to = self.lag.forget_keys_to.take();
        for queue in std::mem::take(&mut self.lag.queues) {
            let state = &self.index.queues[queue as usize];
            group.queues.push(QueueRecord {
                queue,
                model: state.model.clone(),
                paused: state.paused,
                enqueued: state.enqueued,
                finished: state.finished,
                dropped: state.dropped,
            });
        }
        group
    }

    /// The group is durable: what has ended leaves memory and can be told.
    pub(crate) fn committed(&mut self, group: Group) -> Vec<Settled> {
        let mut settled = Vec::new();
        for write in &group.writes {
            let Some(job) = self.jobs.get_mut(&write.row) else { continue };
            if job.stored == Stored::InFlight {
                job.stored = Stored::Yes;
            }
            // A dead letter's payload is not needed until it is redriven.
            let cold = self.resident_bytes > self.resident_limit || matches!(job.phase, Phase::Dead { .. });
            if cold && job.payload.resident() > 0 {
                self.resident_bytes -= job.payload.resident();
                job.payload = Payload::Disk(job.payload.len());
            }
            if job.state().is_terminal() && job.dirty == Dirty::No {
                let job = &self.jobs[&write.row];
                let view = self.view_of(write.row, job);
                let expires_ms = match &job.phase {
                    Phase::Finished(finished) => Some(finished.at_us / 1_000 + job.result_ttl_ms),
                    _ => None,
                };
                settled.push(Settled { row: write.row, view, expires_ms });
                if !matches!(job.phase, Phase::Dead { .. }) {
                    self.jobs.remove(&write.row);
                }
            }
        }
        settled
    }

    /// The group was not written. Returns the rows that are refused: the
    /// journal never had them and nobody was told of them.
    pub(crate) fn failed(&mut self, group: Group) -> Vec<Row> {
        let mut refused = Vec::new();
        for write in &group.writes {
            let Some(job) = self.jobs.get_mut(&write.row) else { continue };
            if job.stored == Stored::InFlight {
                self.index.leave(write.row, job);
                self.resident_bytes -= job.payload.resident();
                self.index.queues[job.queue as usize].enqueued -= 1;
                self.jobs.remove(&write.row);
                self.keys.remove(write.row);
                refused.push(write.row);
            } else {
                self.mark(write.row);
            }
        }
        group.queues.iter().for_each(|queue| self.lag.mark_queue(queue.queue));
        self.lag.forget_keys_to = self.lag.forget_keys_to.max(group.forget_keys_to);
        refused
    }
}
