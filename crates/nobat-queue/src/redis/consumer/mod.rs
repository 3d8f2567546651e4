//! A worker session's end of a queue: settle and lease in one call, waiting without
//! polling, and leases that are kept alive meanwhile.

mod push_delivery;
mod renewer;
mod session;
mod settle_call;
mod wake_token;

pub(crate) use renewer::RedisRenewer;
pub(crate) use session::RedisConsumer;
