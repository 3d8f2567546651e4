//! How sure a share is.

use statrs::distribution::{Beta, ContinuousCDF, Normal};

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

    proptest! {
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
