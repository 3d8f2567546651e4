//! Hit rates of the policies against independent reference simulations on a
//! Zipf trace: written from the policies' definitions, as naively as possible.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{CacheConfig, CacheKey, CachePolicy, ResultCache, Source};

/// Entries of the caches whose every decision is compared.
const CAPACITY: usize = 500;
/// The trace's requests are this far apart.
const STEP: Duration = Duration::from_millis(10);

/// Zipf over `keys` with exponent 0.9, by inverting the cumulative weights, from
/// a fixed seed.
fn zipf_trace(keys: usize, requests: usize) -> Vec<u128> {
    let mut cumulative = Vec::with_capacity(keys);
    let mut sum = 0.0;
    for rank in 1..=keys {
        sum += (rank as f64).powf(-0.9);
        cumulative.push(sum);
    }
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..requests)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let point = (state >> 11) as f64 / (1u64 << 53) as f64 * sum;
            cumulative.partition_point(|&weight| weight < point) as u128
        })
        .collect()
}

/// Hits of the cache itself, asked like the gateway asks.
fn hits_of(config: CacheConfig, trace: &[u128]) -> u64 {
    let cache = ResultCache::new(&config);
    let mut now = Instant::now();
    for &content in trace {
        now += STEP;
        let key = CacheKey { source: Source(1), content };
        if cache.get(key, now).is_none() {
            cache.put(key, Bytes::from_static(b"answer"), now);
        }
    }
    cache.stats().hits
}

/// Least recently used, and forgotten `ttl` after the last use: a plain list.
fn reference_recency(trace: &[u128], ttl: Option<Duration>) -> u64 {
    let mut list: Vec<(u128, Duration)> = Vec::new();
    let mut hits = 0;
    let mut now = Duration::ZERO;
    for &content in trace {
        now += STEP;
        list.retain(|&(_, used)| ttl.is_none_or(|ttl| used + ttl > now));
        if let Some(at) = list.iter().position(|&(held, _)| held == content) {
            list.remove(at);
            hits += 1;
        } else if list.len() == CAPACITY {
            list.remove(0);
        }
        list.push((content, now));
    }
    hits
}

/// TinyLFU with exact counts instead of a sketch: counts stop at 15, and after
/// `sample` countings all counts, and the counting itself, are halved; a
/// newcomer replaces the least recently used entry only when it was asked for
/// more often. Source: Einziger, Friedman, Manes, "TinyLFU: A Highly Efficient
/// Cache Admission Policy", sections 3.2 and 3.3.
fn reference_frequency(trace: &[u128], capacity: usize, sample: usize) -> u64 {
    let mut counts: HashMap<u128, u32> = HashMap::new();
    let mut counted = 0;
    let mut uses: BTreeMap<usize, u128> = BTreeMap::new();
    let mut held: HashMap<u128, usize> = HashMap::new();
    let mut hits = 0;
    for (nth, &content) in trace.iter().enumerate() {
        let count = counts.entry(content).or_default();
        if *count < 15 {
            *count += 1;
            counted += 1;
        }
        if counted >= sample {
            // What rounding takes from the counts, it takes from their number.
            let rounded = counts.values().filter(|&&count| count % 2 == 1).count();
            counted = (counted / 2).saturating_sub(rounded);
            counts.values_mut().for_each(|count| *count /= 2);
        }
        if let Some(used) = held.get_mut(&content) {
            uses.remove(used);
            *used = nth;
            uses.insert(nth, content);
            hits += 1;
            continue;
        }
        if held.len() == capacity {
            let frequency = |key: &u128| counts.get(key).copied().unwrap_or(0);
            let Some((&used, &victim)) = uses.first_key_value() else { continue };
            if frequency(&content) <= frequency(&victim) {
                continue;
            }
            uses.remove(&used);
            held.remove(&victim);
        }
        uses.insert(nth, content);
        held.insert(content, nth);
    }
    hits
}

fn config(policy: CachePolicy, max_entries: usize, ttl_s: u64) -> CacheConfig {
    CacheConfig { policy, max_entries, max_bytes: 1 << 30, ttl_s, shared: false }
}

#[test]
fn lru_hits_exactly_as_often_as_its_reference() {
    let trace = zipf_trace(10_000, 200_000);
    assert_eq!(hits_of(config(CachePolicy::Lru, CAPACITY, 0), &trace), reference_recency(&trace, None));
}

#[test]
fn ttl_hits_exactly_as_often_as_its_reference_and_less_often_than_lru() {
    let trace = zipf_trace(10_000, 200_000);
    let hits = hits_of(config(CachePolicy::Ttl, CAPACITY, 3), &trace);
    assert_eq!(hits, reference_recency(&trace, Some(Duration::from_secs(3))));
    assert!(hits < reference_recency(&trace, None));
}

#[test]
fn lfu_hits_about_as_often_as_tinylfu_with_exact_counts_and_more_often_than_lru() {
    // moka counts in a randomly seeded sketch and admits in batches of up to
    // 384 entries, so its rate is compared, not its every decision, on a cache
    // that is large beside such a batch. Its sample is ten times the entries it
    // expects; under a weigher, which the bound on bytes needs, it expects what
    // a half-full cache holds times how full it is: a quarter of the capacity.
    let (trace, capacity) = (zipf_trace(50_000, 400_000), 5_000);
    let rate = |hits: u64| hits as f64 / trace.len() as f64;
    let lfu = rate(hits_of(config(CachePolicy::Lfu, capacity, 0), &trace));
    let reference = rate(reference_frequency(&trace, capacity, 10 * capacity / 4));
    let lru = rate(hits_of(config(CachePolicy::Lru, capacity, 0), &trace));
    println!("lfu {lfu:.4}, reference {reference:.4}, lru {lru:.4}");
    assert!((lfu - reference).abs() < 0.01, "lfu {lfu:.4}, reference {reference:.4}");
    assert!(lfu > lru + 0.02, "lfu {lfu:.4}, lru {lru:.4}");
}
