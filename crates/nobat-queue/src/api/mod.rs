//! The contract both stores keep. See each method for what is atomic.
//!
//! Four roles, four traits, because they live in different places:
//! - [`Queue`]: shared by a process; reading, administration, the registry.
//! - [`QueueClient`]: one per gateway thread; enqueues and waits. It coalesces what
//!   arrives in one tick of its runtime into one round trip.
//! - [`Consumer`]: one per session (executor thread); settles and leases in one
//!   round trip, and waits for work without polling. Its [`Renewer`] lives on
//!   another thread, where an inference cannot starve it.
//! - [`MetadataStore`]: the small, rare state that processes share beside jobs.

mod client;
mod condition;
mod consumer;
mod metadata;
mod queue;
mod settings;
mod worker;

pub use client::{Accepted, QueueClient};
pub(crate) use condition::Refusals;
pub use condition::{Condition, Refusal};
pub use consumer::{
    Consumer, LAST_CHANCE, LEASE, LeaseReply, MAX_DEATHS, POSTPONED, RENEW_EVERY, Renewal, Renewer, SILENCE_MIN,
    SWEEP_LIMIT,
};
pub use metadata::{MetadataStore, Timer};
pub use queue::{Counts, ListFilter, Page, Queue, RateDecision, StoreHealth};
pub use settings::{Durability, QueueSettings};
pub use worker::{LEASES, LOADS, LoadProgress, RESIDENT_BYTES, WorkerCommand, WorkerInfo};
