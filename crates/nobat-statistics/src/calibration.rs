//! Whether stated probabilities are kept: of the answers at 0.8, are 80 % right?
//!
//! The expected calibration error of a model that keeps them perfectly is not 0: with 15
//! bins it is 0.05 at 300 rows. What counts is therefore its chance under the model's own
//! word, by drawing labels from the stated probabilities.

use rand::RngExt;

use crate::intervals::{Interval, wilson};
use crate::random::{Random, bootstrap, p_value, quantile};

/// Bins of equal width between 0 and 1.
const BINS: usize = 15;

/// How well stated probabilities are kept.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct CalibrationTest {
    /// Expected calibration error.
    pub error: f64,
    /// Its basic bootstrap interval at 95 %.
    pub error_interval: Interval,
    /// Chance of an error as large from a model that keeps its word.
    pub p: f64,
    /// Brier score of the answer given: mean square of probability less outcome.
    pub brier: f64,
    /// Share of right answers.
    pub accuracy: f64,
    /// Its Wilson interval at 95 %.
    pub accuracy_interval: Interval,
}

/// Judges answers by the probability each was given with, and whether it was right.
/// `None` for no answers, or probabilities outside 0 to 1.
pub fn test(answers: &[(f64, bool)], draws: usize, random: &mut Random) -> Option<CalibrationTest> {
    if answers.is_empty() || answers.iter().any(|(stated, _)| !(0.0..=1.0).contains(stated)) {
        return None;
    }
    let n = answers.len() as f64;
    let right = answers.iter().filter(|(_, right)| *right).count();
    let error = calibration_error(answers.iter().copied());
    let kept = |random: &mut Random| {
        calibration_error(answers.iter().map(|&(stated, _)| (stated, random.random_bool(stated))))
    };
    let p = p_value(draws, || kept(random) >= error * (1.0 - 1e-9));
    let again = bootstrap(random, answers.len(), draws, |rows| calibration_error(rows.iter().map(|&row| answers[row])));
    // Drawing rows anew adds the noise of a sample to an error that has it already: the
    // basic interval takes it off again, percentiles would add it twice.
    let end = |q| (2.0 * error - quantile(&again, q)).clamp(0.0, 1.0);
    Some(CalibrationTest {
        error,
        error_interval: (end(0.975), end(0.025)),
        p,
        brier: answers.iter().map(|&(stated, right)| (stated - f64::from(u8::from(right))).powi(2)).sum::<f64>() / n,
        accuracy: right as f64 / n,
        accuracy_interval: wilson(right as u64, answers.len() as u64, 0.95),
    })
}

/// Mean distance of a bin's probability from its share of right answers, weighted by its rows.
fn calibration_error(answers: impl Iterator<Item = (f64, bool)>) -> f64 {
    let (mut over, mut rows) = ([0.0; BINS], 0.0);
    for (stated, right) in answers {
        let bin = ((stated * BINS as f64) as usize).min(BINS - 1);
        over[bin] += stated - f64::from(u8::from(right));
        rows += 1.0;
    }
    over.iter().map(|over| over.abs()).sum::<f64>() / rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::seeded;

    #[test]
    fn answers_that_are_surer_than_right_are_found() {
        let mut random = seeded(5);
        let answers = |random: &mut Random, too_sure: f64| -> Vec<(f64, bool)> {
            let answer = |_| {
                let truth = random.random_range(0.5..0.9);
                (truth + too_sure, random.random_bool(truth))
            };
            (0..1_000).map(answer).collect()
        };
        let kept = test(&answers(&mut random, 0.0), 499, &mut seeded(1)).expect("judged");
        assert!(kept.p > 0.01 && kept.error_interval.0 < 0.03, "{kept:?}");
        assert!((kept.accuracy - 0.7).abs() < 0.05 && kept.accuracy_interval.0 < kept.accuracy, "{kept:?}");
        let broken = test(&answers(&mut random, 0.1), 499, &mut seeded(1)).expect("judged");
        assert!(broken.p <= 0.002 && (0.05..0.15).contains(&broken.error), "{broken:?}");
        assert!(broken.error_interval.0 > 0.04 && broken.error_interval.1 < 0.16, "{broken:?}");
    }

    #[test]
    fn sure_and_right_has_no_error_and_rubbish_is_not_judged() {
        let sure = test(&[(1.0, true); 40], 99, &mut seeded(1)).expect("judged");
        assert_eq!((sure.error, sure.p, sure.brier, sure.accuracy), (0.0, 1.0, 0.0, 1.0));
        assert_eq!(test(&[], 99, &mut seeded(1)), None);
        assert_eq!(test(&[(f64::NAN, true)], 99, &mut seeded(1)), None);
        assert_eq!(test(&[(1.5, true)], 99, &mut seeded(1)), None);
    }
}
