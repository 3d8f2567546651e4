//! What memory knows and the journal does not yet, and the groups in which it is
//! written.

use std::collections::VecDeque;

use nobat_core::job::JobView;
use smol_str::SmolStr;

use super::idempotency::{KeyScope, KnownKey};
use super::job::{Job, QueueNo, Row};

/// No job has this row: its mark only gives a waiter something to wait for.
const NO_ROW: Row = 0;

/// What the next groups have to write.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    /// Rows to write next, in order of marking.
    pub(super) marked: VecDeque<Row>,
    /// Rows ever taken off `marked`: a mark's number is this plus its place.
    pub(super) taken: u64,
    /// New rows that may wait, with the time to which.
    pub(super) deferred: VecDeque<(u64, Row)>,
    /// Ended rows that may wait, likewise.
    pub(super) ended: VecDeque<(u64, Row)>,
    pub(super) queues: Vec<QueueNo>,
    /// Idempotency keys of this row and all before it are forgotten.
    pub(super) forget_keys_to: Option<Row>,
}

/// One transaction's worth of changes.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) writes: Vec<JobWrite>,
    pub(crate) keys: Vec<IdempotencyRecord>,
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
pub(crate) struct JobWrite {
    pub(crate) row: Row,
    pub(crate) kind: WriteKind,
    pub(crate) job: Job,
}

/// What to do with a changed job's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteKind {
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
pub(crate) struct IdempotencyRecord {
    pub(crate) scope: KeyScope,
    pub(crate) known: KnownKey,
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
