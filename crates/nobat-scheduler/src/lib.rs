//! Periodic tasks at work: any number of schedulers look at the clock, exactly
//! one run per tick is enqueued, and runs are carried out and recorded.
//!
//! Owns when a task is due ([`schedule`], pure), the scheduler's step and its beat
//! ([`scheduler`]), the way of runs between processes ([`run_queue`]: timers of the metadata store,
//! and apalis-redis beside them), the running of each kind
//! ([`runner`], [`kinds`]) and what is stored and shown of it ([`schedule_store`]).
//!
//! It is a crate of its own because a scheduler may live in a gateway, in a
//! worker or alone, and gateway and worker never depend on each other.
//!
//! Invariants:
//! - The store's clock is the one that counts; a host's own decides nothing.
//! - A run's key is its task and tick; the run queue takes a key once, in the very
//!   step that makes the run durable. A scheduler killed at any point neither
//!   loses nor doubles a tick that another one sees.
//! - A run may be carried out twice after a crash (at-least-once); the job of a
//!   `predict` carries the run's key as its idempotency key and exists once.

mod config;
#[doc(hidden)]
pub mod fuzz;
mod kinds;
mod request;
mod run;
pub mod run_queue;
mod runner;
pub mod schedule;
pub mod schedule_store;
mod scheduler;

pub use config::SchedulerSettings;
pub use run::{Handler, RunRequest};
pub use run_queue::RunQueue;
pub use schedule_store::ScheduleStore;
pub use scheduler::{Scheduler, SchedulerHandle, start, start_on};
