//! The weighted choice of a canary: by share, sticky by a request key.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Shares are hundredths of a percent; all of a route's add up to this.
pub const WHOLE: u32 = 10_000;

/// A number in `0..WHOLE` that is the same for the same route and key in every
/// process, and spreads keys evenly and independently of other routes.
pub fn point(route: &str, key: &[u8]) -> u32 {
    let hash = xxh3_64_with_seed(key, xxh3_64_with_seed(route.as_bytes(), 0));
    // Multiply-shift: exact to 2^-32, no modulo bias worth naming.
    ((u128::from(hash) * u128::from(WHOLE)) >> 64) as u32
}

/// As [`point`], in `0..whole` and independent of it: for a key of which the target is
/// missing.
pub fn point_anew(route: &str, key: &[u8], whole: u32) -> u32 {
    let hash = xxh3_64_with_seed(key, xxh3_64_with_seed(route.as_bytes(), 1));
    ((u128::from(hash) * u128::from(whole)) >> 64) as u32
}

/// Which of `shares`, in their order, a point falls on.
///
/// A share that grows at the cost of its successors keeps every key it has:
/// moving a canary from 10 % to 20 % sends nobody back.
///
/// # Panics
/// When `shares` is empty.
pub fn pick(shares: impl ExactSizeIterator<Item = u32>, point: u32) -> usize {
    let last = shares.len() - 1;
    let mut end = 0;
    for (at, share) in shares.enumerate() {
        end += share;
        if point < end {
            return at;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hundred_thousand_keys_fall_within_one_percent_of_their_shares() {
        let shares = [7_000u32, 2_500, 500];
        let mut hits = [0u32; 3];
        for n in 0..100_000u32 {
            hits[pick(shares.into_iter(), point("canary", format!("user-{n}").as_bytes()))] += 1;
        }
        for (hit, share) in hits.iter().zip(shares) {
            let off = f64::from(*hit) / 1e5 - f64::from(share) / 1e4;
            assert!(off.abs() < 0.01, "share {share} got {hit} of 100000");
        }
    }

    proptest! {
        #[test]
        fn the_same_key_gives_the_same_target_and_a_growing_first_share_keeps_its_keys(
            key in any::<[u8; 12]>(), share in 0u32..=WHOLE, more in 0u32..=WHOLE,
        ) {
            let at = point("r", &key);
            prop_assert!(at < WHOLE);
            prop_assert_eq!(at, point("r", &key));
            let grown = share.max(more);
            if pick([share, WHOLE - share].into_iter(), at) == 0 {
                prop_assert_eq!(pick([grown, WHOLE - grown].into_iter(), at), 0);
            }
        }
    }
}
