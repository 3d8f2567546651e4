//! The edge over real listeners: cache, keys, limits, metrics, monitor.

mod cache;
mod house;
mod keys;
mod limits;
mod operations;
