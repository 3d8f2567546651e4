//! A hit and a miss of the result cache beside moka with its LRU policy:
//! `cargo run --release -p nobat-serving --example cache_speed`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use moka::policy::EvictionPolicy;
use nobat_serving::cache::{CacheConfig, CacheKey, Join, ResultCache, Source};

const ENTRIES: u64 = 10_000;
const CALLS: u64 = 2_000_000;

fn key(n: u64) -> CacheKey {
    CacheKey { source: Source(7), content: u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 32 | 1 }
}

/// Nanoseconds a call, of `threads` that make [`CALLS`] each.
fn per_call(threads: u64, call: impl Fn(u64) + Sync) -> f64 {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let call = &call;
            scope.spawn(move || (0..CALLS).for_each(|n| call(n.wrapping_mul(31) + thread)));
        }
    });
    started.elapsed().as_secs_f64() * 1e9 / CALLS as f64
}

fn main() {
    let answer = Bytes::from(vec![1; 87]);
    let ours = ResultCache::new(&CacheConfig { max_entries: ENTRIES as usize, ..CacheConfig::default() });
    let moka = moka::sync::Cache::builder()
        .eviction_policy(EvictionPolicy::lru())
        .max_capacity(ENTRIES)
        .time_to_idle(Duration::from_secs(3600))
        .build();
    let now = Instant::now();
    for n in 0..ENTRIES {
        ours.put(key(n), answer.clone(), now);
        moka.insert(key(n), answer.clone());
    }
    moka.run_pending_tasks();
    for threads in [1, 2] {
        let hit = per_call(threads, |n| drop(black_box(ours.get(key(n % ENTRIES), now))));
        let moka_hit = per_call(threads, |n| drop(black_box(moka.get(&key(n % ENTRIES)))));
        // Every key is new: it leads, lands and pushes the oldest out.
        let miss = per_call(threads, |n| {
            let key = key(ENTRIES + n * threads + 1);
            if let Join::Lead(flight) = ours.join(key, now) {
                ours.land(flight, Ok(answer.clone()), Some(key), now);
            }
        });
        let moka_miss =
            per_call(threads, |n| drop(black_box(moka.get_with(key(ENTRIES + n * threads + 1), || answer.clone()))));
        println!(
            "{threads} threads: hit {hit:.0} ns, moka {moka_hit:.0} ns; miss {miss:.0} ns, moka {moka_miss:.0} ns"
        );
    }
}
