//! From counts to a verdict: pure.

use std::collections::BTreeMap;

use nobat_statistics::calibration;
use nobat_statistics::classes::{self, ClassMethod, Expected, shares_of};
use nobat_statistics::holm;
use nobat_statistics::power::{ClassShift, smallest_shift};
use nobat_statistics::profile::AnswerProfile;
use nobat_statistics::random::{Random, seeded};

use super::bars::class_bars;
use super::judged::{Judged, LEAST_EFFECT};
use super::report::{StatisticalFigures, StatisticalFinding, StatisticalVerdict};
use super::scores::{of_calibration, of_scores};
use super::words::{count, percent, points};

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

/// A shift that nobody would call small: what too few rows are told how many would show.
const LARGE_SHIFT: f64 = 0.1;
/// Fewest draws of a resampling test.
const DRAWS: usize = 9_999;

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
        let Judged { mut finding, matters, blind } = judged;
        let failed = p <= settings.alpha && matters;
        // What could hardly have failed has not passed.
        if let Some(why) = blind.filter(|_| !failed) {
            finding.verdict = StatisticalVerdict::NotJudged;
            finding.found = why;
        } else if finding.verdict != StatisticalVerdict::NotJudged {
            finding.p = p;
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
    if seen.rows == 0 {
        finding.tested.push('.');
        return Judged::of_nothing(finding);
    }
    let mut least = LEAST_EFFECT;
    if let Some(shift) = settings.shift.and_then(|points| ClassShift::hardest(&shares, points)) {
        least = shift.effect() / 2.0;
        let power = shift.power(known, seen.rows, profile_rows, level);
        if power < settings.power - 0.005 {
            finding.verdict = StatisticalVerdict::NotJudged;
            finding.tested.push('.');
            let remedy = remedy(shift, known, profile.rows, level, settings.power);
            finding.found =
                format!("A shift of {} would show in {} of runs; {remedy}.", points(shift.points), percent(power));
            return Judged { finding, matters: false, blind: None };
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
    let mut blind = None;
    finding.sure = match smallest_shift(&shares, seen.rows, profile_rows, level, settings.power) {
        Some(smallest) => format!(
            "One class moving by {} would have been found in {} of runs.",
            points(smallest),
            percent(settings.power)
        ),
        None if known < 2 => "Another class than the profile's one is what would be found.".into(),
        None => {
            let shift = ClassShift::hardest(&shares, LARGE_SHIFT);
            let remedy = shift.map(|shift| remedy(shift, known, profile.rows, level, settings.power));
            let (answers, large) = (count(seen.rows), points(LARGE_SHIFT));
            let remedy = remedy.map(|remedy| format!("; of {large}, {remedy}")).unwrap_or_default();
            blind = Some(format!("{answers} answers would not show even a large shift of one class{remedy}."));
            String::new()
        }
    };
    finding.p = test.p;
    finding.figures = StatisticalFigures::Classes(test);
    Judged { finding, matters: test.shift.w >= least, blind }
}

/// How many rows a shift takes, or how large a profile where no number of rows would do.
fn remedy(shift: ClassShift, classes: usize, profile_rows: u64, level: f64, power: f64) -> String {
    if let Some(rows) = shift.rows_needed(classes, Some(profile_rows), level, power) {
        return format!("{} rows would show it in {}", count(rows), percent(power));
    }
    let too_few = format!("the profile's {} rows are too few for any number of answers", count(profile_rows));
    // Two samples of the same size have to be twice as large as one against exact shares, or a little more.
    let twice = shift.rows_needed(classes, None, level, power).map(|rows| rows * 2);
    let mut sizes = std::iter::successors(twice, |rows| Some(rows + rows / 20 + 1));
    match sizes.find(|&rows| shift.power(classes, rows, Some(rows), level) >= power) {
        Some(rows) => format!("{too_few}; one of about {0} would do, with {0} answers", count(rows)),
        None => format!("{too_few}; make it from more"),
    }
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
            found.found.contains("A shift of 2.0 points would show in")
                && found.found.contains(" rows would show it in 90.0 %"),
            "{}",
            found.found
        );
        let small = one(classes_of(&[100; 10]), classes_of(&[100; 10]), &asked);
        assert!(small.found.contains("the profile's 1,000 rows are too few"), "{}", small.found);
        // Two points of ten even classes: 5,880 rows against exact shares.
        assert!(small.found.contains("one of about 12,") && small.found.ends_with(" answers."), "{}", small.found);
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
    fn bins_of_sure_answers_have_names_of_their_own() {
        let sure: Vec<f64> = (0..500).map(|i| 1.0 - 10f64.powf(-6.0 * f64::from(i) / 500.0)).collect();
        let found = one(scores_of(sure.clone(), 0), scores_of(sure, 0), &StatisticalSettings::default());
        let names: std::collections::BTreeSet<&str> = found.chart.iter().map(|bar| bar.name.as_str()).collect();
        assert!(names.len() == found.chart.len() && found.chart.len() >= 10, "{names:?}");
    }

    #[test]
    fn a_hundred_classes_are_thirty_bars_and_the_rest() {
        let found = one(classes_of(&[100; 100]), classes_of(&[10; 100]), &StatisticalSettings::default());
        assert_eq!(found.chart.len(), 31);
        let all: f64 = found.chart.iter().map(|bar| bar.expected).sum();
        assert!((all - 1.0).abs() < 1e-9, "{all}");
    }

    #[test]
    fn no_answers_at_all_and_too_few_to_show_anything_are_not_judged() {
        let found = judge(
            &[classes_of(&[10, 10]), scores_of(vec![0.5; 20], 0)],
            &[classes_of(&[0, 0]), scores_of(vec![], 0)],
            &[],
            &StatisticalSettings::default(),
        );
        assert!(
            found.iter().all(|finding| finding.verdict == StatisticalVerdict::NotJudged && finding.p == 1.0),
            "{found:?}"
        );
        assert!(found[0].found.contains("no row was answered") && found[0].chart.is_empty(), "{found:?}");
        let settings = StatisticalSettings::default();
        let few = one(classes_of(&[1_000; 2]), classes_of(&[1, 1]), &settings);
        assert_eq!(few.verdict, StatisticalVerdict::NotJudged, "{few:?}");
        assert!(few.found.contains("2 answers would not show") && few.found.contains("of 10.0 points, "), "{few:?}");
        // What is that far off shows all the same.
        let far = one(classes_of(&[9_990, 10]), classes_of(&[0, 6]), &settings);
        assert_eq!(far.verdict, StatisticalVerdict::Failed, "{far:?}");
        let one_class = one(classes_of(&[500]), classes_of(&[5]), &settings);
        assert_eq!(one_class.verdict, StatisticalVerdict::Passed, "{one_class:?}");
    }
}
