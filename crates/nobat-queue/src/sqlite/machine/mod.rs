//! The running queue as a state machine: which job stands where, in memory.
//!
//! Owns every transition of a job and every order among jobs. It is pure: it
//! reads no clock, no file and no socket; callers pass `now_us` and random bits,
//! and get decisions back. What must become durable is handed out in groups
//! ([`Machine::take_group`]), what must be woken in [`Machine::take_wakes`].
//!
//! Invariants:
//! - A job is in exactly one place: its queue's ready order, the schedule, a
//!   lease, the dead letters, or on its way out (finished, purged).
//! - A transition only ever follows from the job's present phase; settle and
//!   renew need the token of the present lease.
//! - Nothing here costs more with a longer backlog than a tree's depth, and one
//!   call sweeps at most [`SWEEP_LIMIT`](crate::api::SWEEP_LIMIT) jobs of each kind.

mod admin;
mod group;
mod idempotency;
mod idle_consumers;
mod index;
mod job;
mod lease;
mod ready;
mod state;
#[cfg(test)]
mod tests;
mod write_behind;

pub(crate) use admin::Looked;
pub(crate) use idempotency::{KeyScope, KnownKey};
pub(crate) use idle_consumers::ConsumerNo;
pub(crate) use job::{Dirty, Finished, Job, Payload, Persisted, Phase, QueueNo, Row};
pub(crate) use state::{Commit, Enqueued, Machine};
pub(crate) use write_behind::{Group, IdempotencyRecord, JobWrite, QueueRecord, WriteKind};
