//! The queue on Redis 7: many gateways and workers around one server, Sentinel
//! group or cluster.
//!
//! Owns everything that speaks Redis. Read [`keys`] first (every key), then
//! [`record`] (how a job is packed), then `scripts/*.lua` (every transition).
//! The decisions and what was measured for them stand in `docs/adr/0001` and
//! `0002`.
//!
//! - [`client`]: a gateway thread's enqueues (coalesced) and waits (pushed);
//! - [`consumer`]: settle and lease in one call, waiting without polling, jobs pushed
//!   to a waiting consumer, leases kept alive from a thread of their own;
//! - [`store`]: what all parts of a process share;
//! - [`queue`]: reading, dead letters, cached answers and rates that gateways share;
//! - [`index`]: finding jobs by when they came and by their tags;
//! - [`sweeper`]: what time does to idle queues, by one process per queue;
//! - [`registry`]: workers and commands to them;
//! - [`readiness`]: whether jobs are taken;
//! - [`connection`]: how connections are made, and come back.
//!
//! Invariants:
//! - Time is `redis.call('TIME')`; no host's clock decides anything.
//! - Every range has a limit, every reply is bounded, no key's cost grows with
//!   the backlog.
//! - A call whose reply was lost may be repeated: an enqueue is recognised by
//!   its id, a settlement by what it wrote, a lease by its token.

mod audit;
mod client;
mod connection;
mod consumer;
mod identity;
mod index;
mod jobs;
mod keys;
pub(crate) mod list;
mod metadata;
mod queue;
mod readiness;
mod record;
mod registry;
mod scripts;
mod server;
mod startup;
mod store;
mod sweep_schedule;
mod sweeper;

pub use connection::single_server;
pub use queue::RedisQueue;
