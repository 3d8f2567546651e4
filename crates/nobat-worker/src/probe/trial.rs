//! Rows alone and together: a trial that can refute that they are independent, and
//! never prove it. Its rows are as different as those of real requests: of different
//! scales and signs, integers as far up as the model takes them, texts of different
//! lengths; in two orders, at several sizes of open axes.

use std::time::{Duration, Instant};

use nobat_core::signature::TensorSpec;
use nobat_core::tensor::Datatype;

use super::made_up::{Made, Probed, Varied, run, run_sample};
use super::{Bound, Endless};
use crate::engine::{Engine, RunError};
use crate::samples::{Sample, joined};

/// Sizes tried for axes that the model leaves open, in order; those that a refusal
/// names come first.
const OPEN_DIMS: [i64; 9] = [16, 1, 64, 224, 128, 256, 512, 1024, 16_000];
/// Most sizes tried in all.
const MOST_DIMS: usize = 16;
/// Sizes that are enough.
const ENOUGH_DIMS: usize = 3;
/// Seeds at each size.
const SEEDS: u64 = 2;
/// Integers are below one of these: the most that the model takes.
const BELOW: [i64; 4] = [20_000, 1_000, 100, 10];
/// Rows' answers may differ so much, relative to the row's largest, by kernel choice.
const TOLERANCE: f64 = 2e-3;
/// So much where the graph has proven it: the trial is for a rule that is wrong, whose rows
/// are others altogether, and not for the rounding that a deep model makes larger.
const PROVEN_TOLERANCE: f64 = 0.25;
/// What is left of values that cancel out is the rounding of the largest of them.
const ROUNDING: f64 = 1e-5;

/// What a trial showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// Each row was the same alone and among others.
    Same,
    /// One was not, and how.
    Differs(String),
    /// Made-up input does not run, and why not.
    None(String),
}

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// One size and seed, for a model whose graph has proven it.
    Once,
    /// Several.
    Thorough,
}

impl Effort {
    fn tolerance(self) -> f64 {
        match self {
            Effort::Once => PROVEN_TOLERANCE,
            Effort::Thorough => TOLERANCE,
        }
    }
}

/// Runs made-up rows alone and together, for about `budget`.
///
/// # Errors
/// [`Endless`].
pub fn try_rows(
    engine: &mut dyn Engine,
    inputs: &[TensorSpec],
    effort: Effort,
    budget: Duration,
    bound: &Bound<'_>,
) -> Result<Trial, Endless> {
    let until = Instant::now() + budget;
    let open = inputs.iter().any(|spec| spec.shape.iter().skip(1).any(|&own| own < 0));
    let mut dims: Vec<i64> = if open { OPEN_DIMS.to_vec() } else { vec![1] };
    let (mut at, mut ran, mut refusal) = (0, 0, String::new());
    while let Some(&dim) = dims.get(at).filter(|_| at < MOST_DIMS) {
        at += 1;
        let outcome = at_dim(engine, inputs, dim, effort, until, bound);
        match outcome {
            Ok(None) => ran += 1,
            Ok(Some(differs)) => return Ok(Trial::Differs(differs)),
            Err(RunError::Ended(_)) => return Err(Endless(bound.run)),
            Err(RunError::Failed(why) | RunError::Invalid(why)) => {
                if open {
                    let named: Vec<i64> = numbers_in(&why).filter(|own| !dims.contains(own)).collect();
                    named.into_iter().rev().for_each(|own| dims.insert(at, own));
                }
                if refusal.is_empty() {
                    refusal = why;
                }
            }
        }
        let enough = if effort == Effort::Once { 1 } else { ENOUGH_DIMS };
        if ran >= enough || (ran > 0 && Instant::now() >= until) {
            break;
        }
    }
    Ok(if ran > 0 { Trial::Same } else { Trial::None(refusal) })
}

/// Runs real requests alone and together, in two orders.
///
/// # Errors
/// [`Endless`].
pub fn try_samples(engine: &mut dyn Engine, samples: &[Sample], bound: &Bound<'_>) -> Result<Trial, Endless> {
    match compare_samples(engine, samples, bound) {
        Ok(None) => Ok(Trial::Same),
        Ok(Some(differs)) => Ok(Trial::Differs(differs)),
        Err(RunError::Failed(why) | RunError::Invalid(why)) => Ok(Trial::None(why)),
        Err(RunError::Ended(_)) => Err(Endless(bound.run)),
    }
}

fn compare_samples(engine: &mut dyn Engine, samples: &[Sample], bound: &Bound<'_>) -> Result<Option<String>, RunError> {
    let alone: Vec<Vec<Probed>> =
        samples.iter().map(|sample| run_sample(engine, sample, bound)).collect::<Result<_, _>>()?;
    let rows = |at: usize| samples[at].iter().flatten().next().and_then(|own| own.shape.first().copied()).unwrap_or(1);
    let order: Vec<usize> = (0..samples.len()).collect();
    for order in [order.clone(), order.into_iter().rev().collect()] {
        let whole = joined(&order.iter().map(|&at| &samples[at]).collect::<Vec<_>>());
        let together = match run_sample(engine, &whole, bound) {
            Ok(together) => together,
            Err(error @ RunError::Ended(_)) => return Err(error),
            Err(error) => return Ok(Some(format!("all together fail ({error}) where each alone runs"))),
        };
        for (at, whole) in together.iter().enumerate() {
            let own: Vec<&Probed> = order.iter().map(|&sample| &alone[sample][at]).collect();
            let counts: Vec<i64> = order.iter().map(|&sample| rows(sample)).collect();
            if let Some(differs) = difference(at, whole, &own, &counts, TOLERANCE) {
                return Ok(Some(differs));
            }
        }
    }
    Ok(None)
}

/// Sizes in the words of a refusal: `Got: 16 Expected: 96`.
fn numbers_in(text: &str) -> impl Iterator<Item = i64> {
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok());
    numbers.filter(|number| (2..=1 << 16).contains(number)).take(6)
}

/// Compares rows at a size; what differs, if anything.
fn at_dim(
    engine: &mut dyn Engine,
    inputs: &[TensorSpec],
    dim: i64,
    effort: Effort,
    until: Instant,
    bound: &Bound<'_>,
) -> Result<Option<String>, RunError> {
    let mut varied = Varied { seed: 1, below: vec![2; inputs.len()], words: true };
    let mut alone = |varied: &Varied| run(engine, inputs, &[0], dim, Made::Varied(varied), bound).map(drop);
    // An error with a single row is about the made-up input, not the batch.
    if let Err(error) = alone(&varied) {
        if !inputs.iter().any(|spec| spec.datatype == Datatype::Bytes) {
            return Err(error);
        }
        varied.words = false;
        alone(&varied)?;
    }
    for at in (0..inputs.len()).filter(|&at| is_whole(inputs[at].datatype)) {
        for below in BELOW {
            let wider = Varied { below: with(&varied.below, at, below), ..varied.clone() };
            match (0..3).try_for_each(|row| run(engine, inputs, &[row], dim, Made::Varied(&wider), bound).map(drop)) {
                Ok(()) => {
                    varied = wider;
                    break;
                }
                Err(error @ RunError::Ended(_)) => return Err(error),
                Err(RunError::Failed(_) | RunError::Invalid(_)) => {}
            }
        }
    }
    let seeds = if effort == Effort::Once { 1 } else { SEEDS };
    for seed in 1..=seeds {
        let varied = Varied { seed, ..varied.clone() };
        if let Some(differs) = compare(engine, inputs, dim, &varied, effort.tolerance(), bound)? {
            return Ok(Some(differs));
        }
        if Instant::now() >= until {
            break;
        }
    }
    Ok(None)
}

fn is_whole(datatype: Datatype) -> bool {
    !matches!(
        datatype,
        Datatype::Bool | Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 | Datatype::Bytes
    )
}

fn with(all: &[i64], at: usize, value: i64) -> Vec<i64> {
    let mut all = all.to_vec();
    all[at] = value;
    all
}

fn compare(
    engine: &mut dyn Engine,
    inputs: &[TensorSpec],
    dim: i64,
    varied: &Varied,
    tolerance: f64,
    bound: &Bound<'_>,
) -> Result<Option<String>, RunError> {
    let mut alone = Vec::new();
    for row in 0..3 {
        alone.push(run(engine, inputs, &[row], dim, Made::Varied(varied), bound)?);
    }
    for rows in [&[0, 1, 2][..], &[2, 0, 1], &[1, 0]] {
        let together = match run(engine, inputs, rows, dim, Made::Varied(varied), bound) {
            Ok(together) => together,
            Err(error @ RunError::Ended(_)) => return Err(error),
            Err(error) => {
                return Ok(Some(format!("{} rows together fail ({error}) where each alone runs", rows.len())));
            }
        };
        for (at, whole) in together.iter().enumerate() {
            let own: Vec<&Probed> = rows.iter().map(|&row| &alone[row as usize][at]).collect();
            if let Some(differs) = difference(at, whole, &own, &vec![1; own.len()], tolerance) {
                return Ok(Some(differs));
            }
        }
    }
    Ok(None)
}

/// How the output of a joined run differs from those of its parts, which have so many rows.
fn difference(at: usize, whole: &Probed, parts: &[&Probed], rows: &[i64], tolerance: f64) -> Option<String> {
    let all: i64 = rows.iter().sum();
    let mut own = parts.iter().zip(rows);
    let fits = own.all(|(part, rows)| part.shape.first() == Some(rows) && part.shape[1..] == whole.shape[1..]);
    if whole.shape.first() != Some(&all) || !fits {
        let (whole, part) = (whole.shape.as_slice(), parts[0].shape.as_slice());
        return Some(format!("output {at} has shape {whole:?} for {all} rows and {part:?} for {}", rows[0]));
    }
    let largest =
        |values: &[f64]| values.iter().filter(|own| own.is_finite()).fold(0.0, |most: f64, own| most.max(own.abs()));
    // Texts are equal or not: their numbers say nothing of how close they are.
    let tolerance = if whole.datatype == Datatype::Bytes { 0.0 } else { tolerance };
    let floor = least_scale(whole.datatype).max(largest(&whole.values) * ROUNDING);
    let mut rest = &whole.values[..];
    for (place, own) in parts.iter().enumerate() {
        let Some((together, left)) = rest.split_at_checked(own.values.len()) else {
            return Some(format!("output {at} has fewer elements together than alone"));
        };
        rest = left;
        let scale = largest(&own.values).max(floor);
        let differs =
            |(a, b): (&f64, &f64)| !(a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * scale);
        if own.values.iter().zip(together).any(differs) {
            return Some(format!("output {at} was another for part {place} of {} together than alone", parts.len()));
        }
    }
    None
}

/// The scale below which differences are noise: what is left of made-up values when
/// they cancel out is their rounding, which is coarse in the halved datatypes.
fn least_scale(datatype: Datatype) -> f64 {
    match datatype {
        Datatype::Fp16 | Datatype::Bf16 => 1.0,
        _ => 1e-4,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::engine::{InputData, InputView, OutputData, OutputView, RunLimit};
    use crate::probe::RUN_LIMIT;
    use crate::watchdog::Watchdog;

    /// Answers rows of floats, of `width` each, with what `work` makes of all of them.
    struct Scripted<F>(F);

    impl<F: FnMut(i64, &[f32]) -> Result<Vec<f32>, RunError> + Send> Engine for Scripted<F> {
        fn run(
            &mut self,
            inputs: &[InputView<'_>],
            _: Option<RunLimit<'_>>,
            take: &mut dyn FnMut(&[OutputView<'_>]),
        ) -> Result<(), RunError> {
            let values: Vec<f32> = match &inputs[0].data {
                InputData::Raw(raw) => raw.as_chunks().0.iter().map(|&own| f32::from_le_bytes(own)).collect(),
                InputData::Text(texts) => texts.iter().map(|text| text.len() as f32).collect(),
            };
            let out = (self.0)(inputs[0].shape[1], &values)?;
            let bytes: Vec<u8> = out.iter().flat_map(|own| own.to_le_bytes()).collect();
            take(&[OutputView {
                datatype: Datatype::Fp32,
                shape: &inputs[0].shape[..1],
                data: OutputData::Raw(&bytes),
            }]);
            Ok(())
        }
    }

    fn tried(
        shape: &[i64],
        datatype: Datatype,
        work: impl FnMut(i64, &[f32]) -> Result<Vec<f32>, RunError> + Send,
    ) -> Trial {
        tried_with(Effort::Thorough, shape, datatype, work)
    }

    fn tried_with(
        effort: Effort,
        shape: &[i64],
        datatype: Datatype,
        work: impl FnMut(i64, &[f32]) -> Result<Vec<f32>, RunError> + Send,
    ) -> Trial {
        let (watchdog, stop) = (Watchdog::start().expect("starts"), AtomicBool::new(false));
        let bound = Bound { watchdog: &watchdog, run: RUN_LIMIT, stop: &stop };
        let inputs = [TensorSpec { name: "x".into(), datatype, shape: shape.into(), optional: false }];
        try_rows(&mut Scripted(work), &inputs, effort, Duration::from_secs(5), &bound).expect("it ends")
    }

    fn sums(width: i64, values: &[f32], of: impl Fn(f32) -> f32) -> Vec<f32> {
        values.chunks(width as usize).map(|row| row.iter().map(|&own| of(own)).sum()).collect()
    }

    #[test]
    fn rows_that_the_others_change_are_seen() {
        let sum = |width: i64, values: &[f32]| Ok(sums(width, values, |own| own));
        assert_eq!(tried(&[-1, 4], Datatype::Fp32, sum), Trial::Same);
        let divided = |width: i64, values: &[f32]| {
            let by = if values.iter().any(|&own| own > 1.0) { 255.0 } else { 1.0 };
            Ok(sums(width, values, |own| own / by))
        };
        assert!(matches!(tried(&[-1, 4], Datatype::Fp32, divided), Trial::Differs(_)));
        let shifted = |width: i64, values: &[f32]| {
            let by = if values.iter().any(|&own| own < 0.0) { 1.0 } else { 0.0 };
            Ok(sums(width, values, |own| own + by))
        };
        assert!(matches!(tried(&[-1, 4], Datatype::Fp32, shifted), Trial::Differs(_)));
        let cumulated = |width: i64, values: &[f32]| {
            let mut all = sums(width, values, |own| own);
            (1..all.len()).for_each(|at| all[at] += all[at - 1]);
            Ok(all)
        };
        assert!(matches!(tried(&[-1, 4], Datatype::Fp32, cumulated), Trial::Differs(_)));
        let placed = |width: i64, values: &[f32]| {
            Ok(sums(width, values, |own| own).iter().enumerate().map(|(at, own)| own * at as f32).collect())
        };
        assert!(matches!(tried(&[-1, 4], Datatype::Fp32, placed), Trial::Differs(_)));
        let padded = |width: i64, values: &[f32]| {
            let most = values.iter().copied().fold(0.0, f32::max);
            Ok(sums(width, values, |own| most - own))
        };
        assert!(matches!(tried(&[-1, 1], Datatype::Bytes, padded), Trial::Differs(_)));
        let joined = |_: i64, values: &[f32]| match values.len() {
            0..=4 => Ok(vec![1.0]),
            _ => Err(RunError::Failed("one row alone".into())),
        };
        assert!(
            matches!(tried(&[-1, 4], Datatype::Fp32, joined), Trial::Differs(why) if why.contains("one row alone"))
        );
    }

    #[test]
    fn rounding_says_nothing_against_a_proof_and_another_row_does() {
        let off = |by: f32| {
            move |width: i64, values: &[f32]| {
                let by = if values.len() > width as usize { 1.0 + by } else { 1.0 };
                Ok(sums(width, values, |own| own * by))
            }
        };
        // As much as a deep model of a PyPI package rounds differently in another batch.
        assert_eq!(tried_with(Effort::Once, &[-1, 4], Datatype::Fp32, off(0.006)), Trial::Same);
        assert!(matches!(tried_with(Effort::Thorough, &[-1, 4], Datatype::Fp32, off(0.006)), Trial::Differs(_)));
        assert!(matches!(tried_with(Effort::Once, &[-1, 4], Datatype::Fp32, off(0.5)), Trial::Differs(_)));
    }

    #[test]
    fn the_size_that_a_refusal_names_is_tried() {
        let wants = |width: i64, values: &[f32]| match width {
            77 => Ok(sums(width, values, |own| own)),
            _ => Err(RunError::Failed(format!("Got: {width} Expected: 77"))),
        };
        assert_eq!(tried(&[-1, -1], Datatype::Fp32, wants), Trial::Same);
        let speech = |width: i64, values: &[f32]| match width {
            1024.. => Ok(sums(width, values, |own| own)),
            _ => Err(RunError::Failed("too short".into())),
        };
        assert_eq!(tried(&[-1, -1], Datatype::Fp32, speech), Trial::Same);
        let never = |_: i64, _: &[f32]| Err(RunError::Failed("never".into()));
        assert_eq!(tried(&[-1, -1], Datatype::Fp32, never), Trial::None("never".into()));
    }
}
