//! The queue: durable, prioritized jobs under fenced leases, at least once.
//!
//! Owns the contract (`api/`, [`Queue`] first), its two implementations and the
//! apalis backend over it:
//! - [`redis`]: many machines around one Redis (or cluster, or Sentinel);
//! - [`sqlite`]: one process, no server, the same semantics.
//!
//! It deliberately knows no HTTP and no ONNX Runtime: payloads and results are
//! opaque bytes here. Redis commands appear only under `redis/`, SQL only under
//! `sqlite/`, and one conformance suite (`tests/conformance`) holds both.
//!
//! Invariants:
//! - At-least-once: an accepted job reaches exactly one terminal state that a
//!   reader sees until its ttl; an attempt may run twice after a crash.
//! - Every transition is atomic, and settle and renew are fenced by the lease
//!   token: a worker that slept through its lease cannot overwrite a newer attempt.
//! - Nothing polls: an idle consumer blocks until there is work or time is due.
//! - No call's cost grows with the backlog.

mod api;
pub mod backend;
mod count;
pub mod drained_workers;
mod errors;
#[doc(hidden)]
pub mod fuzz;
mod index;
mod lease_tracker;
pub mod redis;
pub mod route_jobs;
pub mod sqlite;
mod store;
mod worker_signals;

pub use api::*;
pub use count::{CountBounds, JobCount, count};
pub use store::StoreSettings;
