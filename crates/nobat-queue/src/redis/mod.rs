//! The queue on Redis.
pub mod ledger;
