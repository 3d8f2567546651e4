//! What tests of several crates need: real Redis servers, a proxy that loses replies, a
//! machine's faults, waiting for a state, jobs and signatures to begin from.
//!
//! For tests alone: whatever fails here panics with what was missing.

pub mod jobs;
pub mod proxy;
pub mod redis_server;
pub mod shim;
pub mod signatures;
pub mod wait;

pub use redis_server::{RedisServer, Sentinel, free_port};
pub use wait::{PATIENCE, until, until_async};
