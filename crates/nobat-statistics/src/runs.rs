//! What a handful of runs says: by how much two sets of them differ, and whether a series rises.
//!
//! Answers of one run depend on each other (a slow one holds up the next), so that its
//! thousands of latencies say little about the next run. The runs themselves are the
//! sample: their logarithms, by Student's t. With five to twenty of them a bootstrap covers
//! 84 to 93 % where 95 % is meant.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::intervals::Interval;

/// Runs after which more are not thought of.
const MOST_RUNS: u64 = 1 << 14;

/// How many times the old figure the new one is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// New to old, by geometric means.
    pub ratio: f64,
    /// It is not lower than this, at the level asked for.
    pub low: f64,
    /// It is not higher than this, at the level asked for.
    pub high: f64,
    /// Standard deviation of a run's logarithm.
    pub spread: f64,
}

impl Ratio {
    /// How far the bounds are from the ratio: 0.1 where they are a tenth away.
    pub fn half_width(&self) -> f64 {
        self.high / self.ratio - 1.0
    }

    /// Runs on each side whose bounds are `change` away: 0.1 for a tenth.
    pub fn runs_needed(&self, change: f64, level: f64) -> u64 {
        let enough = |runs: u64| {
            let n = runs as f64;
            student(level, 2.0 * n - 2.0) * self.spread * (2.0 / n).sqrt() <= change.ln_1p()
        };
        let (mut low, mut high) = (1, 2);
        while !enough(high) && high < MOST_RUNS {
            (low, high) = (high, high * 2);
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if enough(middle) { high = middle } else { low = middle }
        }
        high
    }
}

/// Compares two sets of runs by Welch's t on logarithms; both bounds are one-sided at
/// `level`. `None` for fewer than two runs on a side, or a figure that is not over zero.
pub fn ratio(old: &[f64], new: &[f64], level: f64) -> Option<Ratio> {
    let (old, new) = (Logs::of(old)?, Logs::of(new)?);
    let (a, b) = (old.variance / old.n, new.variance / new.n);
    let error = (a + b).sqrt();
    let df = if error > 0.0 {
        (a + b).powi(2) / (a * a / (old.n - 1.0) + b * b / (new.n - 1.0))
    } else {
        old.n + new.n - 2.0
    };
    let spread = (old.variance / 2.0 + new.variance / 2.0).sqrt();
    Some(between(new.mean - old.mean, student(level, df) * error, spread))
}

/// Compares one session with earlier ones, of which each counts as one figure: what the
/// machine does between sessions is in the bounds. `None` for fewer than three earlier ones.
pub fn ratio_of_sessions(old: &[f64], new: f64, level: f64) -> Option<Ratio> {
    let old = Logs::of(old).filter(|old| old.n >= 3.0)?;
    let error = (old.variance * (1.0 + 1.0 / old.n)).sqrt();
    (new > 0.0 && new.is_finite())
        .then(|| between(new.ln() - old.mean, student(level, old.n - 1.0) * error, old.variance.sqrt()))
}

/// Where the geometric mean of runs lies; both bounds are one-sided at `level`. `None` for
/// fewer than two runs, or a figure that is not over zero.
pub fn bounds(runs: &[f64], level: f64) -> Option<Interval> {
    let logs = Logs::of(runs)?;
    let half = student(level, logs.n - 1.0) * (logs.variance / logs.n).sqrt();
    Some(((logs.mean - half).exp(), (logs.mean + half).exp()))
}

/// The middle of figures that are over zero, by their logarithms; NaN for none.
pub fn geometric_mean(figures: &[f64]) -> f64 {
    (figures.iter().map(|figure| figure.ln()).sum::<f64>() / figures.len() as f64).exp()
}

/// By how much a series rises from one value to the next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Trend {
    /// The slope of the straight line through the values.
    pub slope: f64,
    /// It is not lower than this, at the level asked for.
    pub low: f64,
}

/// The straight line through values at equal distances; `None` for fewer than three.
pub fn trend(values: &[f64], level: f64) -> Option<Trend> {
    let n = values.len() as f64;
    if values.len() < 3 || values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let (middle, mean) = ((n - 1.0) / 2.0, values.iter().sum::<f64>() / n);
    let deviations = || values.iter().enumerate().map(|(at, &value)| (at as f64 - middle, value - mean));
    let squares: f64 = deviations().map(|(x, _)| x * x).sum();
    let slope = deviations().map(|(x, y)| x * y).sum::<f64>() / squares;
    let left: f64 = deviations().map(|(x, y)| (y - slope * x).powi(2)).sum();
    let error = (left / (n - 2.0) / squares).sqrt();
    Some(Trend { slope, low: slope - student(level, n - 2.0) * error })
}

struct Logs {
    n: f64,
    mean: f64,
    variance: f64,
}

impl Logs {
    fn of(figures: &[f64]) -> Option<Logs> {
        if figures.len() < 2 || figures.iter().any(|&figure| figure <= 0.0 || !figure.is_finite()) {
            return None;
        }
        let n = figures.len() as f64;
        let mean = figures.iter().map(|figure| figure.ln()).sum::<f64>() / n;
        let variance = figures.iter().map(|figure| (figure.ln() - mean).powi(2)).sum::<f64>() / (n - 1.0);
        Some(Logs { n, mean, variance })
    }
}

fn between(log: f64, half: f64, spread: f64) -> Ratio {
    Ratio { ratio: log.exp(), low: (log - half).exp(), high: (log + half).exp(), spread }
}

/// How many standard errors a one-sided bound at `level` is away.
fn student(level: f64, df: f64) -> f64 {
    StudentsT::new(0.0, 1.0, df).map_or(f64::INFINITY, |t| t.inverse_cdf(level))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::seeded;
    use proptest::prelude::*;
    use rand_distr::{Distribution, Normal};

    #[test]
    fn known_bounds_come_out() {
        // Logarithms 0, 1, 2 against 1, 2, 3: error sqrt(2/3), df 4, t at 0.95 is 2.132.
        let e = |power: f64| power.exp();
        let found = ratio(&[e(0.0), e(1.0), e(2.0)], &[e(1.0), e(2.0), e(3.0)], 0.95).expect("a ratio");
        assert!((found.ratio.ln() - 1.0).abs() < 1e-9, "{found:?}");
        assert!((found.low.ln() - (1.0 - 2.132 * (2.0f64 / 3.0).sqrt())).abs() < 1e-3, "{found:?}");
        assert!((found.spread - 1.0).abs() < 1e-9);
        let (low, high) = bounds(&[e(0.0), e(1.0), e(2.0)], 0.95).expect("bounds");
        assert!((high.ln() - (1.0 + 2.920 / 3f64.sqrt())).abs() < 1e-3 && (low * high - e(2.0)).abs() < 1e-9, "{high}");
        let rising = trend(&[1.0, 2.1, 2.9, 4.0, 5.0], 0.95).expect("a trend");
        assert!((rising.slope - 0.99).abs() < 1e-9 && rising.low > 0.9, "{rising:?}");
        assert!(trend(&[5.0, 4.0, 6.0, 5.0, 5.2], 0.95).expect("a trend").low < 0.0);
    }

    #[test]
    fn too_few_runs_or_figures_that_cannot_be_say_nothing() {
        assert_eq!(ratio(&[1.0], &[1.0, 2.0], 0.95), None);
        assert_eq!(ratio(&[1.0, 0.0], &[1.0, 2.0], 0.95), None);
        assert_eq!(ratio(&[1.0, f64::NAN], &[1.0, 2.0], 0.95), None);
        assert_eq!(ratio_of_sessions(&[1.0, 2.0], 1.0, 0.95), None);
        assert_eq!(trend(&[1.0, 2.0], 0.95), None);
        let same = ratio(&[2.0, 2.0], &[4.0, 4.0], 0.95).expect("a ratio");
        assert_eq!((same.ratio, same.half_width()), (2.0, 0.0));
        assert_eq!(same.runs_needed(0.1, 0.95), 2);
        let noisy = Ratio { spread: 0.2, ..same };
        // 1.645 standard errors of 0.2 sqrt(2/n) are ln 1.1 at 24.
        assert!((24..28).contains(&noisy.runs_needed(0.1, 0.95)), "{}", noisy.runs_needed(0.1, 0.95));
        assert_eq!(noisy.runs_needed(0.0, 0.95), MOST_RUNS);
    }

    /// Shares of 4,000 simulated comparisons whose bounds the true ratio breaks.
    fn errors(compare: impl Fn(&mut dyn FnMut() -> f64) -> Ratio, truth: f64) -> (f64, f64) {
        let mut random = seeded(11);
        let normal = Normal::new(0.0, 0.2f64).expect("a spread");
        let (mut low, mut high) = (0, 0);
        for _ in 0..4_000 {
            let found = compare(&mut || normal.sample(&mut random).exp());
            low += usize::from(found.low > truth);
            high += usize::from(found.high < truth);
        }
        (f64::from(low as u32) / 4e3, f64::from(high as u32) / 4e3)
    }

    #[test]
    fn bounds_are_broken_as_often_as_they_say() {
        let runs = errors(
            |draw| {
                let old: Vec<f64> = (0..5).map(|_| draw()).collect();
                let new: Vec<f64> = (0..5).map(|_| draw() * 1.3).collect();
                ratio(&old, &new, 0.95).expect("a ratio")
            },
            1.3,
        );
        let sessions = errors(
            |draw| {
                let old: Vec<f64> = (0..4).map(|_| draw()).collect();
                ratio_of_sessions(&old, draw() * 1.3, 0.95).expect("a ratio")
            },
            1.3,
        );
        for share in [runs.0, runs.1, sessions.0, sessions.1] {
            assert!((0.035..0.062).contains(&share), "{runs:?} {sessions:?}");
        }
    }

    proptest! {
        #[test]
        fn swapping_the_sides_turns_the_ratio_over(
            old in prop::collection::vec(0.1..10.0f64, 2..9), new in prop::collection::vec(0.1..10.0f64, 2..9),
        ) {
            let (there, back) = (ratio(&old, &new, 0.95).expect("there"), ratio(&new, &old, 0.95).expect("back"));
            prop_assert!((there.ratio * back.ratio - 1.0).abs() < 1e-9);
            prop_assert!((there.low * back.high - 1.0).abs() < 1e-6);
            prop_assert!(there.low <= there.ratio && there.ratio <= there.high);
        }

        #[test]
        fn a_straight_line_is_found_whatever_it_starts_from(start in -1e6..1e6f64, slope in -1e3..1e3f64, n in 3usize..30) {
            let values: Vec<f64> = (0..n).map(|at| start + slope * at as f64).collect();
            prop_assert!((trend(&values, 0.95).expect("a trend").slope - slope).abs() < 1e-6);
        }
    }
}
