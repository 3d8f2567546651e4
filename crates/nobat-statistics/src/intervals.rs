//! How sure a share is.

use statrs::distribution::{Beta, Binomial, ContinuousCDF, DiscreteCDF, Normal};

/// Two ends, the lower first.
pub type Interval = (f64, f64);

/// How many standard deviations a share `q` of a normal distribution lies below.
pub fn normal_quantile(q: f64) -> f64 {
    Normal::standard().inverse_cdf(q)
}

/// Wilson's two-sided interval for a share: 950 of 1,000 at 0.95 is 93.5 % to 96.2 %.
pub fn wilson(hits: u64, n: u64, level: f64) -> Interval {
    if n == 0 {
        return (0.0, 1.0);
    }
    let (share, n, z) = (hits as f64 / n as f64, n as f64, normal_quantile(0.5 + level / 2.0));
    let middle = share + z * z / (2.0 * n);
    let half = z * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    let ends = [middle - half, middle + half].map(|end| (end / (1.0 + z * z / n)).clamp(0.0, 1.0));
    // Rounding must not put an end on the wrong side of the share itself.
    (ends[0].min(share), ends[1].max(share))
}

/// Clopper and Pearson's bounds, each one-sided at `level`: none of 299 is under 1 % at 0.95.
pub fn one_sided(hits: u64, n: u64, level: f64) -> Interval {
    let (h, misses) = (hits as f64, n.saturating_sub(hits) as f64);
    let bound = |a: f64, b: f64, q: f64| Beta::new(a, b).map(|beta| beta.inverse_cdf(q));
    let low = if hits == 0 { 0.0 } else { bound(h, misses + 1.0, 1.0 - level).unwrap_or(0.0) };
    let high = if hits >= n { 1.0 } else { bound(h + 1.0, misses, level).unwrap_or(1.0) };
    (low, high)
}

/// The ranks, from 1, of the two values among `n` ascending ones that the quantile `q` lies
/// between: 983 and 997 for the 99th percentile of 1,000 at 0.95. `None` where `n` is too few.
///
/// It holds for values that do not depend on each other; where they wait for each other it is narrow.
pub fn quantile_ranks(n: u64, q: f64, level: f64) -> Option<(u64, u64)> {
    let below = Binomial::new(q, n).ok()?;
    let tail = (1.0 - level) / 2.0;
    // The highest rank that is too high with a chance of at most `tail`, and the lowest that is too low.
    let low = below.inverse_cdf(tail);
    let high = below.inverse_cdf(1.0 - tail) + 1;
    (low >= 1 && high <= n).then_some((low, high))
}

/// Values of which the quantile `q` has both ends of an interval at `level`: 368 for the
/// 99th percentile at 0.95.
pub fn values_needed(q: f64, level: f64) -> u64 {
    let tail = (1.0 - level) / 2.0;
    (tail.ln() / q.max(1.0 - q).ln()).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_intervals_come_out() {
        let (low, high) = wilson(950, 1_000, 0.95);
        assert!((low - 0.9347).abs() < 1e-3 && (high - 0.9619).abs() < 1e-3, "{low} {high}");
        assert!(one_sided(0, 299, 0.95).1 < 0.01 && one_sided(0, 298, 0.95).1 > 0.01);
        assert_eq!(one_sided(0, 10, 0.95).0, 0.0);
        assert_eq!(one_sided(10, 10, 0.95).1, 1.0);
        assert_eq!((wilson(0, 0, 0.95), one_sided(0, 0, 0.95)), ((0.0, 1.0), (0.0, 1.0)));
    }

    #[test]
    fn a_percentile_lies_between_known_ranks_and_needs_enough_values() {
        let (low, high) = quantile_ranks(1_000, 0.99, 0.95).expect("ranks");
        assert!((982..=984).contains(&low) && (996..=997).contains(&high), "{low} {high}");
        assert_eq!(values_needed(0.99, 0.95), 368);
        assert!(quantile_ranks(368, 0.99, 0.95).is_some() && quantile_ranks(300, 0.99, 0.95).is_none());
        assert_eq!(quantile_ranks(0, 0.5, 0.95), None);
    }

    proptest! {
        #[test]
        fn the_ranks_hold_the_quantile_with_the_stated_chance(n in 10u64..4_000, q in 0.2..0.995f64) {
            if let Some((low, high)) = quantile_ranks(n, q, 0.95) {
                let below = Binomial::new(q, n).expect("a distribution");
                // The quantile is between them when at least `low` and under `high` values are below it.
                let chance = below.cdf(high - 1) - below.cdf(low - 1);
                prop_assert!(chance >= 0.949, "{n} {q}: {low} to {high} hold it with {chance}");
                prop_assert!(low as f64 <= q * n as f64 + 1.0 && high as f64 >= q * n as f64);
            }
            prop_assert!(quantile_ranks(values_needed(q, 0.95), q, 0.95).is_some());
        }

        #[test]
        fn every_interval_holds_the_share_and_a_higher_level_is_wider(n in 1u64..3_000, part in 0.0..=1.0f64) {
            let hits = (n as f64 * part) as u64;
            let share = hits as f64 / n as f64;
            for interval in [wilson, one_sided] {
                let (narrow, wide) = (interval(hits, n, 0.9), interval(hits, n, 0.99));
                prop_assert!(narrow.0 <= share && share <= narrow.1, "{:?}", narrow);
                prop_assert!(wide.0 <= narrow.0 + 1e-12 && narrow.1 <= wide.1 + 1e-12, "{:?} {:?}", narrow, wide);
            }
        }
    }
}
