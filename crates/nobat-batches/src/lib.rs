//! Files that callers upload, and batches: a file of requests, one a line, answered in
//! the background into a file of answers.
//!
//! Owns what a file and a batch are ([`files`], [`batch`]), where they are kept (contents in
//! a folder or a bucket, everything else in the metadata store) and how a batch is carried out
//! whatever is killed meanwhile ([`runner`]). It does not know HTTP, models or what a line asks for:
//! whoever starts it gives it [`AnswerLine`].
//!
//! Invariants:
//! - One process carries a batch out at a time: whoever wrote its record last. Every change of the
//!   record is a swap of what was read, so a process that lost the batch changes nothing.
//! - A line is in the output once, however often it ran: each carrier appends to a segment
//!   of its own, and what counts of the segments before it is what it measured when it took over.
//! - A line's job is found again by its idempotency key (at-least-once, and rarely twice).
//! - Files and records are bounded: a file has a largest size, all together a largest sum, and
//!   everything an end.

mod answer;
mod asked;
pub mod batch;
#[cfg(test)]
mod bounds_tests;
mod carrier;
pub mod files;
mod held;
mod input;
mod random_id;
pub mod runner;
pub mod settings;
mod written;

pub use answer::{AnswerLine, LineAnswer};
pub use batch::store::{Batches, NewBatch};
pub use files::FileContents;
pub use files::store::{Files, Upload};
pub use runner::RunningBatches;
pub use settings::FileSettings;
