//! One job in memory: everything about it except, past the byte budget, its
//! payload.

use bytes::Bytes;
use nobat_core::job::{JobError, JobState, LeaseToken};
use nobat_core::request_trace::{RequestTrace, is_given};
use nobat_core::retry::RetryPolicy;
use nobat_core::score::rank;
use nobat_core::tags::{Tags, hash_of_request};
use nobat_core::{IdIssuer, JobId, OwnerId};
use smol_str::SmolStr;

/// A job's row in the journal, the locator of its public id. Rows are handed
/// out in order of arrival.
pub(crate) type Row = u64;

/// Index of a queue (a model) in the machine; also its key in the journal.
pub(crate) type QueueNo = u32;

/// One job, live or dead.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) random: u128,
    pub(crate) owner: OwnerId,
    pub(crate) tombstone_min: u32,
    pub(crate) queue: QueueNo,
    pub(crate) priority: u8,
    pub(crate) background: bool,
    pub(crate) retry: RetryPolicy,
    pub(crate) rows: u32,
    /// Place among equals; see [`nobat_core::score`].
    pub(crate) position: i64,
    pub(crate) created_us: u64,
    /// Enqueued, or last became due.
    pub(crate) queued_us: u64,
    pub(crate) deadline_us: Option<u64>,
    pub(crate) result_ttl_ms: u64,
    pub(crate) attempts: u32,
    pub(crate) deaths: u32,
    pub(crate) trace: SmolStr,
    pub(crate) tags: Tags,
    pub(crate) payload: Payload,
    pub(crate) error: Option<Box<JobError>>,
    pub(crate) phase: Phase,
    pub(crate) stored: Persisted,
    pub(crate) dirty: Dirty,
    /// Came with an idempotency key.
    pub(crate) keyed: bool,
    /// How long its success may wait for a group, because its caller is answered from
    /// memory; 0: not at all.
    pub(crate) relaxed_us: u64,
}

/// Where a payload is.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    /// In memory (and, once stored, in the journal too).
    Memory(Bytes),
    /// Only in the journal; its length.
    Disk(u64),
}

impl Payload {
    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Payload::Memory(bytes) => bytes.len() as u64,
            Payload::Disk(len) => *len,
        }
    }

    /// Bytes it holds in memory.
    pub(crate) fn resident(&self) -> u64 {
        match self {
            Payload::Memory(bytes) => bytes.len() as u64,
            Payload::Disk(_) => 0,
        }
    }
}

/// Where a job stands, with what only that state knows.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// Waits for its time, never run.
    Scheduled { due_us: u64 },
    /// Waits to run again.
    Failed { due_us: u64 },
    /// In its queue's ready order.
    Queued,
    /// On its last chance while another job has its own: out of the ready order for a
    /// moment, its place kept.
    Postponed { due_us: u64 },
    /// Held by a consumer.
    Leased { token: LeaseToken, expires_us: u64 },
    /// A dead letter.
    Dead { at_us: u64 },
    /// Terminal; leaves memory with the commit that holds it.
    Finished(Box<Finished>),
    /// A purged dead letter; leaves memory with the commit that deletes it.
    Purged,
}

/// A terminal state on its way to the journal.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    pub(crate) state: JobState,
    pub(crate) at_us: u64,
    /// Packed result of a success.
    pub(crate) result: Option<Bytes>,
}

/// Whether the journal has the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persisted {
    /// Only memory has it.
    No,
    /// Its first record is in the group being committed.
    InFlight,
    /// The journal has a record of it.
    Yes,
}

/// Whether the journal lags behind memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dirty {
    /// No, or what lags is in the group being committed.
    No,
    /// Yes, but nobody was promised anything: it may wait a little.
    Deferred,
    /// Yes: goes into the next group.
    Yes,
}

impl Job {
    /// Its rank among the ready jobs; see [`nobat_core::score`].
    pub(crate) fn rank(&self) -> i16 {
        rank(self.priority, self.background)
    }

    /// The public id of this job at `row`.
    pub(crate) fn id(&self, row: Row, ids: &IdIssuer) -> JobId {
        ids.issue(self.random, self.tombstone_min, row, self.owner)
    }

    /// The state as a reader names it.
    pub(crate) fn state(&self) -> JobState {
        match &self.phase {
            Phase::Scheduled { .. } => JobState::Scheduled,
            Phase::Failed { .. } | Phase::Postponed { .. } => JobState::Failed,
            Phase::Queued => JobState::Queued,
            Phase::Leased { .. } => JobState::Leased,
            Phase::Dead { .. } => JobState::Dead,
            Phase::Finished(finished) => finished.state,
            Phase::Purged => JobState::Dead,
        }
    }

    /// Bytes of its result.
    pub(crate) fn result_len(&self) -> u64 {
        match &self.phase {
            Phase::Finished(finished) => finished.result.as_ref().map_or(0, |result| result.len() as u64),
            _ => 0,
        }
    }

    /// By what the index finds it: its tags, and its request's id where the caller gave it.
    pub(crate) fn hashes(&self) -> Vec<u64> {
        let request = RequestTrace::from(self.trace.as_str()).request_id;
        let of_request = is_given(&request).then(|| hash_of_request(&request));
        self.tags.hashes().chain(of_request).collect()
    }

    /// Whether a terminal state has been reached that the journal may not have
    /// yet: a reader waits for the commit, so that no crash takes an answer back.
    pub(crate) fn is_settling(&self) -> bool {
        self.state().is_terminal()
            && (self.dirty != Dirty::No || self.stored != Persisted::Yes || !matches!(self.phase, Phase::Dead { .. }))
    }
}
