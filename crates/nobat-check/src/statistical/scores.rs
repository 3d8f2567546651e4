//! Scores and stated probabilities, judged: pure.

use nobat_statistics::building::edges;
use nobat_statistics::calibration;
use nobat_statistics::classes::{self, Expected};
use nobat_statistics::profile::{AnswerProfile, bin, bins_of};
use nobat_statistics::random::Random;
use nobat_statistics::scores::{self, ScoreMethod};

use super::bars::{bars, bin_names};
use super::judged::{Judged, LEAST_EFFECT};
use super::report::{StatisticalFigures, StatisticalFinding, StatisticalVerdict};
use super::words::{count, percent};

/// Bars of a chart of scores.
const SCORE_BARS: usize = 10;
/// Calibration errors under this do not matter, however sure they are.
const LEAST_CALIBRATION_ERROR: f64 = 0.01;

pub(super) fn of_scores(profile: &AnswerProfile, seen: &AnswerProfile, draws: usize, random: &mut Random) -> Judged {
    let test = scores::test(&seen.scores, &profile.scores, draws, random);
    let edges = edges(&profile.scores, SCORE_BARS);
    let binned = |scores: &[f64]| {
        let mut bins = vec![0u64; bins_of(&edges)];
        scores.iter().for_each(|&score| bins[bin(&edges, score)] += 1);
        bins
    };
    let (expected, counted) = (binned(&profile.scores), binned(&seen.scores));
    let stability = scores::stability_index(&counted, &expected, 1_999, random);
    // Answers without a score are a class of their own; both tests pay for each other.
    let with = |answer: &AnswerProfile| [answer.without, answer.rows.saturating_sub(answer.without)];
    let (own, other) = (with(profile), with(seen));
    let missing = classes::test(&other, Expected::Sample(&own), draws, random);
    let method = match test.method {
        ScoreMethod::KolmogorovSmirnov => "Kolmogorov-Smirnov, exact",
        ScoreMethod::Wasserstein => "Wasserstein distance, rows dealt anew",
        ScoreMethod::Levels => "chi-square over its few levels",
    };
    let names = bin_names(&edges);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut found = format!(
        "The scores lie {:.3} standard deviations apart; stability index {:.3}, where chance alone exceeds {:.3} once in a hundred runs.",
        test.distance, stability.value, stability.one_in_a_hundred
    );
    if seen.without > 0 {
        found.push_str(&format!(
            " {} of {} answers have no score that is a number.",
            count(seen.without),
            count(seen.rows)
        ));
    }
    let finding = StatisticalFinding {
        output: profile.output.clone(),
        reading: Some(profile.reading),
        verdict: StatisticalVerdict::Passed,
        p: (2.0 * test.p.min(missing.p)).min(1.0),
        tested: format!(
            "Whether the scores of `{}` are distributed as the profile's: {} against {} ({method}).",
            profile.output,
            count(seen.scores.len() as u64),
            count(profile.scores.len() as u64)
        ),
        found,
        sure: format!(
            "{} scores of each side show a shift of about {:.2} standard deviations.",
            count(seen.scores.len().min(profile.scores.len()) as u64),
            just_seen(seen.scores.len(), profile.scores.len())
        ),
        chart: bars(&names, &expected, &counted),
        figures: StatisticalFigures::Scores(test, stability),
    };
    if seen.rows == 0 {
        return Judged::of_nothing(finding);
    }
    let missing_matters = missing.p <= test.p && missing.shift.w >= LEAST_EFFECT;
    Judged { finding, matters: test.distance >= LEAST_EFFECT || missing_matters, blind: None }
}

/// The shift of a mean that a test at 1 % sees nine times in ten, in standard deviations.
fn just_seen(n: usize, m: usize) -> f64 {
    // Sum of the normal quantiles of 0.995 and 0.9.
    3.86 * (1.0 / n.max(1) as f64 + 1.0 / m.max(1) as f64).sqrt()
}

pub(super) fn of_calibration(test: calibration::CalibrationTest) -> Judged {
    let finding = StatisticalFinding {
        output: "probabilities".into(),
        reading: None,
        verdict: StatisticalVerdict::Passed,
        p: test.p,
        tested: "Whether stated probabilities are kept: of the answers at 0.8, are 80 % right?".into(),
        found: format!(
            "Expected calibration error {:.3} ({:.3} to {:.3}), Brier score {:.3}; {} right ({} to {}).",
            test.error, test.error_interval.0, test.error_interval.1, test.brier,
            percent(test.accuracy), percent(test.accuracy_interval.0), percent(test.accuracy_interval.1),
        ),
        sure: "The error of a model that keeps its word is not 0 either; it is held against that of labels drawn from the stated probabilities.".into(),
        chart: vec![],
        figures: StatisticalFigures::Calibration(test),
    };
    Judged { finding, matters: test.error_interval.0 >= LEAST_CALIBRATION_ERROR, blind: None }
}
