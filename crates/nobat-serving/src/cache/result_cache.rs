//! One model's cache. What an answer is (opaque packed bytes) and whether a request may
//! be cached is not decided here.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use nobat_core::Result;

use super::config::CacheConfig;
use super::flight::{Flight, Flights, Follower};
use super::key::{CacheKey, Source};
use super::store::{CacheStats, Store};

/// One model's cached answers. A clone-able handle.
#[derive(Clone)]
pub struct ResultCache {
    inner: Arc<Inner>,
}

struct Inner {
    // One std mutex, not shards and not a read-write lock: under lru and ttl a
    // hit moves its entry, so there are no readers, and shards would each evict
    // by themselves (another hit rate than the policy's, and bounds that hold
    // only on average). It guards 50-100 ns of work that never blocks.
    store: Mutex<Store>,
    flights: Flights,
    hits: AtomicU64,
    misses: AtomicU64,
    coalesced: AtomicU64,
}

/// How a request that was not in the cache goes on.
#[derive(Debug)]
pub enum Join {
    /// It arrived between look-up and join.
    Hit(Bytes),
    /// Run it, and say how it ended.
    Lead(Flight),
    /// The same request is in the air; wait for it.
    Follow(Follower),
}

impl ResultCache {
    /// Makes an empty cache. `config` has passed [`CacheConfig::validate`].
    pub fn new(config: &CacheConfig) -> ResultCache {
        ResultCache {
            inner: Arc::new(Inner {
                store: Mutex::new(Store::new(config)),
                flights: Flights::default(),
                hits: AtomicU64::new(0),
                misses: AtomicU64::new(0),
                coalesced: AtomicU64::new(0),
            }),
        }
    }

    /// Looks an answer up and counts a hit; a miss is counted by [`ResultCache::join`].
    pub fn get(&self, key: CacheKey, now: Instant) -> Option<Bytes> {
        let found = self.store().get(key, now);
        if found.is_some() {
            self.inner.hits.fetch_add(1, Relaxed);
        }
        found
    }

    /// Joins the flight of `key`: the first caller leads it, the others follow.
    pub fn join(&self, key: CacheKey, now: Instant) -> Join {
        match self.inner.flights.join(key) {
            Err(follower) => {
                self.inner.coalesced.fetch_add(1, Relaxed);
                Join::Follow(follower)
            }
            // A leader may have landed between the caller's look-up and this one;
            // its answer is kept before its key leaves the table of flights.
            Ok(flight) => match self.get(key, now) {
                Some(found) => Join::Hit(found),
                None => {
                    self.inner.misses.fetch_add(1, Relaxed);
                    Join::Lead(flight)
                }
            },
        }
    }

    /// Ends a flight: keeps a success under `kept`, the key of the version that ran, which
    /// need not be the one the flight was asked of, and tells the followers.
    pub fn land(&self, flight: Flight, outcome: Result<Bytes>, kept: Option<CacheKey>, now: Instant) {
        if let (Ok(answer), Some(kept)) = (&outcome, kept) {
            // Kept before the key leaves the table of flights: whoever joins next finds
            // the flight or the answer, never neither.
            self.put(kept, answer.clone(), now);
        }
        flight.land(outcome);
    }

    /// Keeps an answer without a flight (one found in a second tier, or a run
    /// that was told to bypass the cache).
    pub fn put(&self, key: CacheKey, answer: Bytes, now: Instant) {
        self.store().put(key, answer, now);
    }

    /// Frees the answers of every version that is not among `live`.
    ///
    /// # Complexity
    /// Looks at every entry; for a version swap, not for a request.
    pub fn retain(&self, live: &[Source]) {
        self.store().retain(live);
    }

    /// Frees what expired; the rest of the work is done by the calls above.
    pub fn sweep(&self, now: Instant) {
        self.store().sweep(now);
    }

    /// What it has done and holds.
    pub fn stats(&self) -> CacheStats {
        let mut stats = self.store().stats();
        stats.hits = self.inner.hits.load(Relaxed);
        stats.misses = self.inner.misses.load(Relaxed);
        stats.coalesced = self.inner.coalesced.load(Relaxed);
        stats
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // Nothing under the lock panics half-way through a change.
        self.inner.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for ResultCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ResultCache({:?})", self.stats())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CachePolicy;
    use std::time::Duration;

    fn key(n: u128) -> CacheKey {
        CacheKey { source: Source(1), content: n }
    }

    fn cache(config: CacheConfig) -> ResultCache {
        config.validate().expect("a good config");
        ResultCache::new(&config)
    }

    #[test]
    fn entries_and_bytes_stay_within_their_bounds_under_every_policy() {
        for policy in [CachePolicy::Lru, CachePolicy::Ttl, CachePolicy::Lfu] {
            let config =
                CacheConfig { policy, max_entries: 100, max_bytes: 50_000, ttl_s: 60, ..CacheConfig::default() };
            let cache = cache(config);
            let now = Instant::now();
            for n in 0..1_000u128 {
                cache.put(key(n), Bytes::from(vec![0; (n % 7) as usize * 200]), now);
            }
            let stats = cache.stats();
            assert!(stats.entries <= 100 && stats.bytes <= 50_000, "{policy:?}: {stats:?}");
            assert!(stats.entries > 10, "{policy:?}: {stats:?}");
            assert!(stats.evicted >= 1_000 - 100, "{policy:?}: {stats:?}");
        }
    }

    #[test]
    fn an_answer_over_the_whole_bound_is_not_kept_and_evicts_nothing() {
        let cache = cache(CacheConfig { max_bytes: 1_000, ..CacheConfig::default() });
        let now = Instant::now();
        cache.put(key(1), Bytes::from_static(b"small"), now);
        cache.put(key(2), Bytes::from(vec![0; 2_000]), now);
        assert!(cache.get(key(2), now).is_none());
        assert!(cache.get(key(1), now).is_some());
    }

    #[test]
    fn an_entry_lives_its_ttl_after_its_last_use() {
        let cache = cache(CacheConfig { policy: CachePolicy::Ttl, ttl_s: 10, ..CacheConfig::default() });
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        cache.put(key(1), Bytes::from_static(b"a"), at(0));
        assert!(cache.get(key(1), at(9)).is_some());
        assert!(cache.get(key(1), at(18)).is_some(), "the use at 9 s gave it ten more");
        assert!(cache.get(key(1), at(28)).is_none());
        cache.put(key(2), Bytes::from_static(b"b"), at(28));
        cache.sweep(at(40));
        let stats = cache.stats();
        assert_eq!((stats.entries, stats.bytes, stats.expired), (0, 0, 2));
    }

    #[test]
    fn a_version_swap_frees_the_old_versions_answers() {
        for policy in [CachePolicy::Lru, CachePolicy::Lfu] {
            let cache = cache(CacheConfig { policy, ..CacheConfig::default() });
            let now = Instant::now();
            let new = CacheKey { source: Source(2), content: 7 };
            cache.put(key(7), Bytes::from_static(b"old"), now);
            cache.put(new, Bytes::from_static(b"new"), now);
            cache.retain(&[Source(2)]);
            assert_eq!(cache.get(key(7), now), None);
            assert_eq!(cache.get(new, now).as_deref(), Some(&b"new"[..]));
        }
    }

    #[tokio::test]
    async fn a_thousand_identical_requests_are_one_run() {
        let cache = cache(CacheConfig::default());
        let now = Instant::now();
        let Join::Lead(flight) = cache.join(key(1), now) else { panic!("the first leads") };
        let waiting: Vec<_> = (0..999)
            .map(|_| match cache.join(key(1), now) {
                Join::Follow(follower) => tokio::spawn(follower.wait()),
                other => panic!("the others follow, not {other:?}"),
            })
            .collect();
        cache.land(flight, Ok(Bytes::from_static(b"answer")), Some(key(1)), now);
        for follower in waiting {
            let answer = follower.await.expect("ran").expect("the leader landed").expect("a success");
            assert_eq!(&answer[..], b"answer");
        }
        let stats = cache.stats();
        assert_eq!((stats.misses, stats.coalesced, stats.hits), (1, 999, 0));
        assert!(cache.get(key(1), now).is_some());
    }
}
