//! The result caches: answers of a model, kept by what was asked.
//!
//! [`ResultCache`] is one model's cache: the bounds and the eviction policies, the
//! flights (identical requests in the air become one run) and the counters. [`Caches`]
//! has those of all models and what the answer says about them.
//!
//! Invariants:
//! - Only successes are kept, and never more than `max_entries` of them or
//!   `max_bytes` including the bookkeeping of each.
//! - An answer is kept under the digest of the version that gave it, so an answer of a
//!   swapped version is never given; [`ResultCache::retain`] only frees its memory early.
//! - Of any number of identical requests in the air exactly one runs at a time.

mod config;
mod flight;
mod key;
mod models;
mod result_cache;
#[cfg(test)]
mod simulation_tests;
mod store;

pub use config::{CacheConfig, CachePolicy};
pub use flight::{Flight, Follower};
pub use key::{CacheKey, KeyHasher, Source};
pub use models::{CacheOutcome, CacheOverrides, CacheSlot, Caches};
pub use result_cache::{Join, ResultCache};
pub use store::CacheStats;
