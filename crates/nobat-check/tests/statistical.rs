//! The statistical stage and the comparison against models whose faults are known, and
//! against right ones: no server, a function answers.

use nobat_check::compare::{CompareSettings, compare};
use nobat_check::data::{Dataset, ModelInputs};
use nobat_check::statistical::{StatisticalReport, StatisticalSettings, StatisticalVerdict, make_profile, run};
use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_statistics::pairs::GateVerdict;
use nobat_statistics::power::ClassShift;
use nobat_statistics::profile::Profile;
use nobat_statistics::random::{Random, seeded};
use nobat_statistics::reading::{Rows, element};
use rand::RngExt;
use statrs::distribution::{Binomial, DiscreteCDF};

const MODEL: (&str, &str) = ("bins", "1");

/// Its class is the tenth that the first element falls into, its score the second's share.
fn right(inputs: &[Tensor]) -> (u32, f64) {
    let row: Vec<f64> = Rows::of(&inputs[0], 1).expect("a row").numbers(0).collect();
    ((row[0] * 10.0).clamp(0.0, 9.0) as u32, row[1])
}

fn outputs((class, score): (u32, f64)) -> Vec<Tensor> {
    let tensor = |name: &str, datatype, value| Tensor {
        name: name.into(),
        datatype,
        shape: [1].as_slice().into(),
        data: element(value, datatype).expect("a number").into(),
    };
    vec![tensor("label", Datatype::Int64, f64::from(class)), tensor("score", Datatype::Fp32, score)]
}

fn rows(random: &mut Random, rows: usize) -> Dataset {
    let lines: Vec<String> =
        (0..rows).map(|_| format!("[{}, {}]", random.random::<f32>(), random.random::<f32>())).collect();
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("rows.jsonl");
    std::fs::write(&path, lines.join("\n")).expect("writes");
    let specs = [TensorSpec { name: "x".into(), datatype: Datatype::Fp32, shape: vec![-1, 2], optional: false }];
    Dataset::read(&path, ModelInputs { specs: &specs, batched: true }).expect("reads")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

async fn answer(inputs: Vec<Tensor>) -> Result<Vec<Tensor>, String> {
    Ok(outputs(right(&inputs)))
}

fn profile() -> Profile {
    block_on(make_profile(&answer, &rows(&mut seeded(1), 5_000), MODEL, |_| {})).expect("a profile")
}

fn stage(
    profile: &Profile,
    data: Option<&Dataset>,
    fault: impl Fn(u32, f64) -> Result<(u32, f64), String>,
) -> StatisticalReport {
    let model = async |inputs: Vec<Tensor>| {
        let (class, score) = right(&inputs);
        fault(class, score).map(outputs)
    };
    block_on(run(&model, profile, data, MODEL, &StatisticalSettings::default(), |_| {})).expect("runs")
}

#[test]
fn a_right_model_passes_with_rows_from_a_file_and_with_drawn_ones() {
    let (profile, fresh) = (profile(), rows(&mut seeded(2), 1_000));
    for data in [Some(&fresh), None] {
        let report = stage(&profile, data, |class, score| Ok((class, score)));
        assert_eq!(report.verdict, StatisticalVerdict::Passed, "{report:#?}");
        assert_eq!((report.rows, report.findings.len(), report.notes.len()), (1_000, 2, 0));
    }
    assert_eq!(profile.drawn[0].rows, nobat_check::statistical::DRAWN_ROWS);
}

#[test]
fn each_fault_is_found_and_a_swap_of_equal_shares_cannot_be() {
    let (profile, fresh) = (profile(), rows(&mut seeded(3), 1_000));
    for data in [Some(&fresh), None] {
        let verdict = |fault: &dyn Fn(u32, f64) -> Result<(u32, f64), String>| stage(&profile, data, fault).verdict;
        assert_eq!(
            verdict(&|class, score| Ok((if class == 3 { 5 } else { class }, score))),
            StatisticalVerdict::Failed
        );
        assert_eq!(verdict(&|class, score| Ok((class, score * 0.8))), StatisticalVerdict::Failed);
        assert_eq!(
            verdict(&|class, score| Ok((class, if class == 3 { f64::NAN } else { score }))),
            StatisticalVerdict::Failed
        );
        assert_eq!(verdict(&|_, score| Ok((42, score))), StatisticalVerdict::Failed);
    }
    let swapped = stage(&profile, Some(&fresh), |class, score| Ok((9 - class, score)));
    assert_eq!(swapped.verdict, StatisticalVerdict::Passed, "golden answers find it: {swapped:#?}");
}

/// Fewest of `trials` that find a fault of this power, but for one series of trials in 10,000.
fn fewest(trials: u64, power: f64) -> u64 {
    let distribution = Binomial::new(power, trials).expect("a power");
    (0..=trials).find(|&found| distribution.cdf(found) > 1e-4).unwrap_or(trials)
}

#[test]
fn faults_are_found_in_as_many_trials_as_the_stated_power_says() {
    // Of each trial the profile and the fresh rows are its own.
    let trials: u64 = std::env::var("NOBAT_TRIALS").map_or(4, |trials| trials.parse().expect("a number of trials"));
    // A class that is never named is its share lost, which is more than its share less of a half.
    let never = ClassShift { share: 0.1, points: 0.1 };
    let five_points = ClassShift { share: 0.1, points: 0.05 };
    type Fault = fn(u32, f64) -> (u32, f64);
    let faults: [(&str, ClassShift, Fault); 2] = [
        ("a class that is never named", never, |class, score| {
            // To all others alike, so that no one of them tells.
            (if class == 3 { (4 + (score * 9.0) as u32) % 10 } else { class }, score)
        }),
        ("a class whose share moves by five points", five_points, |class, score| {
            (if class != 3 && score < 0.05 / 0.9 { 3 } else { class }, score)
        }),
    ];
    for (name, shift, fault) in faults {
        let settings = StatisticalSettings::default();
        // Two outputs are judged: Holm asks half the level of the first.
        let power = shift.power(10, settings.rows, Some(5_000), settings.alpha / 2.0);
        let found = (0..trials).filter(|&trial| {
            let profile = block_on(make_profile(&answer, &rows(&mut seeded(trial), 5_000), MODEL, |_| {}));
            let fresh = rows(&mut seeded(1_000 + trial), 1_000);
            let report = stage(&profile.expect("a profile"), Some(&fresh), |class, score| Ok(fault(class, score)));
            let shares = report.findings.iter().find(|finding| finding.tested.contains("label"));
            shares.expect("the label's").verdict == StatisticalVerdict::Failed
        });
        let found = found.count() as u64;
        eprintln!("{name}: found in {found} of {trials}, power {power:.4}");
        assert!(found >= fewest(trials, power - 0.04), "{name}: {found} of {trials}, power {power}");
    }
}

#[test]
fn a_server_that_goes_away_is_told_and_what_it_answered_is_judged() {
    let (profile, fresh) = (profile(), rows(&mut seeded(5), 1_000));
    let answers = std::cell::Cell::new(0);
    let report = stage(&profile, Some(&fresh), |class, score| {
        answers.set(answers.get() + 1);
        if answers.get() > 600 { Err("connection refused".into()) } else { Ok((class, score)) }
    });
    assert_eq!((report.verdict, report.rows), (StatisticalVerdict::NotJudged, 600), "{report:#?}");
    assert!(
        report.notes[0].contains("20 of 620 requests")
            && report.notes[0].contains("counts as gone: connection refused"),
        "{:?}",
        report.notes
    );
    assert!(report.findings[0].tested.contains("600 answers"), "{}", report.findings[0].tested);
}

#[test]
fn another_models_profile_and_no_rows_are_refused() {
    let mut profile = profile();
    let settings = StatisticalSettings::default();
    let other = block_on(run(&answer, &profile, None, ("other", "1"), &settings, |_| {})).expect_err("another model");
    assert!(other.message.contains("that of model `bins`, not of `other`"), "{other}");
    let newer = block_on(run(&answer, &profile, None, ("bins", "2"), &settings, |_| {})).expect("runs");
    assert!(newer.notes[0].contains("made with version 1; version 2 answered"), "{:?}", newer.notes);
    profile.drawn.clear();
    let undrawn =
        block_on(run(&answer, &profile, None, MODEL, &settings, |_| {})).expect_err("nothing to compare with");
    assert!(undrawn.message.contains("give a file of inputs"), "{undrawn}");
    let empty = block_on(make_profile(&answer, &Dataset::default(), MODEL, |_| {})).expect_err("no rows");
    assert!(empty.message.contains("no rows"), "{empty}");
    let broken = async |_: Vec<Tensor>| Err::<Vec<Tensor>, _>("HTTP 503".to_owned());
    let broken = block_on(make_profile(&broken, &rows(&mut seeded(1), 5), MODEL, |_| {})).expect_err("no answers");
    assert!(broken.message.contains("row 1 got no answer: HTTP 503"), "{broken}");
}

#[test]
fn a_right_model_fails_the_stage_in_about_one_of_a_hundred_runs() {
    // Fresh rows and a fresh profile each time; both outputs judged together.
    let runs: u64 = std::env::var("NOBAT_STATISTICS_RUNS").map_or(200, |runs| runs.parse().expect("a number of runs"));
    let mut failed = 0;
    for seed in 0..runs {
        let mut random = seeded(seed);
        let mut answers = |n: usize| {
            let mut counted = nobat_statistics::building::Answers::default();
            let mut kept = seeded(seed + 1_000_000);
            for _ in 0..n {
                let class = random.random_range(0..10);
                counted.add(&outputs((class, random.random())), 1, &mut kept);
            }
            counted.finish()
        };
        let (profile, seen) = (answers(3_000), answers(1_000));
        let findings =
            nobat_check::statistical::judge(&profile, &seen, &[], &StatisticalSettings { seed, ..Default::default() });
        failed += u64::from(findings.iter().any(|finding| finding.verdict == StatisticalVerdict::Failed));
    }
    eprintln!("{failed} of {runs}");
    let most = if runs >= 1_000 { runs as f64 * 0.02 } else { runs as f64 * 0.035 };
    assert!(failed as f64 <= most, "{failed} of {runs}");
}

#[test]
fn a_version_that_moves_five_points_is_unsafe_and_the_same_one_is_safe() {
    let data = rows(&mut seeded(6), 2_000);
    let requests = || (0..data.len()).filter_map(|row| Some((data.row(row)?, None)));
    let worse = async |inputs: Vec<Tensor>| {
        let (class, score) = right(&inputs);
        Ok::<_, String>(outputs((if class == 3 && score < 0.5 { 5 } else { class }, score)))
    };
    let generous = CompareSettings { latency: 1e9, ..Default::default() };
    let same = block_on(compare(&answer, &answer, requests(), generous.clone(), |_| {}));
    assert_eq!(same.verdict, GateVerdict::Safe, "{same:#?}");
    let moved = block_on(compare(&answer, &worse, requests(), generous, |_| {}));
    assert_eq!(moved.verdict, GateVerdict::Unsafe, "{moved:#?}");
    assert!(moved.class_shift_p < 1e-6 && (0.03..0.07).contains(&moved.classes_moved), "{}", moved.classes_moved);
    assert!(moved.examples[0].old == "3" && moved.examples[0].new == "5", "{:?}", moved.examples[0]);
}
