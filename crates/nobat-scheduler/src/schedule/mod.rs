//! Periodic tasks: when they are due and what they are.
//!
//! Owns the crontab ([`crontab`]), the rule that turns "last looked" and "now"
//! into ticks to run ([`plan`]), and a task's configuration and history
//! ([`task`]). It deliberately reads no clock: callers pass Unix seconds, so
//! clock changes, leap days and suspends are tested as plain values.
//!
//! Invariants:
//! - A tick's identity is its Unix second: however many schedulers look, and
//!   however often, the same tick has the same key.
//! - Looking twice at the same stretch of time gives the same ticks.

pub mod crontab;
pub mod plan;
pub mod task;

pub use crontab::Crontab;
pub use plan::{Ticks, due};
pub use task::{Exec, Fetch, Misfire, Overlap, Periodic, Predict, Reload, RunOutcome, RunRecord, TaskKind, Vacuum};
