//! What a run of rows of unlike length takes: `base + token·n·L + square·n·L²` seconds
//! for `n` rows that are padded to `L`. Fitted at load; pure.
//!
//! Lengths are a row's cost: tokens of a text, pixels of a picture. A [`RunCost::units`]
//! is as much work as a run takes before its first row, so that the batch controller and
//! the latency samples count work as they count rows.

/// Share of a run that may be what every run takes, however much is in it: a larger budget
/// makes runs longer and wins no more than this.
const BASE_SHARE: f64 = 0.035;
/// What a run costs beside it, in seconds; see [`crate::tune::autotune`].
const OVERHEAD_S: f64 = 2e-3;
/// A run has at most as much as so many rows of the largest cost.
const MOST_ROWS: u32 = 64;

/// The fitted costs, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RunCost {
    base: f64,
    token: f64,
    square: f64,
    /// The largest cost of a row.
    max: u32,
}

/// One timed run: its rows, the cost that they are padded to, and its seconds.
pub(crate) type TimedRun = (u32, u32, f64);

impl RunCost {
    /// The costs that explain these runs best, none below zero; `None` where they explain
    /// nothing. `max` is the largest cost that a row may have.
    pub(crate) fn fit(runs: &[TimedRun], max: u32) -> Option<RunCost> {
        // Any of the three may be nothing: the best of all selections that fit.
        let all = (1..8u32).filter_map(|selected| solve(runs, selected));
        let (_, [base, token, square]) = all.min_by(|(a, _), (b, _)| a.total_cmp(b))?;
        (token + square > 0.0).then_some(RunCost { base, token, square, max: max.max(1) })
    }

    /// A guess where nothing could be timed: time goes with the padded tokens.
    pub(crate) fn proportional(max: u32) -> RunCost {
        RunCost { base: 8e-5, token: 1e-5, square: 0.0, max: max.max(1) }
    }

    /// Seconds that a run of `rows` padded to `longest` takes.
    pub(crate) fn seconds(&self, rows: u32, longest: u32) -> f64 {
        self.base + f64::from(rows) * self.row(longest)
    }

    fn row(&self, cost: u32) -> f64 {
        let cost = f64::from(cost);
        self.token * cost + self.square * cost * cost
    }

    /// The same as a number of rows for controller and latency samples, at least 1.
    pub(crate) fn units(&self, rows: u32, longest: u32) -> u32 {
        let (least, most) = (self.row(self.max) / 256.0, self.row(self.max));
        let unit = self.base.clamp(least.max(1e-9), most.max(1e-9));
        (f64::from(rows) * self.row(longest) / unit).ceil().clamp(1.0, 1e9) as u32
    }

    /// The most units of a run of so many padded tokens, in short rows or in one of the longest.
    pub(crate) fn units_of(&self, padded: u32) -> u32 {
        let short = self.max.min(32);
        self.units(padded.div_ceil(short), short).max(self.units(1, self.max))
    }

    /// Padded tokens of a run from which on larger runs win next to nothing; at least
    /// enough for the largest row.
    pub(crate) fn budget(&self) -> u32 {
        let typical = self.row(self.max.min(64)) / f64::from(self.max.min(64));
        let tokens = (self.base + OVERHEAD_S) / (typical.max(1e-12) * BASE_SHARE);
        let most = f64::from(self.max) * f64::from(MOST_ROWS);
        tokens.ceil().clamp(f64::from(self.max), most) as u32
    }
}

/// Least squares of the relative errors over the selected of base, token and square; the
/// error and the three. `None` where one is negative or they cannot be told apart.
fn solve(runs: &[TimedRun], selected: u32) -> Option<(f64, [f64; 3])> {
    let terms = |&(rows, cost, _): &TimedRun| {
        let (rows, cost) = (f64::from(rows), f64::from(cost));
        [1.0, rows * cost, rows * cost * cost]
    };
    let used: Vec<usize> = (0..3).filter(|at| selected & (1 << at) != 0).collect();
    let size = used.len();
    // The normal equations, each run weighed by its time.
    let mut matrix = vec![vec![0.0; size + 1]; size];
    for run in runs {
        let (terms, took) = (terms(run), run.2.max(1e-9));
        for (row, &at) in used.iter().enumerate() {
            for (column, &other) in used.iter().enumerate() {
                matrix[row][column] += terms[at] * terms[other] / (took * took);
            }
            matrix[row][size] += terms[at] / took;
        }
    }
    let solved = eliminate(matrix)?;
    let mut three = [0.0; 3];
    for (&at, value) in used.iter().zip(solved) {
        three[at] = value;
    }
    let error = |run: &TimedRun| {
        let said: f64 = terms(run).iter().zip(&three).map(|(term, value)| term * value).sum();
        (said / run.2.max(1e-9) - 1.0).powi(2)
    };
    let whole = three.iter().all(|value| value.is_finite() && *value >= 0.0);
    whole.then(|| (runs.iter().map(error).sum(), three))
}

/// Solves linear equations, each row's last entry its right side.
fn eliminate(mut matrix: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let size = matrix.len();
    for at in 0..size {
        let pivot = (at..size).max_by(|&a, &b| matrix[a][at].abs().total_cmp(&matrix[b][at].abs()))?;
        matrix.swap(at, pivot);
        if matrix[at][at].abs() < 1e-12 {
            return None;
        }
        let by = matrix[at].clone();
        for row in (0..size).filter(|&row| row != at) {
            let factor = matrix[row][at] / by[at];
            for (value, by) in matrix[row][at..].iter_mut().zip(&by[at..]) {
                *value -= factor * by;
            }
        }
    }
    Some((0..size).map(|at| matrix[at][size] / matrix[at][at]).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// MiniLM's on one thread.
    fn minilm() -> RunCost {
        RunCost { base: 2.9e-3, token: 3.72e-4, square: 5.1e-7, max: 256 }
    }

    const SHAPES: [(u32, u32); 6] = [(1, 8), (8, 8), (1, 64), (4, 64), (1, 256), (2, 256)];

    #[test]
    fn the_costs_of_a_sentence_model_are_found_and_its_budget_is_a_few_hundred_tokens() {
        let cost = minilm();
        let runs: Vec<TimedRun> = SHAPES.map(|(rows, long)| (rows, long, cost.seconds(rows, long))).into();
        let fitted = RunCost::fit(&runs, 256).expect("fits");
        for (rows, long) in [(16, 16), (3, 120)] {
            let (is, should) = (fitted.seconds(rows, long), cost.seconds(rows, long));
            assert!((is / should - 1.0).abs() < 1e-6, "{is} for {should}");
        }
        assert!((256..600).contains(&fitted.budget()), "{}", fitted.budget());
        assert_eq!(fitted.units(1, 1), 1);
        assert!((30..60).contains(&fitted.units(1, 256)), "{}", fitted.units(1, 256));
    }

    #[test]
    fn runs_that_say_nothing_fit_nothing() {
        assert_eq!(RunCost::fit(&[], 256), None);
        // Longer rows cost no more: no cost of a token can be told.
        let flat: Vec<TimedRun> = SHAPES.map(|(rows, long)| (rows, long, 0.01)).into();
        assert_eq!(RunCost::fit(&flat, 256), None);
    }

    proptest! {
        #[test]
        fn whatever_was_timed_costs_grow_with_rows_and_length_and_the_budget_holds_the_longest_row(
            took in prop::collection::vec(1e-5f64..1.0, 6), max in 1u32..9_000,
        ) {
            let runs: Vec<TimedRun> = SHAPES.iter().zip(took).map(|(&(rows, long), took)| (rows, long, took)).collect();
            if let Some(cost) = RunCost::fit(&runs, max) {
                prop_assert!(cost.seconds(2, 64) >= cost.seconds(1, 64) && cost.seconds(1, 65) >= cost.seconds(1, 64));
                prop_assert!(cost.budget() >= max && cost.budget() <= max * 64);
                prop_assert!(cost.units(2, max) >= cost.units(1, max) && cost.units(1, 1) >= 1);
            }
        }

        #[test]
        fn noise_of_a_tenth_moves_what_is_said_of_a_run_by_little_more(
            noise in prop::collection::vec(0.9f64..1.1, 6), rows in 1u32..16, long in 8u32..256,
        ) {
            let cost = minilm();
            let runs: Vec<TimedRun> = SHAPES.iter().zip(noise).map(|(&(rows, long), noise)| (rows, long, noise * cost.seconds(rows, long))).collect();
            let fitted = RunCost::fit(&runs, 256).expect("fits");
            let off = fitted.seconds(rows, long) / cost.seconds(rows, long);
            prop_assert!((0.75..1.33).contains(&off), "{off}");
        }
    }
}
