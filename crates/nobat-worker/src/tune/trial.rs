//! Rows alone and together: a trial that can refute that they are independent, and
//! never prove it. Its rows are as different as those of real requests: of different
//! scales and signs, integers as far up as the model takes them, texts of different
//! lengths; in two orders, at several sizes of open axes.

use std::time::{Duration, Instant};

use nobat_core::tensor::Datatype;

use super::limit::RunTimedOut;
use super::samples::{Sample, joined};
use super::synthetic::{Fill, Output, SyntheticRunner, Varied};
use crate::engine::RunError;

/// Sizes tried for axes that the model leaves open, in order; those that a refusal
/// names come first.
const OPEN_DIMS: [i64; 9] = [16, 1, 64, 224, 128, 256, 512, 1024, 16_000];
/// Most sizes tried in all.
const MAX_DIMS: usize = 16;
/// Integers are below one of these: the most that the model takes.
const BELOW: [i64; 4] = [20_000, 1_000, 100, 10];
/// Where values cancel out, what is left is rounding, in proportion to the largest of them.
const ROUNDING: f64 = 1e-5;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trial {
    /// Each row was the same alone and among others.
    Same,
    /// One was not, and how.
    Differs(String),
    /// Synthetic input does not run, and why not.
    None(String),
}

/// How much is tried, and how much a row's answers may differ by kernel choice, relative to
/// its largest value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Sizes of open axes that are enough.
    dims: usize,
    /// Seeds at each size.
    seeds: u64,
    tolerance: f64,
}

impl Effort {
    /// For a model whose graph has proven that rows are independent: the trial is there to
    /// catch a wrong rule, whose rows are entirely different, not the rounding that a deep
    /// model amplifies.
    pub(crate) const ONCE: Effort = Effort { dims: 1, seeds: 1, tolerance: 0.25 };
    /// For a model whose graph shows nothing.
    pub(crate) const THOROUGH: Effort = Effort { dims: 3, seeds: 2, tolerance: 2e-3 };
}

/// Runs synthetic rows alone and together, for about `budget`.
pub(crate) fn try_rows(
    model: &mut SyntheticRunner<'_>,
    effort: Effort,
    budget: Duration,
) -> Result<Trial, RunTimedOut> {
    let until = Instant::now() + budget;
    let open = model.inputs.iter().any(|spec| spec.shape.iter().skip(1).any(|&own| own < 0));
    let mut dims: Vec<i64> = if open { OPEN_DIMS.to_vec() } else { vec![1] };
    let (mut at, mut ran, mut refusal) = (0, 0, String::new());
    while let Some(&dim) = dims.get(at).filter(|_| at < MAX_DIMS) {
        at += 1;
        match at_dim(model, dim, effort, until) {
            Ok(None) => ran += 1,
            Ok(Some(differs)) => return Ok(Trial::Differs(differs)),
            Err(RunError::Ended(_)) => return Err(RunTimedOut(model.limit.run)),
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
        if ran >= effort.dims || (ran > 0 && Instant::now() >= until) {
            break;
        }
    }
    Ok(if ran > 0 { Trial::Same } else { Trial::None(refusal) })
}

/// Runs real requests alone and together, in two orders.
pub(crate) fn try_samples(model: &mut SyntheticRunner<'_>, samples: &[Sample]) -> Result<Trial, RunTimedOut> {
    match compare_samples(model, samples) {
        Ok(None) => Ok(Trial::Same),
        Ok(Some(differs)) => Ok(Trial::Differs(differs)),
        Err(RunError::Failed(why) | RunError::Invalid(why)) => Ok(Trial::None(why)),
        Err(RunError::Ended(_)) => Err(RunTimedOut(model.limit.run)),
    }
}

fn compare_samples(model: &mut SyntheticRunner<'_>, samples: &[Sample]) -> Result<Option<String>, RunError> {
    let alone = samples.iter().map(|sample| model.sample(sample)).collect::<Result<Vec<_>, _>>()?;
    let rows = |at: usize| samples[at].iter().flatten().next().and_then(|own| own.shape.first().copied()).unwrap_or(1);
    let order: Vec<usize> = (0..samples.len()).collect();
    for order in [order.clone(), order.into_iter().rev().collect()] {
        let whole = joined(&order.iter().map(|&at| &samples[at]).collect::<Vec<_>>());
        let parts: Vec<(&Vec<Output>, i64)> = order.iter().map(|&at| (&alone[at], rows(at))).collect();
        let differs = difference("all", model.sample(&whole), &parts, Effort::THOROUGH.tolerance)?;
        if differs.is_some() {
            return Ok(differs);
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
    model: &mut SyntheticRunner<'_>,
    dim: i64,
    effort: Effort,
    until: Instant,
) -> Result<Option<String>, RunError> {
    let mut varied = Varied { seed: 1, below: vec![2; model.inputs.len()], words: true };
    // An error with a single row is about the synthetic input, not the batch.
    if let Err(error) = model.run(&[0], dim, Fill::Varied(&varied)) {
        if !model.inputs.iter().any(|spec| spec.datatype == Datatype::Bytes) {
            return Err(error);
        }
        varied.words = false;
        model.run(&[0], dim, Fill::Varied(&varied))?;
    }
    for at in (0..model.inputs.len()).filter(|&at| is_whole(model.inputs[at].datatype)) {
        for below in BELOW {
            let mut wider = varied.clone();
            wider.below[at] = below;
            match (0..3).try_for_each(|row| model.run(&[row], dim, Fill::Varied(&wider))) {
                Ok(()) => {
                    varied = wider;
                    break;
                }
                Err(error @ RunError::Ended(_)) => return Err(error),
                Err(RunError::Failed(_) | RunError::Invalid(_)) => {}
            }
        }
    }
    for seed in 1..=effort.seeds {
        varied.seed = seed;
        let differs = compare(model, dim, &varied, effort.tolerance)?;
        if differs.is_some() {
            return Ok(differs);
        }
        if Instant::now() >= until {
            break;
        }
    }
    Ok(None)
}

fn is_whole(datatype: Datatype) -> bool {
    use Datatype::{Bf16, Bool, Bytes, Fp16, Fp32, Fp64};
    !matches!(datatype, Bool | Fp16 | Bf16 | Fp32 | Fp64 | Bytes)
}

fn compare(
    model: &mut SyntheticRunner<'_>,
    dim: i64,
    varied: &Varied,
    tolerance: f64,
) -> Result<Option<String>, RunError> {
    let fill = Fill::Varied(varied);
    let alone = (0..3).map(|row| model.outputs(&[row], dim, fill)).collect::<Result<Vec<_>, _>>()?;
    for rows in [&[0, 1, 2][..], &[2, 0, 1], &[1, 0]] {
        let parts: Vec<(&Vec<Output>, i64)> = rows.iter().map(|&row| (&alone[row as usize], 1)).collect();
        let together = model.outputs(rows, dim, fill);
        let differs = difference(&format!("{} rows", rows.len()), together, &parts, tolerance)?;
        if differs.is_some() {
            return Ok(differs);
        }
    }
    Ok(None)
}

/// How the outputs of a joined run differ from those of its parts, each with its rows.
fn difference(
    what: &str,
    together: Result<Vec<Output>, RunError>,
    parts: &[(&Vec<Output>, i64)],
    tolerance: f64,
) -> Result<Option<String>, RunError> {
    let together = match together {
        Ok(together) => together,
        Err(error @ RunError::Ended(_)) => return Err(error),
        Err(error) => return Ok(Some(format!("{what} together fail ({error}) where each alone runs"))),
    };
    Ok(together.iter().enumerate().find_map(|(at, whole)| {
        let own: Vec<(&Output, i64)> = parts.iter().map(|(outputs, rows)| (&outputs[at], *rows)).collect();
        output_difference(at, whole, &own, tolerance)
    }))
}

fn output_difference(at: usize, whole: &Output, parts: &[(&Output, i64)], tolerance: f64) -> Option<String> {
    let all: i64 = parts.iter().map(|(_, rows)| rows).sum();
    let mut own = parts.iter();
    let fits = own.all(|(part, rows)| part.shape.first() == Some(rows) && part.shape[1..] == whole.shape[1..]);
    if whole.shape.first() != Some(&all) || !fits {
        let (whole, (part, rows)) = (whole.shape.as_slice(), parts[0]);
        return Some(format!(
            "output {at} has shape {whole:?} for {all} rows and {:?} for {rows}",
            part.shape.as_slice()
        ));
    }
    let largest =
        |values: &[f64]| values.iter().filter(|own| own.is_finite()).fold(0.0, |most: f64, own| most.max(own.abs()));
    // Texts are equal or not: their numbers say nothing of how close they are.
    let tolerance = if whole.datatype == Datatype::Bytes { 0.0 } else { tolerance };
    let floor = least_scale(whole.datatype).max(largest(&whole.values) * ROUNDING);
    let mut rest = &whole.values[..];
    for (place, (own, _)) in parts.iter().enumerate() {
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

/// The scale below which differences are noise: what is left of values that
/// cancel out is their rounding, which is coarse in the halved datatypes.
fn least_scale(datatype: Datatype) -> f64 {
    match datatype {
        Datatype::Fp16 | Datatype::Bf16 => 1.0,
        _ => 1e-4,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use nobat_core::signature::TensorSpec;

    use super::*;
    use crate::engine::api::InputData;
    use crate::engine::{Engine, InputView, OutputData, OutputView, RunLimit};
    use crate::tune::limit::{LoadLimit, RUN_LIMIT};
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
        tried_with(Effort::THOROUGH, shape, datatype, work)
    }

    fn tried_with(
        effort: Effort,
        shape: &[i64],
        datatype: Datatype,
        work: impl FnMut(i64, &[f32]) -> Result<Vec<f32>, RunError> + Send,
    ) -> Trial {
        let (watchdog, stop) = (Watchdog::start().expect("starts"), AtomicBool::new(false));
        let limit = LoadLimit { watchdog: &watchdog, run: RUN_LIMIT, stop: &stop };
        let inputs = [TensorSpec { name: "x".into(), datatype, shape: shape.into(), optional: false }];
        let mut model = SyntheticRunner { engine: &mut Scripted(work), inputs: &inputs, limit: &limit };
        try_rows(&mut model, effort, Duration::from_secs(5)).expect("it ends")
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
        assert_eq!(tried_with(Effort::ONCE, &[-1, 4], Datatype::Fp32, off(0.006)), Trial::Same);
        assert!(matches!(tried_with(Effort::THOROUGH, &[-1, 4], Datatype::Fp32, off(0.006)), Trial::Differs(_)));
        assert!(matches!(tried_with(Effort::ONCE, &[-1, 4], Datatype::Fp32, off(0.5)), Trial::Differs(_)));
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
