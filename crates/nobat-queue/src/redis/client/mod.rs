//! A gateway thread's end: enqueues that arrived in one tick of its runtime go in one
//! call per model, and finished jobs come back as pushed messages on the same
//! connection.
//!
//! Invariants:
//! - A waiter is registered before its job is sent (or looked for): what ends in
//!   between is not missed. After a reconnect every waiter is looked up, and old
//!   ones every few seconds in any case.
//! - `call` waits for the job's end only; an enqueue that fails ends it too.
//! - An enqueue without an answer is sent again under the same id; the script
//!   accepts it once.

mod aof_wait;
mod calls;
mod enqueue;
mod outgoing;
mod recheck;
mod state;
mod waiters;

pub(crate) use calls::RedisClient;
