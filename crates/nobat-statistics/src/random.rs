//! Randomness from a seed, and the draws that resampling tests need.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::{Binomial, Distribution, Hypergeometric};

/// A source of randomness that gives the same numbers for the same seed.
pub type Random = Xoshiro256PlusPlus;

/// The source that starts from `seed`.
pub fn seeded(seed: u64) -> Random {
    Random::seed_from_u64(seed)
}

/// How `n` rows fall into classes of these shares.
pub fn multinomial(random: &mut Random, n: u64, shares: &[f64]) -> Vec<u64> {
    let (mut left, mut share_left) = (n, shares.iter().sum::<f64>());
    let draw = |&share: &f64| {
        let p = if share_left > 0.0 { (share / share_left).clamp(0.0, 1.0) } else { 0.0 };
        let count = Binomial::new(left, p).map_or(0, |binomial| binomial.sample(random));
        left -= count;
        share_left -= share;
        count
    };
    let mut counts: Vec<u64> = shares.iter().map(draw).collect();
    // Rounding may leave a row when the last share is no longer quite all of what is left.
    if let Some(last) = shares.iter().rposition(|&share| share > 0.0) {
        counts[last] += left;
    }
    counts
}

/// How many of each class are among `n` rows drawn without replacement from `totals`.
pub fn without_replacement(random: &mut Random, n: u64, totals: &[u64]) -> Vec<u64> {
    let (mut left, mut rows) = (n, totals.iter().sum::<u64>());
    let draw = |&total: &u64| {
        let count = Hypergeometric::new(rows, total, left).map_or(0, |hypergeometric| hypergeometric.sample(random));
        rows -= total;
        left -= count;
        count
    };
    totals.iter().map(draw).collect()
}

/// Draws as extreme as the observation after which nothing more is to be learned.
const ENOUGH: usize = 100;

/// The p-value of a resampling test, from at most `draws`: the observation counts as one of
/// its own draws, so it is never 0 and the level holds for any number of them. What is
/// common shows soon and costs few.
///
/// Source: Besag and Clifford (1991), "Sequential Monte Carlo p-values".
pub fn p_value(draws: usize, mut as_extreme: impl FnMut() -> bool) -> f64 {
    let mut hits = 0;
    for draw in 1..=draws {
        hits += usize::from(as_extreme());
        if hits == ENOUGH {
            return ENOUGH as f64 / draw as f64;
        }
    }
    (1 + hits) as f64 / (draws + 1) as f64
}

/// What `statistic` becomes when rows are drawn anew, with replacement, `draws` times; ascending.
pub fn bootstrap(
    random: &mut Random,
    rows: usize,
    draws: usize,
    mut statistic: impl FnMut(&[usize]) -> f64,
) -> Vec<f64> {
    let mut picked = vec![0; rows];
    let mut draw = || {
        picked.fill_with(|| random.random_range(0..rows));
        statistic(&picked)
    };
    let mut values: Vec<f64> = (0..draws).map(|_| draw()).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The value below which a share `q` of `ascending` lies, between its neighbours; NaN for none.
pub fn quantile(ascending: &[f64], q: f64) -> f64 {
    let Some(last) = ascending.len().checked_sub(1) else { return f64::NAN };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (ascending[at.floor() as usize], ascending[at.ceil() as usize]);
    if low == high { low } else { low + (high - low) * at.fract() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_row_falls_somewhere_it_may(seed: u64, n in 0u64..5_000, weights in prop::collection::vec(0u32..9, 1..12)) {
            let all: u32 = weights.iter().sum();
            prop_assume!(all > 0);
            let shares: Vec<f64> = weights.iter().map(|&weight| f64::from(weight) / f64::from(all)).collect();
            let counts = multinomial(&mut seeded(seed), n, &shares);
            prop_assert_eq!(counts.iter().sum::<u64>(), n);
            prop_assert!(counts.iter().zip(&shares).all(|(&count, &share)| share > 0.0 || count == 0));
        }

        #[test]
        fn no_more_are_drawn_than_there_are(seed: u64, totals in prop::collection::vec(0u64..60, 1..12), part in 0.0..1.0f64) {
            let n = (totals.iter().sum::<u64>() as f64 * part) as u64;
            let counts = without_replacement(&mut seeded(seed), n, &totals);
            prop_assert_eq!(counts.iter().sum::<u64>(), n);
            prop_assert!(counts.iter().zip(&totals).all(|(count, total)| count <= total));
        }

        #[test]
        fn quantiles_ascend_between_the_ends(mut values in prop::collection::vec(-1e6..1e6f64, 1..50), a in 0.0..1.0f64, b in 0.0..1.0f64) {
            values.sort_by(f64::total_cmp);
            prop_assert!(quantile(&values, a.min(b)) <= quantile(&values, a.max(b)));
            prop_assert_eq!(quantile(&values, 0.0), values[0]);
            prop_assert_eq!(quantile(&values, 1.0), values[values.len() - 1]);
        }
    }

    #[test]
    fn an_observation_is_one_of_its_own_draws() {
        assert_eq!(p_value(99, || false), 0.01);
        assert_eq!((p_value(99, || true), p_value(9_999, || true)), (1.0, 1.0));
        let mut draw = 0;
        let every_tenth = || {
            draw += 1;
            draw % 10 == 0
        };
        assert_eq!((p_value(9_999, every_tenth), draw), (0.1, 1_000), "it is common: a tenth of the draws do");
    }
}
