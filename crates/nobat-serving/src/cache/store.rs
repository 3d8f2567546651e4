//! The kept answers under their bounds: an exact LRU list with an optional
//! time to live, or moka's TinyLFU.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lru::LruCache;
use moka::notification::RemovalCause;
use serde::Serialize;

use super::config::{CacheConfig, CachePolicy};
use super::key::{CacheKey, Source};

/// What an entry costs beside its answer: key, links, table slot and the
/// reference-counted buffer's head, rounded up.
const ENTRY_BYTES: u64 = 160;

/// What a cache has done and holds. The first five only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CacheStats {
    /// Answered from the cache.
    pub hits: u64,
    /// Not there; became a run.
    pub misses: u64,
    /// Not there, and answered by another request's run.
    pub coalesced: u64,
    /// Pushed out by the bounds.
    pub evicted: u64,
    /// Unused for longer than the ttl.
    pub expired: u64,
    /// Entries held.
    pub entries: u64,
    /// Bytes held, bookkeeping included.
    pub bytes: u64,
}

/// One policy at work.
pub(super) enum Store {
    Recency(Recency),
    Frequency(Frequency),
}

impl Store {
    pub(super) fn new(config: &CacheConfig) -> Store {
        let ttl = (config.ttl_s > 0).then(|| Duration::from_secs(config.ttl_s));
        match config.policy {
            CachePolicy::Lru | CachePolicy::Ttl => Store::Recency(Recency {
                entries: LruCache::unbounded(),
                max_entries: NonZeroUsize::new(config.max_entries).unwrap_or(NonZeroUsize::MIN),
                max_bytes: config.max_bytes,
                ttl,
                bytes: 0,
                evicted: 0,
                expired: 0,
            }),
            CachePolicy::Lfu => Store::Frequency(Frequency::new(config, ttl)),
        }
    }

    pub(super) fn get(&mut self, key: CacheKey, now: Instant) -> Option<Bytes> {
        match self {
            Store::Recency(store) => store.get(key, now),
            Store::Frequency(store) => store.cache.get(&key),
        }
    }

    pub(super) fn put(&mut self, key: CacheKey, answer: Bytes, now: Instant) {
        // An answer may be a slice of a larger message, which it would keep alive.
        let answer = Bytes::copy_from_slice(&answer);
        match self {
            Store::Recency(store) => store.put(key, answer, now),
            Store::Frequency(store) => store.put(key, answer),
        }
    }

    pub(super) fn retain(&mut self, live: &[Source]) {
        match self {
            Store::Recency(store) => store.retain(live),
            Store::Frequency(store) => {
                let dead = store.cache.iter().map(|(key, _)| *key).filter(|key| !live.contains(&key.source));
                dead.for_each(|key| store.cache.invalidate(&key));
            }
        }
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        match self {
            Store::Recency(store) => store.sweep(now),
            Store::Frequency(store) => store.cache.run_pending_tasks(),
        }
    }

    pub(super) fn stats(&self) -> CacheStats {
        match self {
            Store::Recency(store) => CacheStats {
                evicted: store.evicted,
                expired: store.expired,
                entries: store.entries.len() as u64,
                bytes: store.bytes,
                ..CacheStats::default()
            },
            Store::Frequency(store) => {
                store.cache.run_pending_tasks();
                CacheStats {
                    evicted: store.removed.evicted.load(Relaxed),
                    expired: store.removed.expired.load(Relaxed),
                    entries: store.cache.entry_count(),
                    bytes: store.cache.weighted_size(),
                    ..CacheStats::default()
                }
            }
        }
    }
}

fn weight(answer: &Bytes) -> u64 {
    answer.len() as u64 + ENTRY_BYTES
}

/// Entries in the order of their last use. Because every entry has the same
/// ttl, that order is also the order in which they expire: what expired is
/// always a run at the old end.
pub(super) struct Recency {
    entries: LruCache<CacheKey, Entry>,
    max_entries: NonZeroUsize,
    max_bytes: u64,
    ttl: Option<Duration>,
    bytes: u64,
    evicted: u64,
    expired: u64,
}

struct Entry {
    answer: Bytes,
    last_used: Instant,
}

impl Recency {
    fn get(&mut self, key: CacheKey, now: Instant) -> Option<Bytes> {
        self.sweep(now);
        let entry = self.entries.get_mut(&key)?;
        entry.last_used = now;
        Some(entry.answer.clone())
    }

    fn put(&mut self, key: CacheKey, answer: Bytes, now: Instant) {
        self.sweep(now);
        let added = weight(&answer);
        if added > self.max_bytes {
            return;
        }
        self.bytes += added;
        if let Some(replaced) = self.entries.put(key, Entry { answer, last_used: now }) {
            self.bytes -= weight(&replaced.answer);
        }
        while self.entries.len() > self.max_entries.get() || self.bytes > self.max_bytes {
            self.pop_oldest();
            self.evicted += 1;
        }
    }

    fn sweep(&mut self, now: Instant) {
        let Some(ttl) = self.ttl else { return };
        while self.entries.peek_lru().is_some_and(|(_, entry)| entry.last_used + ttl <= now) {
            self.pop_oldest();
            self.expired += 1;
        }
    }

    fn retain(&mut self, live: &[Source]) {
        let dead: Vec<CacheKey> =
            self.entries.iter().map(|(key, _)| *key).filter(|key| !live.contains(&key.source)).collect();
        for key in dead {
            if let Some(entry) = self.entries.pop(&key) {
                self.bytes -= weight(&entry.answer);
            }
        }
    }

    fn pop_oldest(&mut self) {
        if let Some((_, entry)) = self.entries.pop_lru() {
            self.bytes -= weight(&entry.answer);
        }
    }
}

/// TinyLFU by moka. It reads its own clock for the ttl and does its upkeep in
/// small steps, so bounds may be passed for moments between two steps.
pub(super) struct Frequency {
    cache: moka::sync::Cache<CacheKey, Bytes>,
    max_bytes: u64,
    removed: Arc<Removed>,
}

#[derive(Default)]
struct Removed {
    evicted: AtomicU64,
    expired: AtomicU64,
}

impl Frequency {
    fn new(config: &CacheConfig, ttl: Option<Duration>) -> Frequency {
        // moka has one bound. An entry that weighs at least an even share of the
        // bytes cannot be one of more than `max_entries`: both bounds hold.
        let share = config.max_bytes.div_ceil(config.max_entries as u64);
        let removed = Arc::new(Removed::default());
        let count = Arc::clone(&removed);
        let mut builder = moka::sync::Cache::builder()
            .max_capacity(config.max_bytes)
            .weigher(move |_, answer| u32::try_from(weight(answer).max(share)).unwrap_or(u32::MAX))
            .eviction_listener(move |_, _, cause| match cause {
                RemovalCause::Size => _ = count.evicted.fetch_add(1, Relaxed),
                RemovalCause::Expired => _ = count.expired.fetch_add(1, Relaxed),
                RemovalCause::Explicit | RemovalCause::Replaced => {}
            });
        if let Some(ttl) = ttl {
            builder = builder.time_to_idle(ttl);
        }
        Frequency { cache: builder.build(), max_bytes: config.max_bytes, removed }
    }

    fn put(&mut self, key: CacheKey, answer: Bytes) {
        if weight(&answer) <= self.max_bytes {
            self.cache.insert(key, answer);
        }
    }
}
