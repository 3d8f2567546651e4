//! What stands between callers and a model's session: texts in and vectors out, where
//! the graph takes token ids and gives hidden states.
//!
//! A [`Transform`] is pure: no threads, files, clocks or queue. The worker calls it in
//! four steps and decides when and where:
//!
//! 1. [`prepare`](Transform::prepare), once a job, beside the sessions: a job's inputs to
//!    [`Row`]s, each with its cost. Where no row is needed, the session is not asked.
//! 2. [`collate`](Transform::collate), once a run: rows of any jobs to the session's inputs,
//!    padded to the longest.
//! 3. [`finish`](Transform::finish), once a run: the session's outputs to what each row
//!    came to, read out of the runtime's own buffers.
//! 4. [`answer`](Transform::answer), once a job: what all its rows came to, as the outputs
//!    that its caller sees.
//!
//! Rows of one job may run in several runs, beside rows of other jobs, in any order.

mod contract;
mod towers;

pub use contract::{CallerSignature, Finished, JobState, Prepared, Row, SessionOutput, StepFunction, Transform};
pub use towers::Towers;
