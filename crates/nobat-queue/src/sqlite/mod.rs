//! The queue in one process, on SQLite: no server, the same semantics.
//!
//! [`machine`] is the running queue, in memory and pure; [`journal`] is its
//! durable record, written by one thread in groups ([`writer`]). A caller is
//! answered after the commit that holds what it was told:
//! - an enqueue after its insert;
//! - a `call`, a `wait` and every reader after the commit of the job's end. The
//!   job itself may run before its insert is committed, and a job that ends
//!   before then is written once, as ended.
//!
//! Invariants:
//! - `kill -9` takes back nothing that was answered: what was not over is in its
//!   old place at the next start, and what was running has a death counted.
//! - One process per folder; a second is refused by a lock.
//! - SQL is in [`journal`] alone, the lock over the machine in [`store`].
//! - Payloads past a byte budget live on disk only and are read when leased.

mod checkpoint;
mod client;
mod clock;
mod consumer;
mod disk_watchdog;
mod folder;
mod journal;
mod machine;
mod metadata;
mod queue;
mod read;
mod recent;
mod registry;
mod rows;
mod startup;
mod store;
#[cfg(test)]
mod tests;
mod wal;
mod writer;

pub use queue::SqliteQueue;
