//! From counts to a verdict: pure.

use std::collections::BTreeMap;

use nobat_statistics::building::edges;
use nobat_statistics::calibration;
use nobat_statistics::classes::{self, ClassMethod, Expected, shares_of};
use nobat_statistics::holm;
use nobat_statistics::intervals::wilson;
use nobat_statistics::power::{ClassShift, smallest_shift};
use nobat_statistics::profile::{AnswerProfile, bin, bins_of};
use nobat_statistics::random::{Random, seeded};
use nobat_statistics::scores::{self, ScoreMethod};

use super::report::{StatisticalFigures, StatisticalFinding, StatisticalVerdict};
use super::words::{count, percent, points};
use crate::stage::ShareBar;

/// What is asked of the stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StatisticalSettings {
    /// Rows to send.
    pub rows: u64,
    /// Chance that a right model fails the stage.
    pub alpha: f64,
    /// The shift of one class that must be found, 0.05 for five points. Without it the
    /// stage says what it could have found.
    pub shift: Option<f64>,
    /// Chance of finding it.
    pub power: f64,
    /// Seed of all that is drawn.
    pub seed: u64,
}

impl Default for StatisticalSettings {
    fn default() -> StatisticalSettings {
        StatisticalSettings { rows: 1_000, alpha: 0.01, shift: None, power: 0.9, seed: 1 }
    }
}

/// Effect sizes and distances under this do not matter, however sure they are.
const LEAST_EFFECT: f64 = 0.05;
/// Calibration errors likewise.
const LEAST_CALIBRATION_ERROR: f64 = 0.01;
/// Fewest draws of a resampling test.
const DRAWS: usize = 9_999;
/// Bars of a chart of scores.
const SCORE_BARS: usize = 10;
/// Bars of a chart of classes; the rest share one.
const CLASS_BARS: usize = 30;

/// Judges what was seen against the profile's answers, which must be in the same order;
/// `labelled` has the stated probability of each answer and whether it was right.
pub fn judge(
    profile: &[AnswerProfile],
    seen: &[AnswerProfile],
    labelled: &[(f64, bool)],
    settings: &StatisticalSettings,
) -> Vec<StatisticalFinding> {
    let mut random = seeded(settings.seed);
    let tests = profile.len() + usize::from(!labelled.is_empty());
    // As many draws as tell a p-value from the smallest level that Holm may ask for.
    let draws = DRAWS.max((100.0 * tests as f64 / settings.alpha) as usize);
    // What Holm asks of the smallest p-value: what can be seen for sure is seen at that level.
    let level = settings.alpha / tests.max(1) as f64;
    let mut judged: Vec<Judged> = profile
        .iter()
        .zip(seen)
        .map(|(profile, seen)| match profile.reading.is_class() {
            true => of_classes(profile, seen, settings, level, draws, &mut random),
            false => of_scores(profile, seen, draws, &mut random),
        })
        .collect();
    // Bootstrap and redrawn labels cost a pass over all rows each.
    judged.extend(calibration::test(labelled, draws.min(2_000), &mut random).map(of_calibration));
    let adjusted = holm::adjust(&judged.iter().map(|judged| judged.finding.p).collect::<Vec<_>>());
    let settle = |(judged, p): (Judged, f64)| {
        let Judged { mut finding, matters } = judged;
        if finding.verdict != StatisticalVerdict::NotJudged {
            finding.p = p;
            let failed = p <= settings.alpha && matters;
            finding.verdict = if failed { StatisticalVerdict::Failed } else { StatisticalVerdict::Passed };
            finding.found.push_str(&match (failed, p <= settings.alpha) {
                (true, _) => format!(
                    " A right model differs as much in {} of runs: this one does not answer as its profile.",
                    percent(p)
                ),
                (false, true) => format!(" It is no chance ({}), but too small to matter.", percent(p)),
                (false, false) => format!(" A right model differs as much in {} of runs.", percent(p)),
            });
        }
        finding
    };
    judged.into_iter().zip(adjusted).map(settle).collect()
}

/// A finding before the others are known, and whether its effect is one to care about.
struct Judged {
    finding: StatisticalFinding,
    matters: bool,
}

fn of_classes(
    profile: &AnswerProfile,
    seen: &AnswerProfile,
    settings: &StatisticalSettings,
    level: f64,
    draws: usize,
    random: &mut Random,
) -> Judged {
    let mut cells: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (class, &rows) in &profile.classes {
        cells.entry(class).or_default().0 = rows;
    }
    for (class, &rows) in &seen.classes {
        cells.entry(class).or_default().1 = rows;
    }
    if profile.without + seen.without > 0 {
        cells.insert("(none)", (profile.without, seen.without));
    }
    let names: Vec<&str> = cells.keys().copied().collect();
    let (expected, counted): (Vec<u64>, Vec<u64>) = cells.values().copied().unzip();
    let shares = shares_of(&expected);
    let known = shares.iter().filter(|&&share| share > 0.0).count();
    let exact = seen.rows > 0 && profile.rows >= classes::EXACT_FROM * seen.rows;
    let profile_rows = (!exact).then_some(profile.rows);
    let mut finding = StatisticalFinding {
        output: profile.output.clone(),
        reading: Some(profile.reading),
        verdict: StatisticalVerdict::Passed,
        p: 1.0,
        tested: format!(
            "Whether `{}` names its {} classes in the profile's shares: {} answers against {} rows",
            profile.output,
            count(known as u64),
            count(seen.rows),
            count(profile.rows)
        ),
        found: String::new(),
        sure: String::new(),
        chart: class_bars(&names, &expected, &counted),
        figures: StatisticalFigures::None,
    };
    let mut least = LEAST_EFFECT;
    if let Some(shift) = settings.shift.and_then(|points| ClassShift::hardest(&shares, points)) {
        least = shift.effect() / 2.0;
        let power = shift.power(known, seen.rows, profile_rows, level);
        if power < settings.power - 0.005 {
            finding.verdict = StatisticalVerdict::NotJudged;
            finding.tested.push('.');
            let needed = shift.rows_needed(known, Some(profile.rows), level, settings.power);
            let remedy = match needed {
                Some(rows) => format!("{} rows would show it in {}", count(rows), percent(settings.power)),
                None => format!(
                    "the profile's {} rows are too few for any number of answers; make it from more",
                    count(profile.rows)
                ),
            };
            finding.found = format!(
                "Not judged: a shift of {} would show in {} of runs; {remedy}.",
                points(shift.points),
                percent(power)
            );
            return Judged { finding, matters: false };
        }
    }
    let test = classes::test(&counted, Expected::Sample(&expected), draws, random);
    let method = match test.method {
        ClassMethod::ChiSquare => "chi-square",
        ClassMethod::ExactMultinomial => "exact multinomial test",
        ClassMethod::DrawnMultinomial => "multinomial test by draws",
        ClassMethod::TwoSamples => "chi-square of two samples",
        ClassMethod::DealtAnew => "two samples dealt anew",
    };
    finding.tested.push_str(&format!(" ({method})."));
    let furthest = (0..names.len()).max_by(|&a, &b| {
        let away = |cell: usize| (shares_of(&counted)[cell] - shares[cell]).abs();
        away(a).total_cmp(&away(b))
    });
    if let Some(cell) = furthest.filter(|_| seen.rows > 0) {
        finding.found = format!(
            "{} are in another class than expected, most of all in `{}`: {} instead of {}; effect size w {:.3}, Cramér's V {:.3}, Jensen-Shannon {:.3}.",
            percent(test.shift.moved),
            names[cell],
            percent(shares_of(&counted)[cell]),
            percent(shares[cell]),
            test.shift.w,
            test.shift.cramers_v,
            test.shift.jensen_shannon,
        );
    }
    let unknown: Vec<&str> =
        cells.iter().filter(|(name, (own, _))| *own == 0 && **name != "(none)").map(|(name, _)| *name).collect();
    if !unknown.is_empty() {
        finding.found.push_str(&format!(
            " The profile does not know {}.",
            unknown.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        ));
    }
    finding.sure = match smallest_shift(&shares, seen.rows, profile_rows, level, settings.power) {
        Some(smallest) => format!(
            "One class moving by {} would have been found in {} of runs.",
            points(smallest),
            percent(settings.power)
        ),
        None => "So few rows would not show even a large shift of one class.".into(),
    };
    finding.p = test.p;
    finding.figures = StatisticalFigures::Classes(test);
    Judged { finding, matters: test.shift.w >= least }
}

fn of_scores(profile: &AnswerProfile, seen: &AnswerProfile, draws: usize, random: &mut Random) -> Judged {
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
    let names: Vec<String> = (0..edges.len() + 2)
        .map(|cell: usize| match (cell.checked_sub(1).and_then(|i| edges.get(i)), edges.get(cell)) {
            (Some(low), Some(high)) => format!("{low:.3}–{high:.3}"),
            (None, Some(high)) => format!("under {high:.3}"),
            (Some(low), None) => format!("{low:.3} and over"),
            (None, None) => "none".into(),
        })
        .take(edges.len() + 1)
        .collect();
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
    let missing_matters = missing.p <= test.p && missing.shift.w >= LEAST_EFFECT;
    Judged { finding, matters: test.distance >= LEAST_EFFECT || missing_matters }
}

/// The shift of a mean that a test at 1 % sees nine times in ten, in standard deviations.
fn just_seen(n: usize, m: usize) -> f64 {
    // Sum of the normal quantiles of 0.995 and 0.9.
    3.86 * (1.0 / n.max(1) as f64 + 1.0 / m.max(1) as f64).sqrt()
}

fn of_calibration(test: calibration::CalibrationTest) -> Judged {
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
    Judged { finding, matters: test.error_interval.0 >= LEAST_CALIBRATION_ERROR }
}

fn class_bars(names: &[&str], expected: &[u64], seen: &[u64]) -> Vec<ShareBar> {
    if names.len() <= CLASS_BARS {
        return bars(names, expected, seen);
    }
    // The most frequent of the profile, in the order of their names, and the rest together.
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|&cell| std::cmp::Reverse(expected[cell]));
    let rest = order.split_off(CLASS_BARS);
    order.sort_unstable();
    let shown = |counts: &[u64]| -> Vec<u64> {
        let own = order.iter().map(|&cell| counts[cell]);
        own.chain([rest.iter().map(|&cell| counts[cell]).sum()]).collect()
    };
    let mut shown_names: Vec<&str> = order.iter().map(|&cell| names[cell]).collect();
    shown_names.push("all others");
    bars(&shown_names, &shown(expected), &shown(seen))
}

fn bars(names: &[&str], expected: &[u64], seen: &[u64]) -> Vec<ShareBar> {
    let (shares, found, rows) = (shares_of(expected), shares_of(seen), seen.iter().sum());
    let bar = |(cell, name): (usize, &&str)| ShareBar {
        name: (*name).to_owned(),
        expected: shares[cell],
        seen: found[cell],
        interval: wilson(seen[cell], rows, 0.95),
    };
    names.iter().enumerate().map(bar).filter(|bar| bar.expected + bar.seen > 0.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_statistics::reading::Reading;

    fn classes_of(counts: &[u64]) -> AnswerProfile {
        AnswerProfile {
            output: "label".into(),
            reading: Reading::Class,
            classes: counts
                .iter()
                .enumerate()
                .map(|(class, &rows)| (class.to_string(), rows))
                .filter(|(_, rows)| *rows > 0)
                .collect(),
            scores: vec![],
            without: 0,
            rows: counts.iter().sum(),
        }
    }

    fn scores_of(scores: Vec<f64>, without: u64) -> AnswerProfile {
        let rows = scores.len() as u64 + without;
        AnswerProfile { output: "y".into(), reading: Reading::Value, classes: BTreeMap::new(), scores, without, rows }
    }

    fn one(profile: AnswerProfile, seen: AnswerProfile, settings: &StatisticalSettings) -> StatisticalFinding {
        judge(&[profile], &[seen], &[], settings).remove(0)
    }

    #[test]
    fn shares_as_they_should_be_pass_and_the_words_say_what_was_seen() {
        let found = one(
            classes_of(&[1_000; 10]),
            classes_of(&[104, 96, 99, 101, 100, 97, 103, 95, 105, 100]),
            &StatisticalSettings::default(),
        );
        assert_eq!(found.verdict, StatisticalVerdict::Passed);
        assert!(
            found.tested.contains("names its 10 classes")
                && found.tested.contains("1,000 answers against 10,000 rows (chi-square of two samples)"),
            "{}",
            found.tested
        );
        assert!(
            found.found.contains("in `7`: 9.5 % instead of 10.0 %") || found.found.contains("in `8`: 10.5 %"),
            "{}",
            found.found
        );
        assert!(
            found.sure.contains("One class moving by 5.") && found.sure.contains("90.0 % of runs"),
            "{}",
            found.sure
        );
        assert_eq!((found.chart.len(), found.chart[0].expected, found.chart[0].seen), (10, 0.1, 0.104));
    }

    #[test]
    fn a_class_that_is_never_predicted_and_one_nobody_knows_fail() {
        let profile = classes_of(&[1_000; 10]);
        let never = one(
            profile.clone(),
            classes_of(&[0, 111, 111, 111, 111, 111, 111, 111, 111, 112]),
            &StatisticalSettings::default(),
        );
        assert_eq!(never.verdict, StatisticalVerdict::Failed);
        assert!(never.found.contains("most of all in `0`: 0 % instead of 10.0 %"), "{}", never.found);
        let mut unknown = classes_of(&[90; 10]);
        unknown.classes.insert("giraffe".into(), 100);
        unknown.rows += 100;
        let unknown = one(profile, unknown, &StatisticalSettings::default());
        assert_eq!(unknown.verdict, StatisticalVerdict::Failed);
        assert!(unknown.found.contains("does not know `giraffe`"), "{}", unknown.found);
    }

    #[test]
    fn too_few_rows_for_the_power_asked_are_not_judged_and_it_says_how_many() {
        let asked = StatisticalSettings { shift: Some(0.02), ..Default::default() };
        let found = one(classes_of(&[100_000; 10]), classes_of(&[100; 10]), &asked);
        assert_eq!((found.verdict, found.p), (StatisticalVerdict::NotJudged, 1.0));
        assert!(
            found.found.contains("a shift of 2.0 points would show in")
                && found.found.contains(" rows would show it in 90.0 %"),
            "{}",
            found.found
        );
        let small = one(classes_of(&[100; 10]), classes_of(&[100; 10]), &asked);
        assert!(small.found.contains("the profile's 1,000 rows are too few"), "{}", small.found);
    }

    #[test]
    fn many_rows_do_not_fail_for_nothing() {
        let mut seen = [10_000; 10];
        (seen[0], seen[1]) = (10_400, 9_600);
        let found = one(classes_of(&[1_000_000; 10]), classes_of(&seen), &StatisticalSettings::default());
        assert_eq!(found.verdict, StatisticalVerdict::Passed, "{found:?}");
        assert!(found.found.contains("too small to matter"), "{}", found.found);
    }

    #[test]
    fn scores_that_move_or_are_no_numbers_fail() {
        let ramp = |by: f64| (0..1_000).map(|i| f64::from(i) / 1_000.0 + by).collect::<Vec<_>>();
        let settings = StatisticalSettings::default();
        let verdict = |seen| one(scores_of(ramp(0.0), 0), seen, &settings).verdict;
        assert_eq!(verdict(scores_of(ramp(0.0), 0)), StatisticalVerdict::Passed);
        assert_eq!(verdict(scores_of(ramp(0.1), 0)), StatisticalVerdict::Failed);
        assert_eq!(verdict(scores_of(ramp(0.0), 40)), StatisticalVerdict::Failed);
        assert_eq!(verdict(scores_of(ramp(0.0), 1)), StatisticalVerdict::Passed);
    }

    #[test]
    fn several_outputs_share_one_level_and_labels_are_used() {
        let profile = [classes_of(&[500, 500]), scores_of((0..1_000).map(f64::from).collect(), 0)];
        let labelled: Vec<(f64, bool)> = (0..600).map(|i| (0.95, i % 4 != 0)).collect();
        let found = judge(&profile, &profile, &labelled, &StatisticalSettings::default());
        let verdicts: Vec<_> = found.iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [StatisticalVerdict::Passed, StatisticalVerdict::Passed, StatisticalVerdict::Failed]);
        assert!(found[2].found.contains("75.0 % right") && found[2].p >= 3.0 / 2_001.0, "{:?}", found[2]);
    }

    #[test]
    fn a_hundred_classes_are_thirty_bars_and_the_rest() {
        let found = one(classes_of(&[100; 100]), classes_of(&[10; 100]), &StatisticalSettings::default());
        assert_eq!(found.chart.len(), 31);
        let all: f64 = found.chart.iter().map(|bar| bar.expected).sum();
        assert!((all - 1.0).abs() < 1e-9, "{all}");
    }

    #[test]
    fn no_answers_at_all_are_no_failure() {
        let found = judge(
            &[classes_of(&[10, 10]), scores_of(vec![0.5; 20], 0)],
            &[classes_of(&[0, 0]), scores_of(vec![], 0)],
            &[],
            &StatisticalSettings::default(),
        );
        assert!(
            found.iter().all(|finding| finding.verdict == StatisticalVerdict::Passed && finding.p == 1.0),
            "{found:?}"
        );
    }
}
