//! Whether scores and regressions are distributed as they should be.
//!
//! Small samples: Kolmogorov and Smirnov's test, its p-value counted exactly, ties and all.
//! Larger ones: the Wasserstein distance in standard deviations, judged by dealing the
//! rows anew, which sees shifts and wider tails that the former does not. Few levels are
//! classes. A fixed threshold would do for none of them: with no shift at all the distance
//! is 0.17 at 100 rows and 0.018 at 10,000.

use rand::RngExt;
use statrs::distribution::{ChiSquared, ContinuousCDF};

use crate::classes::{self, Expected};
use crate::random::{Random, p_value, quantile, without_replacement};

/// Up to this many pairs of rows, the p-value is counted.
const COUNTED: usize = 10_000;
/// Up to this many distinct values, scores are classes.
const FEW_LEVELS: usize = 10;
/// Stands for the share of an empty bin in the population stability index.
const EMPTY_BIN: f64 = 1e-4;

/// How a p-value was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreMethod {
    /// Kolmogorov-Smirnov, counted exactly.
    KolmogorovSmirnov,
    /// Wasserstein distance, rows dealt anew.
    Wasserstein,
    /// The few levels as classes.
    Levels,
}

/// The outcome of a test of scores.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct ScoreTest {
    /// How the p-value was found.
    pub method: ScoreMethod,
    /// Chance of a difference as large from a right model.
    pub p: f64,
    /// Wasserstein distance in standard deviations of both samples together.
    pub distance: f64,
    /// Largest distance of the two distribution functions.
    pub largest_gap: f64,
}

/// Compares two samples of finite scores. At least one of each, else the p-value is 1.
pub fn test(seen: &[f64], profile: &[f64], draws: usize, random: &mut Random) -> ScoreTest {
    let pool = Pool::of(seen, profile);
    let (distance, largest_gap) = (pool.distance(pool.seen.iter().copied()), pool.largest_gap());
    let found = |method, p| ScoreTest { method, p, distance, largest_gap };
    if seen.is_empty() || profile.is_empty() {
        return found(ScoreMethod::KolmogorovSmirnov, 1.0);
    }
    let ends = pool.level_ends();
    if ends.len() <= FEW_LEVELS {
        let count = |of_seen: bool| -> Vec<u64> {
            let starts = std::iter::once(0).chain(ends.iter().copied());
            starts
                .zip(&ends)
                .map(|(start, &end)| pool.seen[start..end].iter().filter(|&&s| s == of_seen).count() as u64)
                .collect()
        };
        return found(
            ScoreMethod::Levels,
            classes::test(&count(true), Expected::Sample(&count(false)), draws, random).p,
        );
    }
    if seen.len() * profile.len() <= COUNTED {
        return found(ScoreMethod::KolmogorovSmirnov, pool.gap_tail(largest_gap, &ends));
    }
    let threshold = distance * (1.0 - 1e-9);
    let p = p_value(draws, || {
        let (mut left, mut rows) = (seen.len(), pool.values.len());
        let dealt = (0..rows).map(|_| {
            let of_seen = random.random_range(0..rows) < left;
            rows -= 1;
            left -= usize::from(of_seen);
            of_seen
        });
        pool.distance(dealt) >= threshold
    });
    found(ScoreMethod::Wasserstein, p)
}

/// Two samples in one ascending order.
struct Pool {
    values: Vec<f64>,
    seen: Vec<bool>,
    n: f64,
    m: f64,
    deviation: f64,
}

impl Pool {
    fn of(seen: &[f64], profile: &[f64]) -> Pool {
        let mut rows: Vec<(f64, bool)> =
            seen.iter().map(|&x| (x, true)).chain(profile.iter().map(|&x| (x, false))).collect();
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (values, of_seen): (Vec<f64>, Vec<bool>) = rows.into_iter().unzip();
        let all = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / all;
        let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / all).sqrt();
        Pool { values, seen: of_seen, n: seen.len() as f64, m: profile.len() as f64, deviation }
    }

    /// The two distribution functions' difference after each row in turn.
    fn gaps(&self, seen: impl Iterator<Item = bool>) -> impl Iterator<Item = f64> {
        let steps = [-1.0 / self.m, 1.0 / self.n];
        seen.scan(0.0, move |gap, of_seen| {
            *gap += steps[usize::from(of_seen)];
            Some(*gap)
        })
    }

    /// The area between the distribution functions when these rows are the seen ones.
    fn distance(&self, seen: impl Iterator<Item = bool>) -> f64 {
        if self.deviation == 0.0 {
            return 0.0;
        }
        let widths = self.values.windows(2).map(|pair| pair[1] - pair[0]);
        self.gaps(seen).zip(widths).map(|(gap, width)| gap.abs() * width).sum::<f64>() / self.deviation
    }

    /// Where each distinct value's rows end.
    fn level_ends(&self) -> Vec<usize> {
        (1..=self.values.len()).filter(|&end| self.values.get(end) != Some(&self.values[end - 1])).collect()
    }

    fn largest_gap(&self) -> f64 {
        let ends = self.level_ends();
        let gaps: Vec<f64> = self.gaps(self.seen.iter().copied()).collect();
        ends.iter().map(|&end| gaps[end - 1].abs()).fold(0.0, f64::max)
    }

    /// Chance of a gap of at least `gap`, over all ways to deal the rows to the two samples.
    ///
    /// A deal is a path of n steps up and m right; `inside[i]` is the share of paths to i
    /// up that have kept below the gap at the end of every level so far.
    fn gap_tail(&self, gap: f64, ends: &[usize]) -> f64 {
        let (n, m) = (self.n as usize, self.m as usize);
        let too_far = |i: usize, j: usize| {
            (i as f64 / self.n - j as f64 / self.m).abs() >= gap * (1.0 - 1e-9) && ends.binary_search(&(i + j)).is_ok()
        };
        let mut inside = vec![0.0; n + 1];
        inside[0] = 1.0;
        for step in 1..=n + m {
            for i in (step.saturating_sub(m)..=step.min(n)).rev() {
                let j = step - i;
                // The chance that the row before was of the one sample or the other, given
                // that after `step` rows i are of the seen one.
                let from_up = if i > 0 { inside[i - 1] * i as f64 } else { 0.0 };
                let from_right = if j > 0 { inside[i] * j as f64 } else { 0.0 };
                inside[i] = if too_far(i, j) { 0.0 } else { (from_up + from_right) / step as f64 };
            }
        }
        (1.0 - inside[n]).clamp(0.0, 1.0)
    }
}

/// The population stability index, and what chance alone makes of it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct StabilityIndex {
    /// The index.
    pub value: f64,
    /// Chance of an index as large with no shift.
    pub p: f64,
    /// What one in a hundred indexes exceeds with no shift: no fixed threshold does.
    pub one_in_a_hundred: f64,
}

/// The population stability index of two samples over the same bins. Its distribution is a
/// scaled chi-square where every bin is well filled; elsewhere rows are dealt anew.
pub fn stability_index(seen: &[u64], profile: &[u64], draws: usize, random: &mut Random) -> StabilityIndex {
    let (n, m) = (seen.iter().sum::<u64>(), profile.iter().sum::<u64>());
    let pooled: Vec<u64> = seen.iter().zip(profile).map(|(a, b)| a + b).collect();
    let bins = pooled.iter().filter(|&&count| count > 0).count();
    let value = index(seen, profile);
    if n == 0 || m == 0 || bins < 2 {
        return StabilityIndex { value: 0.0, p: 1.0, one_in_a_hundred: 0.0 };
    }
    let scale = 1.0 / n as f64 + 1.0 / m as f64;
    let smaller = n.min(m) as f64 / (n + m) as f64;
    // The index is more skewed than its limit: 2 % at 1 % with ten rows a bin.
    let well_filled = pooled.iter().all(|&count| count == 0 || count as f64 * smaller >= 10.0 * classes::FULL_CELL);
    if well_filled && let Ok(chi) = ChiSquared::new((bins - 1) as f64) {
        return StabilityIndex { value, p: chi.sf(value / scale), one_in_a_hundred: scale * chi.inverse_cdf(0.99) };
    }
    let mut rest = vec![0; pooled.len()];
    let mut deal = || {
        let dealt = without_replacement(random, n, &pooled);
        rest.iter_mut().zip(&pooled).zip(&dealt).for_each(|((rest, all), dealt)| *rest = all - dealt);
        index(&dealt, &rest)
    };
    let mut dealt: Vec<f64> = (0..draws).map(|_| deal()).collect();
    dealt.sort_by(f64::total_cmp);
    let mut indexes = dealt.iter();
    let p = p_value(draws, || indexes.next().is_some_and(|&index| index >= value * (1.0 - 1e-9)));
    StabilityIndex { value, p, one_in_a_hundred: quantile(&dealt, 0.99) }
}

fn index(seen: &[u64], profile: &[u64]) -> f64 {
    let (seen, profile) = (classes::shares_of(seen), classes::shares_of(profile));
    let bins = seen.iter().zip(&profile).filter(|&(&q, &p)| q + p > 0.0);
    bins.map(|(&q, &p)| (q.max(EMPTY_BIN), p.max(EMPTY_BIN))).map(|(q, p)| (q - p) * (q / p).ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::seeded;
    use proptest::prelude::*;

    #[test]
    fn the_counted_tail_is_that_of_all_deals() {
        // All ways to deal seven rows, three of them seen, with and without ties.
        for values in [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0]] {
            let deals: Vec<Vec<bool>> = (0u32..128)
                .filter(|mask| mask.count_ones() == 3)
                .map(|mask| (0..7).map(|i| mask >> i & 1 == 1).collect())
                .collect();
            assert_eq!(deals.len(), 35);
            let pool =
                |seen: &Vec<bool>| Pool { values: values.into(), seen: seen.clone(), n: 3.0, m: 4.0, deviation: 1.0 };
            for deal in &deals {
                let one = pool(deal);
                let gap = one.largest_gap();
                let as_large = deals.iter().filter(|other| pool(other).largest_gap() >= gap - 1e-9).count();
                let tail = one.gap_tail(gap, &one.level_ends());
                assert!((tail - as_large as f64 / 35.0).abs() < 1e-9, "{values:?} {deal:?}: {tail} {as_large}");
            }
        }
    }

    #[test]
    fn distances_are_shifts_in_standard_deviations() {
        let values: Vec<f64> = (0..1_000).map(f64::from).collect();
        let moved: Vec<f64> = values.iter().map(|x| x + 100.0).collect();
        let found = test(&moved, &values, 199, &mut seeded(1));
        assert_eq!(found.method, ScoreMethod::Wasserstein);
        assert!((found.distance - 100.0 / 293.0).abs() < 0.01 && found.p == 0.005, "{found:?}");
        assert!((found.largest_gap - 0.1).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn few_levels_are_classes_and_nothing_is_no_finding() {
        let levels = |share: usize| (0..1_000).map(|i| f64::from(i % 10 < share)).collect::<Vec<_>>();
        let found = test(&levels(5), &levels(6), 99, &mut seeded(1));
        assert_eq!(found.method, ScoreMethod::Levels);
        assert!(found.p < 1e-4, "{found:?}");
        assert_eq!(test(&[], &[1.0], 99, &mut seeded(1)).p, 1.0);
        assert_eq!(test(&[1.0; 20], &[1.0; 30], 99, &mut seeded(1)).p, 1.0);
    }

    #[test]
    fn the_index_is_judged_by_what_chance_makes_of_it() {
        let large = stability_index(&[100; 10], &[100; 10], 99, &mut seeded(1));
        assert!((large.one_in_a_hundred - 0.0433).abs() < 0.001 && large.p == 1.0, "{large:?}");
        let (seen, profile) = ([14, 6, 11, 9, 10, 12, 8, 10, 13, 7], [10; 10]);
        let small = stability_index(&seen, &profile, 1_999, &mut seeded(1));
        assert!(small.value > 0.05 && small.p > 0.2 && (small.one_in_a_hundred - 0.48).abs() < 0.08, "{small:?}");
    }

    proptest! {
        #[test]
        fn the_same_scores_in_other_units_give_the_same_verdict(
            a in prop::collection::vec(-50.0..50.0f64, 12..40), b in prop::collection::vec(-50.0..50.0f64, 12..40), unit in 0.01..100.0f64,
        ) {
            let scaled = |values: &[f64]| values.iter().map(|x| x * unit + 3.0).collect::<Vec<_>>();
            let (found, other) = (test(&a, &b, 9, &mut seeded(1)), test(&scaled(&a), &scaled(&b), 9, &mut seeded(1)));
            prop_assert!((found.p - other.p).abs() < 1e-9 && (found.distance - other.distance).abs() < 1e-6);
            let back = test(&b, &a, 9, &mut seeded(1));
            prop_assert!((found.p - back.p).abs() < 1e-9 && (0.0..=1.0).contains(&found.p));
        }
    }
}
