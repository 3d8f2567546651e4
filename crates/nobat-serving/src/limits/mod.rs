//! How much is let in: a rate per caller, requests in flight per caller and in
//! all, and whether a deadline can still be met.
//!
//! Everything that needs no body is decided before the body is read, so a flood
//! costs its heads. What is this caller's doing is a 429 (`rate_limited`,
//! `quota_exceeded`), what is ours is a 503 (`queue_full`); both say when to come
//! again. Queue length limits are the store's (`nobat_queue::QueueSettings`):
//! it alone counts all gateways.
//!
//! Invariants:
//! - A permit is counted from admission to the end of the answer, and given
//!   back however the request ends.
//! - A limit never queues: it lets in or refuses. Only a caller with a rate, where
//!   gateways share a store, waits for one round trip to it ([`Limits::settle_rate`]).

pub mod backlog;
mod bytes;
pub mod gcra;
mod limiter;
mod lookups;
mod quota;
mod settings;
mod share;
mod shared_rate;
mod tokens;

pub use backlog::Backlog;
pub use bytes::{COUNTED_FROM, HeldBytes};
pub use gcra::{Decision, Rate};
pub use limiter::{AdmissionPermit, Limits};
pub use quota::{Quota, QuotaCell};
pub use settings::LimitsConfig;
pub use share::{Holder, NoPlace, Seat, Seats, judge};
