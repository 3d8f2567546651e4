//! One suite that both stores pass: every rule of the queue, seen through the
//! `Queue` trait alone. A test says nothing that is true of one store only.

mod stores;

mod admin;
mod cancel;
mod deadletters;
mod idempotency;
mod index;
mod leases;
mod limits;
mod model;
mod model_based;
mod order;
mod payloads;
mod play;
mod registry;
mod retries;
mod time;
mod waiting;
mod wakeups;
