//! The edge over real listeners: cache, keys, limits, metrics, monitor.

mod cache;
mod doors;
mod grpc;
mod house;
mod key_calls;
mod keys;
mod limits;
mod operations;
mod origins;
mod sessions;
mod shared;
mod shares;
mod timing;
mod tls;
