//! The worker: leases jobs, runs them on ONNX Runtime in batches, settles each.
//!
//! Owns the model repository, sessions, the batch planner and its controllers.
//! It deliberately knows no HTTP and no gateway: models' signatures and
//! statistics go out through the queue's registry.
//!
//! Invariants:
//! - Only this crate links `ort`.
//! - Every leased job is settled exactly once or its lease given back, whatever
//!   a model does; a failing batch costs only the guilty job an attempt.
//! - A failed load leaves what serves serving.
//! - Decisions (planner, controllers, sizing) are pure; callers pass `now`.

pub mod batch;
pub mod config;
pub mod engine;
pub mod example;
mod executor;
mod exposition;
#[doc(hidden)]
pub mod fuzz;
pub mod golden;
mod gpu;
pub mod model;
pub mod probe;
mod renew;
pub mod repository;
pub mod rows;
mod runner;
pub mod samples;
pub mod sizing;
pub mod stats;
pub mod watchdog;
mod worker;

pub use config::WorkerConfig;
pub use worker::{StartError, Worker, WorkerHandle};
