//! What a test of class shares can see: its power, and the rows that a wanted power needs.
//!
//! Under a shift the statistic follows the noncentral chi-square distribution. That is
//! exact for many rows; at the sizes used here real power is up to four points lower.

use statrs::distribution::{ChiSquared, ContinuousCDF};
use statrs::function::gamma::ln_gamma;

/// One class's share going up, the others giving way in proportion.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct ClassShift {
    /// The share before.
    pub share: f64,
    /// How much it goes up; 0.05 is five points.
    pub points: f64,
}

impl ClassShift {
    /// The shift of `points` that is hardest to see among these shares; `None` where there is only one class.
    pub fn hardest(shares: &[f64], points: f64) -> Option<ClassShift> {
        let possible = shares.iter().filter(|&&share| share > 0.0 && share < 1.0 && share + points <= 1.0);
        let shifts = possible.map(|&share| ClassShift { share, points });
        shifts.min_by(|a, b| a.effect().total_cmp(&b.effect()))
    }

    /// Cohen's effect size w.
    pub fn effect(self) -> f64 {
        self.points / (self.share * (1.0 - self.share)).sqrt()
    }

    /// Chance that `rows` show it over `classes` at level `alpha`; `profile_rows` where the
    /// shares are those of a sample.
    pub fn power(self, classes: usize, rows: u64, profile_rows: Option<u64>, alpha: f64) -> f64 {
        let df = classes.saturating_sub(1) as f64;
        let Ok(null) = ChiSquared::new(df) else { return 0.0 };
        // A noncentral chi-square is a Poisson mixture of central ones.
        let (critical, mean) = (null.inverse_cdf(1.0 - alpha), self.noncentrality(rows, profile_rows) / 2.0);
        let spread = 12.0 * mean.sqrt() + 30.0;
        let term = |j: u64| {
            let j = j as f64;
            let ln_weight = if j > 0.0 { j * mean.ln() - ln_gamma(j + 1.0) } else { 0.0 } - mean;
            ln_weight.exp() * ChiSquared::new(df + 2.0 * j).map_or(0.0, |shifted| shifted.sf(critical))
        };
        let terms = (mean - spread).max(0.0).floor() as u64..=(mean + spread).ceil() as u64;
        terms.map(term).sum::<f64>().min(1.0)
    }

    /// Rows that show it with chance `wanted`; `None` where no number does, because the
    /// profile itself has too few.
    pub fn rows_needed(self, classes: usize, profile_rows: Option<u64>, alpha: f64, wanted: f64) -> Option<u64> {
        let enough = |rows: u64| self.power(classes, rows, profile_rows, alpha) >= wanted;
        let mut high = 1u64;
        while !enough(high) {
            high = high.checked_mul(2).filter(|&rows| rows < 1 << 40)?;
        }
        let mut low = high / 2;
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if enough(middle) { high = middle } else { low = middle }
        }
        Some(high)
    }

    fn noncentrality(self, rows: u64, profile_rows: Option<u64>) -> f64 {
        let n = rows as f64;
        let (effective, share) = match profile_rows {
            None => (n, self.share),
            Some(0) => return 0.0,
            Some(m) => {
                // Two samples are compared with what they are together, the shift included.
                let part = n / (n + m as f64);
                (m as f64 * part, self.share + self.points * part)
            }
        };
        effective * self.points * self.points / (share * (1.0 - share)).max(f64::MIN_POSITIVE)
    }
}

/// The smallest shift that `rows` show with chance `wanted`, in points of the class that is
/// hardest to see; `None` where they show none.
pub fn smallest_shift(shares: &[f64], rows: u64, profile_rows: Option<u64>, alpha: f64, wanted: f64) -> Option<f64> {
    let classes = shares.iter().filter(|&&share| share > 0.0).count();
    let shown = |points: f64| {
        let shift = ClassShift::hardest(shares, points)?;
        Some(shift.power(classes, rows, profile_rows, alpha) >= wanted)
    };
    let (mut low, mut high) = (0.0, 1.0 - shares.iter().copied().filter(|&share| share < 1.0).fold(0.0, f64::max));
    if !shown(high)? {
        return None;
    }
    while high - low > 1e-4 {
        let middle = (low + high) / 2.0;
        if shown(middle)? { high = middle } else { low = middle }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_needed_rows_are_those_of_the_literature() {
        // Classes, share, points, power -> rows, at level 0.01.
        for (classes, share, points, wanted, rows) in [
            (2, 0.5, 0.05, 0.9, 1_490.0),
            (2, 0.5, 0.01, 0.9, 37_200.0),
            (2, 0.5, 0.05, 0.999, 3_210.0),
            (10, 0.1, 0.05, 0.9, 941.0),
            (10, 0.1, 0.05, 0.999, 1_790.0),
            (10, 0.5, 0.02, 0.9, 16_300.0),
            (100, 0.01, 0.05, 0.9, 246.0),
        ] {
            let needed = ClassShift { share, points }.rows_needed(classes, None, 0.01, wanted).expect("some") as f64;
            assert!((needed / rows - 1.0).abs() < 0.02, "{classes} classes, {points}: {needed} for {rows}");
        }
    }

    #[test]
    fn a_small_profile_cannot_be_made_up_for() {
        let shift = ClassShift { share: 0.5, points: 0.05 };
        assert_eq!(shift.rows_needed(2, Some(1_000), 0.01, 0.9), None);
        let n = shift.rows_needed(2, Some(3_000), 0.01, 0.9).expect("some");
        assert!((2_800..3_100).contains(&n), "{n}");
        assert_eq!(shift.rows_needed(1, None, 0.01, 0.9), None, "one class has no shares");
        assert_eq!(ClassShift::hardest(&[1.0], 0.05), None);
        assert_eq!(smallest_shift(&[1.0, 0.0], 1_000, None, 0.01, 0.9), None);
    }

    #[test]
    fn the_smallest_shift_is_the_one_that_just_shows() {
        let points = smallest_shift(&[0.1; 10], 941, None, 0.01, 0.9).expect("some");
        assert!((points - 0.05).abs() < 0.001, "{points}");
        let with_profile = smallest_shift(&[0.1; 10], 941, Some(941), 0.01, 0.9).expect("some");
        assert!((0.07..0.085).contains(&with_profile), "{with_profile}");
    }

    proptest! {
        #[test]
        fn power_starts_at_the_level_and_grows_with_rows_and_with_the_profile(
            classes in 2usize..60, share in 0.05..0.6f64, points in 0.005..0.2f64, rows in 10u64..5_000,
        ) {
            let shift = ClassShift { share, points };
            prop_assert!((shift.power(classes, 0, None, 0.01) - 0.01).abs() < 1e-6);
            let powers = [Some(500), Some(5_000)].map(|profile| shift.power(classes, rows, profile, 0.01));
            prop_assert!(powers[0] <= powers[1] + 1e-9);
            for profile in [None, Some(2_000)] {
                let power = |rows| shift.power(classes, rows, profile, 0.01);
                prop_assert!(power(rows) <= power(rows + rows / 2) + 1e-9);
            }
        }
    }
}
