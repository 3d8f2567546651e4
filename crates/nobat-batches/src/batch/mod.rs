//! Batches: a file of requests, one a line, and what has become of them.
//!
//! [`record`] and [`line`](mod@line) are pure; [`store`] swaps records; [`segments`] are the files that
//! carriers append answers to.

pub mod line;
pub mod record;
pub(crate) mod segments;
pub mod store;

pub use record::{Batch, Status};
