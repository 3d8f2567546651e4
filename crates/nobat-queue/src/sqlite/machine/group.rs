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

use nobat_core::JobId;

use super::job::{Dirty, Payload, Persisted, Phase, Row};
use super::state::Machine;
use super::write_behind::{Group, IdempotencyRecord, JobWrite, QueueRecord, Settled, WriteKind};

/// Most jobs in one group: it is put together, and taken leave of, under the lock.
const MAX_WRITES: usize = 128;
/// Most payload and result bytes in one group (but at least one job).
const MAX_BYTES: u64 = 32 << 20;

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
            let first = job.stored == Persisted::No;
            let kind = match (&job.phase, first) {
                (Phase::Purged, _) => WriteKind::Delete,
                (Phase::Finished(_), _) => WriteKind::Finish { stored: !first },
                (_, true) => WriteKind::Insert,
                (_, false) => WriteKind::Update,
            };
            if first {
                job.stored = Persisted::InFlight;
                if let Some((scope, known)) = self.keys.of_row(row) {
                    group.keys.push(IdempotencyRecord { scope: scope.clone(), known: known.clone() });
                }
            }
            let job = (**job).clone();
            bytes += job.result_len() + if kind == WriteKind::Insert { job.payload.len() } else { 0 };
            group.writes.push(JobWrite { row, kind, job });
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
            if job.stored == Persisted::InFlight {
                job.stored = Persisted::Yes;
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
                    self.forget(write.row);
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
            if job.stored == Persisted::InFlight {
                self.index.leave(write.row, job);
                self.resident_bytes -= job.payload.resident();
                self.index.queues[job.queue as usize].enqueued -= 1;
                self.forget(write.row);
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
