//! The worker: leases jobs, runs them on ONNX Runtime in batches, settles each.
//!
//! A job's way: [`run`] leases it, [`batch`] decides with which others it runs, the
//! engine runs them; [`chain`] carries out those of models that are made of others. A model's way: [`models`] finds, checks and loads it, [`tune`]
//! measures it. The crate knows no HTTP and no gateway: signatures and statistics go
//! out through the queue's registry.
//!
//! Invariants:
//! - Only this crate links `ort`.
//! - Every leased job is settled exactly once or its lease given back, whatever
//!   a model does; a failing batch costs only the guilty job an attempt.
//! - A failed load leaves what serves serving.
//! - Decisions (planner, controllers, sizing) are pure; callers pass `now`.

mod batch;
mod chain;
pub mod config;
pub mod engine;
mod exporter;
mod fleet;
#[doc(hidden)]
pub mod fuzz;
mod gpu;
pub mod inspect;
mod model;
mod models;
mod process;
mod registration;
mod run;
mod state;
mod stats;
mod transform_threads;
mod tune;
mod watchdog;
mod worker;

pub use config::WorkerConfig;
pub use models::rows;
pub use process::{Args, run};
pub use tune::example;
pub use worker::{StartError, Worker, WorkerHandle};
