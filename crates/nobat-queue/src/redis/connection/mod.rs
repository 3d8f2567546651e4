//! Reaching Redis, and how a lost connection comes back.

mod backoff;
mod endpoint;
mod fault;
mod manager;
mod wire;

pub(crate) use backoff::BACKOFF;
pub use endpoint::single_server;
pub(crate) use endpoint::{Endpoint, OnPush};
pub(crate) use fault::{Fault, fault, parse, to_error, unavailable, unexpected};
pub(crate) use manager::{ConnectionManager, RefusalCause};
pub(crate) use wire::{CONNECT_TIMEOUT, Connection};
