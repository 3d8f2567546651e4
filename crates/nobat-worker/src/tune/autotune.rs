//! Finds the batch size that a model runs best with, and warms its sessions up, both on
//! synthetic input. The timing runs warm up every batch size they try.

use std::time::{Duration, Instant};

use super::limit::RunTimedOut;
use super::synthetic::{Fill, SyntheticRunner};
use crate::engine::RunError;

/// Sizes tried for dimensions that the model leaves open, in order, until one runs.
const OPEN_DIMS: [i64; 4] = [64, 16, 1, 224];
/// A run below this is the transport's business, not the batch size's.
const TINY_RUN: Duration = Duration::from_micros(300);
/// Sizes whose runs cost a row at most so many times the least count as equal: the
/// difference is as likely noise.
const SAME: f64 = 1.04;
/// A larger batch must cost a row this much less to be worth its latency.
const WORTH: f64 = 1.015;
/// What a run costs beside it, as if it took longer: a session stands idle while its
/// batch is settled and the next is leased and fetched. Measured with ResNet-18
/// over Redis on two busy cores, where a core's idle time is 1 to 3 ms a batch.
const OVERHEAD: Duration = Duration::from_millis(2);
/// A run as long as this is timed once after its warm-up, a shorter one three times.
const LONG_RUN: Duration = Duration::from_millis(40);
/// Sizes that cost a row at most so many times what the best does are timed again.
const CLOSE: f64 = 1.1;
/// How often, at most.
const ROUNDS: usize = 4;

/// The measured best batch size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BatchSize {
    /// Most rows that pay.
    pub(crate) rows: u32,
    /// Run time per row at that size, in seconds.
    pub(crate) row_s: f64,
}

/// Times batch sizes 1, 2, 4, … up to `limit` as long as they pay, fit into
/// `max_bytes` of input and `budget` lasts, those that are close to each other again
/// in turn, and picks one. `None` when synthetic input does not run.
pub(crate) fn best_batch_size(
    model: &mut SyntheticRunner<'_>,
    limit: u32,
    max_bytes: u64,
    budget: Duration,
) -> Result<Option<BatchSize>, RunTimedOut> {
    let until = Instant::now() + budget;
    let Some(dim) = dim_that_runs(model)? else { return Ok(None) };
    let single = time_of(model, 1, dim, until);
    let Some(single) = model.accepted(single)? else { return Ok(None) };
    if single < TINY_RUN {
        return Ok(Some(BatchSize { rows: limit, row_s: single.as_secs_f64() }));
    }
    let mut runs = vec![(1, single)];
    let most = limit.min(model.rows_within(dim, max_bytes));
    while let Some(size) = next_size(&runs, most, until.saturating_duration_since(Instant::now())) {
        let Ok(took) = time_of(model, size, dim, until) else { break };
        runs.push((size, took));
    }
    // Other work on the machine makes runs slower for a while; the least of several runs
    // that lie apart is free of it.
    for at in again(&runs) {
        let (size, least) = runs[at];
        if least > until.saturating_duration_since(Instant::now()) {
            break;
        }
        let Ok(took) = time_once(model, size, dim) else { break };
        runs[at].1 = least.min(took);
    }
    let (rows, took) = pick(&runs);
    Ok(Some(BatchSize { rows, row_s: took.as_secs_f64() / f64::from(rows) }))
}

/// Runs every batch size once, 1, 2, 4, … and `limit`, as far as `max_bytes` of
/// input allow and for at most `budget`: the first run of a size plans and
/// allocates, which no caller should wait for. Input that does not run warms nothing.
///
/// # Errors
/// [`RunTimedOut`], for a single row; a larger batch that takes too long is left cold.
pub(crate) fn warm_up(
    model: &mut SyntheticRunner<'_>,
    limit: u32,
    max_bytes: u64,
    budget: Duration,
) -> Result<(), RunTimedOut> {
    let until = Instant::now() + budget;
    let Some(dim) = dim_that_runs(model)? else { return Ok(()) };
    let limit = limit.min(model.rows_within(dim, max_bytes));
    for size in (1..u32::BITS).map(|power| 1 << power).take_while(|&size| size < limit).chain([limit]) {
        if Instant::now() >= until || time_once(model, size, dim).is_err() {
            break;
        }
    }
    Ok(())
}

/// The size for open dimensions with which one row runs.
fn dim_that_runs(model: &mut SyntheticRunner<'_>) -> Result<Option<i64>, RunTimedOut> {
    for dim in OPEN_DIMS {
        let outcome = model.run(&[0], dim, Fill::Plain);
        if model.accepted(outcome)?.is_some() {
            return Ok(Some(dim));
        }
    }
    Ok(None)
}

/// Best of three runs after one that warms up; a long one is timed once.
fn time_of(model: &mut SyntheticRunner<'_>, rows: u32, dim: i64, until: Instant) -> Result<Duration, RunError> {
    let warming = time_once(model, rows, dim)?;
    if Instant::now() + warming > until {
        return Ok(warming);
    }
    let mut best = warming;
    for _ in 0..3 {
        let took = time_once(model, rows, dim)?;
        best = best.min(took);
        if took >= LONG_RUN || Instant::now() >= until {
            break;
        }
    }
    Ok(best)
}

fn time_once(model: &mut SyntheticRunner<'_>, rows: u32, dim: i64) -> Result<Duration, RunError> {
    let rows: Vec<u32> = (0..rows).map(|row| row % 2).collect();
    let started = Instant::now();
    model.run(&rows, dim, Fill::Plain)?;
    Ok(started.elapsed())
}

/// Time of a row, with its share of what its run costs beside it.
fn cost_of_row((rows, took): (u32, Duration)) -> f64 {
    (took + OVERHEAD).as_secs_f64() / f64::from(rows)
}

/// The size to time after these: twice the last, while two doublings pay; one
/// alone may be lost in noise. It must fit in half of the budget, warmed up and timed
/// once: the other half is for timing again what is close, without which noise picks.
fn next_size(runs: &[(u32, Duration)], limit: u32, left: Duration) -> Option<u32> {
    let &(rows, took) = runs.last()?;
    let pays = match runs {
        [.., before, _, last] => cost_of_row(*last) * WORTH < cost_of_row(*before),
        [before, last] => cost_of_row(*last) < cost_of_row(*before) * SAME,
        _ => true,
    };
    let size = rows.saturating_mul(2);
    (pays && size <= limit && took * 8 <= left).then_some(size)
}

/// Which of the runs to time again, in this order; none if one is far ahead.
fn again(runs: &[(u32, Duration)]) -> impl Iterator<Item = usize> + use<> {
    let best = runs.iter().map(|&run| cost_of_row(run)).fold(f64::INFINITY, f64::min);
    let close = |run: (u32, Duration)| cost_of_row(run) <= best * CLOSE;
    let mut round: Vec<usize> = (0..runs.len()).filter(|&at| close(runs[at])).collect();
    if round.len() < 2 {
        round.clear();
    }
    std::iter::repeat_n(round, ROUNDS).flatten()
}

/// The smallest size that costs a row little more than the best one. Runs that are the
/// [`SAME`] but for noise count as equal, so that the overhead decides.
fn pick(runs: &[(u32, Duration)]) -> (u32, Duration) {
    let run_of_row = |&(rows, took): &(u32, Duration)| took.as_secs_f64() / f64::from(rows);
    let least = runs.iter().map(run_of_row).fold(f64::INFINITY, f64::min);
    let smoothed = |&(rows, took): &(u32, Duration)| {
        let same = run_of_row(&(rows, took)) <= least * SAME;
        cost_of_row((rows, if same { Duration::from_secs_f64(least * f64::from(rows)) } else { took }))
    };
    let best = runs.iter().map(smoothed).fold(f64::INFINITY, f64::min);
    let found = runs.iter().find(|&run| smoothed(run) <= best * WORTH);
    found.copied().unwrap_or((1, Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use nobat_core::signature::TensorSpec;
    use nobat_core::tensor::Datatype;

    use super::*;
    use crate::engine::{Engine, InputView, OutputView};
    use crate::tune::limit::{LoadLimit, RUN_LIMIT};
    use crate::tune::trial::{Effort, Trial, try_rows};
    use crate::watchdog::Watchdog;

    fn runs(ms: &[f64]) -> Vec<(u32, Duration)> {
        ms.iter().enumerate().map(|(at, ms)| (1 << at, Duration::from_secs_f64(ms / 1e3))).collect()
    }

    /// Notes the rows of its runs; a run takes a millisecond and a little a row.
    struct Noting(Vec<i64>);

    impl Engine for Noting {
        fn run(
            &mut self,
            inputs: &[InputView<'_>],
            _: Option<crate::engine::RunLimit<'_>>,
            take: &mut dyn FnMut(&[OutputView<'_>]),
        ) -> Result<(), RunError> {
            self.0.push(inputs[0].shape[0]);
            std::thread::sleep(Duration::from_micros(1_000 + 10 * inputs[0].shape[0] as u64));
            take(&[]);
            Ok(())
        }
    }

    fn spec(datatype: Datatype, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: "x".into(), datatype, shape: shape.into(), optional: false }
    }

    /// Hands `work` a runner over an engine that notes the rows of its runs; returns those.
    fn noted(inputs: &[TensorSpec], work: impl FnOnce(&mut SyntheticRunner<'_>)) -> Vec<i64> {
        let (watchdog, stop) = (Watchdog::start().expect("starts"), AtomicBool::new(false));
        let limit = LoadLimit { watchdog: &watchdog, run: RUN_LIMIT, stop: &stop };
        let mut engine = Noting(Vec::new());
        work(&mut SyntheticRunner { engine: &mut engine, inputs, limit: &limit });
        engine.0
    }

    #[test]
    fn no_synthetic_run_is_larger_than_a_real_one_may_be() {
        // 1 KiB a row: an open dimension is timed at 64.
        let inputs = [spec(Datatype::Fp32, &[-1, -1, 3]), spec(Datatype::Fp32, &[-1, 64])];
        let budget = Duration::from_secs(60);
        let runs = noted(&inputs, |model| {
            warm_up(model, 32, 5 << 10, budget).expect("it ends");
            let found = best_batch_size(model, 32, 5 << 10, budget).expect("it ends").expect("it runs");
            assert_eq!(found.rows, 4);
        });
        assert_eq!(runs.iter().max(), Some(&5));
    }

    #[test]
    fn input_that_no_memory_holds_is_not_made() {
        for shape in [&[-1, 1 << 20, 1 << 20][..], &[1, 1 << 31, 1 << 31], &[i64::MAX, 4]] {
            let inputs = [spec(Datatype::Int64, shape)];
            let runs = noted(&inputs, |model| {
                let within = model.rows_within(i64::from(u16::MAX), 1 << 20);
                assert_eq!(within, if shape[0] < 0 { 1 } else { 1 << 20 });
                assert_eq!(best_batch_size(model, 32, u64::MAX, Duration::from_secs(1)), Ok(None), "{shape:?}");
                let rows = try_rows(model, Effort::THOROUGH, Duration::from_secs(1)).expect("it ends");
                assert!(matches!(&rows, Trial::None(why) if why.contains("over 256 MiB")), "{shape:?}: {rows:?}");
            });
            assert!(runs.is_empty(), "{shape:?}");
        }
    }

    #[test]
    fn the_smallest_size_near_the_best_is_picked() {
        // A sequence model: much is won up to 4, then nothing.
        assert_eq!(pick(&runs(&[19.0, 36.0, 66.0, 138.0])).0, 4);
        // As that, on a machine of half the speed: 8 would win a hundredth, in runs of twice the time.
        assert_eq!(pick(&runs(&[24.0, 42.0, 77.0, 154.0])).0, 4);
        // Rows that cost the same in every batch, but for noise: what is won is the steps between.
        for flat in [[40.0, 80.0, 160.0, 320.0], [41.0, 80.0, 165.0, 320.0], [40.0, 83.0, 163.0, 330.0]] {
            assert_eq!(pick(&runs(&flat)).0, 4, "{flat:?}");
        }
        // Long runs: a step is nothing beside one.
        assert_eq!(pick(&runs(&[500.0, 1_000.0])).0, 1);
        // Larger batches hurt.
        assert_eq!(pick(&runs(&[10.0, 30.0])).0, 1);
    }

    #[test]
    fn close_sizes_are_timed_again_in_turn() {
        let turns = |ms: &[f64]| again(&runs(ms)).collect::<Vec<_>>();
        // 1 is far behind, 2 to 8 are close.
        assert_eq!(turns(&[40.0, 60.0, 118.0, 240.0]), [1, 2, 3].repeat(ROUNDS));
        assert_eq!(turns(&[10.0, 30.0]), [0; 0]);
        assert_eq!(turns(&[10.0]), [0; 0]);
    }

    #[test]
    fn sizes_are_tried_while_they_pay_and_fit_in_the_budget() {
        let long = Duration::from_secs(100);
        assert_eq!(next_size(&runs(&[9.0]), 32, long), Some(2));
        assert_eq!(next_size(&runs(&[9.0, 17.0]), 32, long), Some(4));
        assert_eq!(next_size(&runs(&[9.0, 17.0]), 2, long), None);
        assert_eq!(next_size(&runs(&[9.0, 30.0]), 32, long), None);
        assert_eq!(next_size(&runs(&[9.0, 17.0, 31.0, 63.0]), 32, long), Some(16));
        assert_eq!(next_size(&runs(&[9.0, 17.0, 31.0, 63.0, 130.0]), 32, long), None);
        assert_eq!(next_size(&runs(&[100.0]), 32, Duration::from_secs(1)), Some(2));
        assert_eq!(next_size(&runs(&[130.0]), 32, Duration::from_secs(1)), None);
    }
}
