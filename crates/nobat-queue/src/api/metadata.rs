//! The metadata store: the small, low-rate state that a deployment's processes share
//! beside their jobs: routes, periodic tasks and their history, webhook
//! deliveries.
//!
//! Four shapes are enough for all of it, so neither store knows what they hold:
//! - *locks*: a key that exactly one caller gets until it expires;
//! - *documents*: named values in a named space;
//! - *logs*: the newest so many entries, newest first;
//! - *timers*: items that fall due, are taken under a lease and come back when
//!   the taker dies: at-least-once.
//!
//! It is not a queue of jobs: nothing here is on a request's way, and a space or
//! set is expected to hold thousands of entries, not millions.
//!
//! Invariants:
//! - Each call is atomic, and time is the store's (a lock cannot be stolen by a
//!   host whose clock runs ahead).
//! - Every method fails with `queue_unavailable` when the store cannot be reached.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nobat_core::Result;

/// One timer of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    /// Its key in the set.
    pub key: String,
    /// What was stored with it.
    pub value: Bytes,
}

/// Shared low-rate state; see the module.
#[async_trait]
pub trait MetadataStore: Send + Sync + 'static {
    /// The store's clock, milliseconds since 1970: the same for every process
    /// around a store, whatever their hosts' clocks say.
    async fn now_ms(&self) -> Result<u64>;

    /// Takes `key` for `holder` for `ttl`, or prolongs its hold. Of any number of
    /// holders exactly one gets `true` until the lock expires or is released.
    async fn lock(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool>;

    /// Gives up a lock; no change when somebody else holds it by now.
    async fn unlock(&self, key: &str, holder: &str) -> Result<()>;

    /// Every document of a space, in no order.
    async fn documents(&self, space: &str) -> Result<Vec<(String, Bytes)>>;

    /// Writes a document, replacing what was there.
    async fn put(&self, space: &str, key: &str, value: &[u8]) -> Result<()>;

    /// Removes a document; whether it was there.
    async fn remove(&self, space: &str, key: &str) -> Result<bool>;

    /// Appends to a log and forgets all but the newest `keep` entries.
    async fn append(&self, log: &str, entry: &[u8], keep: usize) -> Result<()>;

    /// The newest `limit` entries of a log, newest first.
    async fn tail(&self, log: &str, limit: usize) -> Result<Vec<Bytes>>;

    /// Adds a timer that falls due after `delay`; `false`, and no change, when
    /// the set has this key already.
    async fn add_timer(&self, set: &str, key: &str, value: &[u8], delay: Duration) -> Result<bool>;

    /// A timer's value as it stands; `None` when the set has no such key.
    async fn timer(&self, set: &str, key: &str) -> Result<Option<Bytes>>;

    /// Takes up to `limit` due timers, earliest first; each comes back after
    /// `lease` unless it is moved or removed by then.
    async fn take_due(&self, set: &str, limit: usize, lease: Duration) -> Result<Vec<Timer>>;

    /// Gives an existing timer a new value and due time; `false` when it is gone.
    async fn move_timer(&self, set: &str, key: &str, value: &[u8], delay: Duration) -> Result<bool>;

    /// As [`MetadataStore::move_timer`], and only while the timer's value is `from`, or `to`
    /// already (a call that was repeated); `false`, and no change, otherwise. Of
    /// any number of callers with a `to` of their own exactly one gets `true`.
    async fn swap_timer(&self, set: &str, key: &str, from: &[u8], to: &[u8], delay: Duration) -> Result<bool>;

    /// Removes a timer; whether it was there.
    async fn remove_timer(&self, set: &str, key: &str) -> Result<bool>;

    /// Up to `limit` timers of a set with the time each has left, earliest first.
    async fn timers(&self, set: &str, limit: usize) -> Result<Vec<(Timer, Duration)>>;
}
