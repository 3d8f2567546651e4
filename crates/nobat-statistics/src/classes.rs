//! Whether classes come in the shares that they should.
//!
//! Three models of 10 classes answered 1,000 fresh inputs each. Of the profile we know the
//! classes of 1,000 rows. Taken for exact shares, that sample's own noise would fail three
//! right models in ten; so two samples are compared instead, and a profile counts as exact
//! only when it has at least [`EXACT_FROM`] times the rows of the sample.
//!
//! Chi-square's distribution holds when every cell may expect at least [`FULL_CELL`] rows.
//! Where one may not, the p-value comes from the multinomial distribution itself, by
//! counting all outcomes where they are few, by seeded draws where they are many.

use statrs::distribution::{ChiSquared, ContinuousCDF};
use statrs::function::gamma::ln_gamma;

use crate::random::{Random, multinomial, p_value, without_replacement};

/// A profile with this many times the rows of the sample counts as exact.
pub const EXACT_FROM: u64 = 100;
/// Rows a cell may expect for the chi-square distribution to hold.
pub const FULL_CELL: f64 = 5.0;
/// Outcomes that are counted one by one; above, they are drawn.
const FEW_OUTCOMES: f64 = 1e5;

/// What a sample's classes are compared with, class by class in the sample's order.
#[derive(Clone, Copy, Debug)]
pub enum Expected<'a> {
    /// Shares that are known exactly.
    Shares(&'a [f64]),
    /// The counts of another sample.
    Sample(&'a [u64]),
}

/// How a p-value was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassMethod {
    /// Pearson's chi-square against exact shares.
    ChiSquare,
    /// All outcomes of the multinomial distribution.
    ExactMultinomial,
    /// Draws from the multinomial distribution.
    DrawnMultinomial,
    /// Chi-square of two samples.
    TwoSamples,
    /// Two samples, their rows dealt anew.
    DealtAnew,
}

/// How far shares are from those expected, whatever the number of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct ShareShift {
    /// Cohen's w, less what chance alone adds: decides whether a difference matters.
    pub w: f64,
    /// Cramér's V.
    pub cramers_v: f64,
    /// Jensen-Shannon distance, 0 to 1.
    pub jensen_shannon: f64,
    /// Share of the rows that are in another class than expected, 0 to 1.
    pub moved: f64,
}

/// The outcome of a test of class shares.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct ClassTest {
    /// How the p-value was found.
    pub method: ClassMethod,
    /// Pearson's statistic.
    pub chi_square: f64,
    /// Chance of a statistic as large from a right model.
    pub p: f64,
    /// How far the shares are apart.
    pub shift: ShareShift,
}

/// Compares the classes of a sample with `expected`; `draws` are made where the chi-square
/// distribution does not hold.
///
/// # Panics
/// When `seen` and `expected` have different lengths.
pub fn test(seen: &[u64], expected: Expected, draws: usize, random: &mut Random) -> ClassTest {
    let n: u64 = seen.iter().sum();
    match expected {
        Expected::Shares(shares) => against_shares(seen, shares, draws, random),
        Expected::Sample(profile) => {
            let m: u64 = profile.iter().sum();
            // A class that the profile never had has a share that is not 0, only unknown.
            let exact = m >= EXACT_FROM.saturating_mul(n) && profile.iter().zip(seen).all(|(&p, &s)| p > 0 || s == 0);
            if exact && m > 0 {
                against_shares(seen, &shares_of(profile), draws, random)
            } else {
                against_sample(seen, profile, draws, random)
            }
        }
    }
}

/// The share of each class.
pub fn shares_of(counts: &[u64]) -> Vec<f64> {
    let all = counts.iter().sum::<u64>().max(1) as f64;
    counts.iter().map(|&count| count as f64 / all).collect()
}

/// Pearson's statistic of `seen` against exact `shares`; infinite where a class of share 0 was seen.
pub fn chi_square(seen: &[u64], shares: &[f64]) -> f64 {
    let n = seen.iter().sum::<u64>() as f64;
    let cell = |(&count, &share): (&u64, &f64)| match (count as f64, n * share) {
        (0.0, 0.0) => 0.0,
        (count, expected) => (count - expected).powi(2) / expected,
    };
    seen.iter().zip(shares).map(cell).sum()
}

/// Pearson's statistic of two samples over the same classes.
pub fn chi_square_of_two(a: &[u64], b: &[u64]) -> f64 {
    let (n, m) = (a.iter().sum::<u64>() as f64, b.iter().sum::<u64>() as f64);
    if n == 0.0 || m == 0.0 {
        return 0.0;
    }
    let (to_a, to_b) = ((m / n).sqrt(), (n / m).sqrt());
    let cells = a.iter().zip(b).filter(|&(a, b)| a + b > 0);
    cells.map(|(&a, &b)| (a as f64 * to_a - b as f64 * to_b).powi(2) / (a + b) as f64).sum()
}

fn against_shares(seen: &[u64], shares: &[f64], draws: usize, random: &mut Random) -> ClassTest {
    assert_eq!(seen.len(), shares.len(), "one share a class");
    let n: u64 = seen.iter().sum();
    let statistic = chi_square(seen, shares);
    let held: Vec<f64> = shares.iter().copied().filter(|&share| share > 0.0).collect();
    let (method, p) = if n == 0 || held.len() < 2 || statistic.is_infinite() {
        (ClassMethod::ExactMultinomial, if statistic > 0.0 { 0.0 } else { 1.0 })
    } else if held.iter().all(|share| n as f64 * share >= FULL_CELL) {
        (ClassMethod::ChiSquare, chi_square_tail(statistic, held.len()))
    } else if outcomes(n, held.len()) <= FEW_OUTCOMES {
        (ClassMethod::ExactMultinomial, exact_tail(statistic, n, &held))
    } else {
        let threshold = nearly(statistic);
        let as_extreme = || chi_square(&multinomial(random, n, &held), &held) >= threshold;
        (ClassMethod::DrawnMultinomial, p_value(draws, as_extreme))
    };
    let shift = shift(statistic, held.len(), n as f64, f64::INFINITY, &shares_of(seen), shares);
    ClassTest { method, chi_square: statistic, p, shift }
}

fn against_sample(seen: &[u64], profile: &[u64], draws: usize, random: &mut Random) -> ClassTest {
    assert_eq!(seen.len(), profile.len(), "one count a class");
    let (n, m) = (seen.iter().sum::<u64>(), profile.iter().sum::<u64>());
    let statistic = chi_square_of_two(seen, profile);
    let pooled: Vec<u64> = seen.iter().zip(profile).map(|(a, b)| a + b).collect();
    let cells = pooled.iter().filter(|&&count| count > 0).count();
    let smaller = n.min(m) as f64 / (n + m).max(1) as f64;
    let full = pooled.iter().all(|&count| count == 0 || count as f64 * smaller >= FULL_CELL);
    let (method, p) = if cells < 2 {
        (ClassMethod::TwoSamples, 1.0)
    } else if full {
        (ClassMethod::TwoSamples, chi_square_tail(statistic, cells))
    } else {
        let threshold = nearly(statistic);
        let mut rest = vec![0; pooled.len()];
        let as_extreme = || {
            let dealt = without_replacement(random, n, &pooled);
            rest.iter_mut().zip(&pooled).zip(&dealt).for_each(|((rest, all), dealt)| *rest = all - dealt);
            chi_square_of_two(&dealt, &rest) >= threshold
        };
        (ClassMethod::DealtAnew, p_value(draws, as_extreme))
    };
    let shift = shift(statistic, cells, n as f64, m as f64, &shares_of(seen), &shares_of(profile));
    ClassTest { method, chi_square: statistic, p, shift }
}

fn chi_square_tail(statistic: f64, cells: usize) -> f64 {
    // `sf` keeps its digits where one less the distribution function is 0.
    ChiSquared::new((cells - 1) as f64).map_or(1.0, |chi| chi.sf(statistic))
}

/// The same statistic summed in another order may differ in its last digits.
fn nearly(statistic: f64) -> f64 {
    statistic * (1.0 - 1e-9)
}

/// How many ways `n` rows fall into `k` classes.
fn outcomes(n: u64, k: usize) -> f64 {
    (1..k).map(|i| (n as f64 + i as f64) / i as f64).product()
}

/// Chance of a statistic of at least `statistic`, over all outcomes.
fn exact_tail(statistic: f64, n: u64, shares: &[f64]) -> f64 {
    struct Walk<'a> {
        n: f64,
        shares: &'a [f64],
        threshold: f64,
        sum: f64,
    }
    impl Walk<'_> {
        /// Gives classes from `class` on the `left` rows in every way; so far the outcome
        /// has `statistic` and, but for n!, the log of its chance.
        fn from(&mut self, class: usize, left: u64, statistic: f64, ln_chance: f64) {
            let last = class + 1 == self.shares.len();
            for count in if last { left..=left } else { 0..=left } {
                let (share, x) = (self.shares[class], count as f64);
                let statistic = statistic + (x - self.n * share).powi(2) / (self.n * share);
                let ln_chance = ln_chance + x * share.ln() - ln_gamma(x + 1.0);
                if !last {
                    self.from(class + 1, left - count, statistic, ln_chance);
                } else if statistic >= self.threshold {
                    self.sum += ln_chance.exp();
                }
            }
        }
    }
    let mut walk = Walk { n: n as f64, shares, threshold: nearly(statistic), sum: 0.0 };
    walk.from(0, n, 0.0, ln_gamma(n as f64 + 1.0));
    walk.sum.min(1.0)
}

fn shift(statistic: f64, cells: usize, n: f64, m: f64, seen: &[f64], expected: &[f64]) -> ShareShift {
    let df = cells.saturating_sub(1) as f64;
    if n == 0.0 || m == 0.0 {
        return ShareShift::default();
    }
    let per_row = 1.0 / n + 1.0 / m;
    let rows = if m.is_finite() { n + m } else { n * df };
    ShareShift {
        w: ((statistic - df).max(0.0) * per_row).sqrt(),
        cramers_v: if rows > 0.0 { (statistic / rows).sqrt() } else { 0.0 },
        jensen_shannon: jensen_shannon(seen, expected),
        moved: seen.iter().zip(expected).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0,
    }
}

/// The Jensen-Shannon distance of two distributions, base 2: 0 for the same, 1 for disjoint ones.
pub fn jensen_shannon(a: &[f64], b: &[f64]) -> f64 {
    let part = |x: f64, middle: f64| if x > 0.0 { x * (x / middle).log2() } else { 0.0 };
    let cell = |(&a, &b): (&f64, &f64)| part(a, (a + b) / 2.0) + part(b, (a + b) / 2.0);
    (a.iter().zip(b).map(cell).sum::<f64>() / 2.0).clamp(0.0, 1.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::seeded;
    use proptest::prelude::*;

    fn close(a: f64, b: f64, within: f64) -> bool {
        (a - b).abs() <= within
    }

    #[test]
    fn known_p_values_come_out() {
        let found = test(&[30, 14, 34, 45, 57, 20], Expected::Shares(&[1.0 / 6.0; 6]), 99, &mut seeded(1));
        assert_eq!(found.method, ClassMethod::ChiSquare);
        assert!(close(found.chi_square, 37.78, 0.01) && close(found.p, 4.18e-7, 1e-9), "{found:?}");
        // 9 of 10 heads, both tails: 22 of 1,024 outcomes.
        let coin = test(&[9, 1], Expected::Shares(&[0.5, 0.5]), 99, &mut seeded(1));
        assert_eq!(coin.method, ClassMethod::ChiSquare, "five and five are expected");
        let coin = test(&[8, 1], Expected::Shares(&[0.5, 0.5]), 99, &mut seeded(1));
        assert_eq!(coin.method, ClassMethod::ExactMultinomial);
        assert!(close(coin.p, 20.0 / 512.0, 1e-12), "{coin:?}");
        // 10 of 40 against 20 of 40: 80 * (10 * 20 - 30 * 20)^2 / (30 * 50 * 40 * 40) = 5.333.
        let two = test(&[10, 30], Expected::Sample(&[20, 20]), 99, &mut seeded(1));
        assert_eq!(two.method, ClassMethod::TwoSamples);
        assert!(close(two.chi_square, 5.3333, 1e-3) && close(two.p, 0.0209, 1e-4), "{two:?}");
        assert!(close(two.shift.cramers_v, (5.3333f64 / 80.0).sqrt(), 1e-4) && close(two.shift.moved, 0.25, 1e-12));
    }

    #[test]
    fn many_rows_of_a_difference_that_does_not_matter_have_no_effect() {
        let found = test(&[50_300, 49_700], Expected::Shares(&[0.5, 0.5]), 99, &mut seeded(1));
        assert!(found.p > 0.05 && found.shift.w < 0.01, "{found:?}");
        let found = test(&[5_030_000, 4_970_000], Expected::Shares(&[0.5, 0.5]), 99, &mut seeded(1));
        assert!(found.p < 1e-9 && found.shift.w < 0.01, "{found:?}");
    }

    #[test]
    fn a_profile_is_a_sample_until_it_is_a_hundred_times_larger() {
        let of = |profile: &[u64]| test(&[50, 50], Expected::Sample(profile), 99, &mut seeded(1)).method;
        assert_eq!(of(&[4_999, 5_000]), ClassMethod::TwoSamples);
        assert_eq!(of(&[5_000, 5_000]), ClassMethod::ChiSquare);
        let unknown = test(&[50, 50, 1], Expected::Sample(&[50_000, 50_000, 0]), 999, &mut seeded(1));
        assert_eq!(unknown.method, ClassMethod::DealtAnew, "a class that it never had");
        assert!(unknown.p > 0.0005 && unknown.p < 0.02, "{unknown:?}");
    }

    #[test]
    fn a_class_that_cannot_be_and_one_class_alone_are_judged_too() {
        let never = test(&[9, 1], Expected::Shares(&[1.0, 0.0]), 99, &mut seeded(1));
        assert_eq!(never.p, 0.0);
        let alone = test(&[9, 0], Expected::Shares(&[1.0, 0.0]), 99, &mut seeded(1));
        assert_eq!((alone.p, alone.shift.w), (1.0, 0.0));
        assert_eq!(test(&[9], Expected::Sample(&[700]), 99, &mut seeded(1)).p, 1.0);
        for profile in [[0, 0], [10, 10]] {
            assert_eq!(test(&[0, 0], Expected::Sample(&profile), 99, &mut seeded(1)).p, 1.0, "no rows, no finding");
        }
    }

    #[test]
    fn counted_and_drawn_outcomes_agree() {
        let shares = [0.7, 0.2, 0.08, 0.02];
        for seen in [[20, 5, 3, 2], [30, 0, 0, 0], [15, 10, 4, 1]] {
            let exact = exact_tail(chi_square(&seen, &shares), 30, &shares);
            let (threshold, mut random) = (nearly(chi_square(&seen, &shares)), seeded(3));
            let drawn = p_value(19_999, || chi_square(&multinomial(&mut random, 30, &shares), &shares) >= threshold);
            assert!(close(exact, drawn, 0.015), "{seen:?}: {exact} {drawn}");
        }
    }

    proptest! {
        #[test]
        fn all_outcomes_together_are_certain(n in 1u64..30, weights in prop::collection::vec(1u32..9, 2..5)) {
            let all: u32 = weights.iter().sum();
            let shares: Vec<f64> = weights.iter().map(|&weight| f64::from(weight) / f64::from(all)).collect();
            prop_assert!(close(exact_tail(0.0, n, &shares), 1.0, 1e-9));
        }

        #[test]
        fn the_order_of_classes_and_of_samples_does_not_matter(cells in prop::collection::vec((0u64..200, 0u64..200), 2..9)) {
            let (a, b): (Vec<u64>, Vec<u64>) = cells.iter().copied().unzip();
            let (c, d): (Vec<u64>, Vec<u64>) = cells.iter().rev().copied().unzip();
            let statistic = chi_square_of_two(&a, &b);
            for (x, y) in [(&b, &a), (&c, &d)] {
                prop_assert!(close(chi_square_of_two(x, y), statistic, 1e-9 * (1.0 + statistic)));
            }
            let same = test(&a, Expected::Sample(&a), 9, &mut seeded(1));
            prop_assert!(same.p > 0.9999 && same.shift == ShareShift::default(), "{:?}", same);
        }

        #[test]
        fn shifts_are_shares(cells in prop::collection::vec((0u64..200, 0u64..200), 2..9)) {
            let (a, b): (Vec<u64>, Vec<u64>) = cells.iter().copied().unzip();
            let found = test(&a, Expected::Sample(&b), 9, &mut seeded(1));
            for share in [found.p, found.shift.jensen_shannon, found.shift.moved, found.shift.cramers_v] {
                prop_assert!((0.0..=1.0 + 1e-9).contains(&share), "{:?}", found);
            }
        }
    }
}
