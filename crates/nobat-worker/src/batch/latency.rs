//! How long a model's runs took, and the lines fitted through them. Pure.
//!
//! Samples age, so that a slow spell does not condemn the jobs that come after it: an old
//! run is forgotten, a far faster one replaces all before it, and where every job seems
//! too late to run, one batch runs now and then to measure again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::regression::{Line, fit_quantile};

/// Most samples.
const WINDOW: usize = 512;
/// How long a sample is kept.
const AGE: Duration = Duration::from_secs(30);
/// A long run is kept for as long as so many of its kind take, so that slow models have
/// samples too.
const AGE_IN_RUNS: u32 = 2 * MIN_SAMPLES as u32;
/// Where nothing ran for so long, a batch that seems too late may run to measure again.
const TEST_AFTER: Duration = Duration::from_secs(1);
/// And for so many times as long as the last run took, so that measuring costs little.
const TEST_AFTER_RUNS: u32 = 4;
/// A run that is so many times as fast as all samples replaces them.
const OUTDATING_SPEED: u32 = 2;
/// Runs between two fits of the regression once there are many; also the share
/// of the runs, one in so many, that must be new for a fit while there are few.
const REFIT_EVERY: u32 = 16;
/// Samples before a job may be given up because of them.
const MIN_SAMPLES: usize = 8;
/// The percentile held against the slo.
pub(super) const P99: f64 = 0.99;
/// The percentile that decides whether a job is worth running: giving one up that
/// would have made it costs as much as running one too late.
const P75: f64 = 0.75;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) rows: u32,
    /// The cap that it filled: its rows, or the whole cap where the next job did
    /// not fit beside them; 0 for a run that was ended before it finished.
    pub(crate) fills: u32,
    /// How long it took; at least so long, if it was ended.
    pub(crate) took: Duration,
    pub(crate) ended: Instant,
}

impl Run {
    /// Whether it is far faster than `old`, even if all of `old`'s time was per row.
    fn outdates(&self, old: &Run) -> bool {
        let share = (f64::from(self.rows) / f64::from(old.rows.max(1))).min(1.0);
        self.fills > 0 && self.took * OUTDATING_SPEED < old.took.mul_f64(share)
    }

    fn fresh_until(&self) -> Instant {
        self.ended + AGE.max(self.took.saturating_mul(AGE_IN_RUNS))
    }
}

/// The last runs and the lines through them.
#[derive(Clone, Debug)]
pub(crate) struct LatencySamples {
    samples: VecDeque<Run>,
    /// Until when no sample is too old.
    fresh_until: Option<Instant>,
    /// Samples that came or went, ever.
    changes: u32,
    p99: Fit,
    p75: Fit,
    /// When the last run ended, or a test run was allowed.
    last: Option<Instant>,
}

/// A line that is fitted anew when somebody asks and enough has happened.
#[derive(Clone, Copy, Debug)]
struct Fit {
    quantile: f64,
    line: Option<Line>,
    at_change: u32,
}

impl Fit {
    fn new(quantile: f64) -> Fit {
        Fit { quantile, line: None, at_change: 0 }
    }

    fn line(&mut self, samples: &VecDeque<Run>, changes: u32) -> Option<Line> {
        // The first runs change the line the most and are the cheapest to fit.
        let enough = (samples.len() as u32 / REFIT_EVERY).clamp(1, REFIT_EVERY);
        if self.line.is_none() || changes.wrapping_sub(self.at_change) >= enough {
            let runs = samples.iter().map(|run| (run.rows, run.took.as_secs_f64()));
            (self.line, self.at_change) = (fit_quantile(runs, self.quantile), changes);
        }
        self.line
    }
}

impl LatencySamples {
    /// None yet.
    pub(crate) fn new() -> LatencySamples {
        let (p99, p75) = (Fit::new(P99), Fit::new(P75));
        LatencySamples { samples: VecDeque::new(), fresh_until: None, changes: 0, p99, p75, last: None }
    }

    /// Adds a run; `false` if it says nothing new.
    pub(crate) fn add(&mut self, run: Run) -> bool {
        self.last = Some(run.ended);
        if run.fills == 0 && self.p75(run.ended).is_some_and(|line| line.run(run.rows) > run.took) {
            // It was ended before runs like it end.
            return false;
        }
        self.forget(run.ended);
        if self.samples.len() >= MIN_SAMPLES && self.samples.iter().all(|old| run.outdates(old)) {
            self.changes = self.changes.wrapping_add(self.samples.len() as u32);
            self.samples.clear();
        }
        if self.samples.len() == WINDOW {
            self.samples.pop_front();
        }
        self.samples.push_back(run);
        let until = run.fresh_until();
        self.fresh_until = Some(self.fresh_until.map_or(until, |earlier| earlier.min(until)));
        self.changes = self.changes.wrapping_add(1);
        true
    }

    /// The line that 99 of 100 runs stay below. `None` before there are samples.
    pub(crate) fn p99(&mut self, now: Instant) -> Option<Line> {
        self.forget(now);
        self.p99.line(&self.samples, self.changes)
    }

    /// The same line as of the last run, and which fit it is.
    pub(super) fn fitted(&mut self) -> Option<(Line, u32)> {
        let line = self.p99.line(&self.samples, self.changes)?;
        Some((line, self.p99.at_change))
    }

    /// The line that three of four runs stay below. `None` before there are enough samples
    /// to give up a job because of them.
    pub(crate) fn p75(&mut self, now: Instant) -> Option<Line> {
        self.forget(now);
        if self.samples.len() < MIN_SAMPLES {
            return None;
        }
        self.p75.line(&self.samples, self.changes)
    }

    /// The fastest of the runs of at most `rows` rows or, where all of them were ended, the
    /// longest: a lower bound of what a run takes. `None` before there are enough samples.
    pub(crate) fn fastest(&mut self, rows: u32, now: Instant) -> Option<Duration> {
        self.forget(now);
        if self.samples.len() < MIN_SAMPLES {
            return None;
        }
        let took = |finished| {
            let of_size = self.samples.iter().filter(move |run| run.rows <= rows && (run.fills > 0) == finished);
            of_size.map(|run| run.took)
        };
        took(true).min().or_else(|| took(false).max())
    }

    /// The largest cap that a run filled.
    pub(super) fn filled(&self) -> u32 {
        self.samples.iter().map(|run| run.fills).max().unwrap_or(0)
    }

    /// Whether a batch that seems too late may run all the same: where nothing ran for a
    /// while, only a run can show whether runs are still as slow.
    pub(crate) fn allow_test_run(&mut self, now: Instant) -> bool {
        let runs = self.samples.back().map_or(Duration::ZERO, |run| run.took * TEST_AFTER_RUNS);
        let quiet = self.last.is_none_or(|last| now.saturating_duration_since(last) >= TEST_AFTER.max(runs));
        if quiet {
            self.last = Some(now);
        }
        quiet
    }

    fn forget(&mut self, now: Instant) {
        // Called several times a batch, so it looks at the samples only when one is too old.
        if self.fresh_until.is_none_or(|until| now <= until) {
            return;
        }
        let before = self.samples.len();
        self.samples.retain(|run| now <= run.fresh_until());
        self.fresh_until = self.samples.iter().map(Run::fresh_until).min();
        self.changes = self.changes.wrapping_add((before - self.samples.len()) as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(rows: u32, took: Duration) -> Run {
        Run { rows, fills: rows, took, ended: Instant::now() }
    }

    #[test]
    fn a_slow_spell_is_forgotten_and_long_runs_are_remembered_longer() {
        let (mut spell, mut slow) = (LatencySamples::new(), LatencySamples::new());
        let began = Instant::now();
        for _ in 0..MIN_SAMPLES {
            spell.add(Run { ended: began, ..full(1, Duration::from_secs(1)) });
            slow.add(Run { ended: began, ..full(1, Duration::from_secs(10)) });
        }
        for (after, spell_known, slow_known) in
            [(AGE, true, true), (AGE + Duration::from_secs(1), false, true), (Duration::from_secs(161), false, false)]
        {
            let now = began + after;
            assert_eq!(spell.p75(now).is_some(), spell_known, "{after:?}");
            assert_eq!(spell.fastest(1, now).is_some(), spell_known, "{after:?}");
            assert_eq!(slow.p75(now).is_some(), slow_known, "{after:?}");
            assert_eq!(
                slow.p99(now).map(|line| line.run(8)),
                slow_known.then_some(Duration::from_secs(10)),
                "{after:?}"
            );
        }
    }

    #[test]
    fn runs_that_were_ended_say_how_long_runs_take_at_least() {
        let mut samples = LatencySamples::new();
        let ended = |ms| Run { fills: 0, ..full(1, Duration::from_millis(ms)) };
        for at in 1..=MIN_SAMPLES as u64 {
            samples.add(ended(40 + at));
        }
        assert_eq!(samples.fastest(1, Instant::now()), Some(Duration::from_millis(48)), "none finished within");
        // Those that had no time say nothing; one that finished says it all.
        for _ in 0..WINDOW {
            samples.add(ended(1));
        }
        assert!(samples.p75(Instant::now()).is_some_and(|line| line.run(1) > Duration::from_millis(40)));
        samples.add(full(1, Duration::from_millis(45)));
        assert_eq!(samples.fastest(1, Instant::now()), Some(Duration::from_millis(45)));
    }

    #[test]
    fn a_run_far_faster_than_all_remembered_ones_makes_them_forgotten() {
        let after = |run| {
            let mut samples = LatencySamples::new();
            for _ in 0..64 {
                samples.add(full(32, Duration::from_millis(400)));
            }
            samples.add(run);
            samples.p75(Instant::now()).is_some()
        };
        assert!(!after(full(32, Duration::from_millis(20))));
        assert!(after(full(32, Duration::from_millis(220))), "noise");
        assert!(after(full(1, Duration::from_millis(12))), "a row has its share of 32");
        assert!(!after(full(1, Duration::from_millis(5))));
        assert!(after(Run { fills: 0, ..full(32, Duration::from_millis(20)) }), "it was ended");
    }

    #[test]
    fn jobs_without_hope_are_let_through_where_nothing_ran_for_a_second() {
        let mut samples = LatencySamples::new();
        let began = Instant::now();
        samples.add(Run { ended: began, ..full(1, Duration::from_millis(100)) });
        let allowed: Vec<bool> =
            (1..=24).map(|tenth| samples.allow_test_run(began + Duration::from_millis(100 * tenth))).collect();
        assert_eq!(allowed.iter().filter(|&&own| own).count(), 2);
        assert!(allowed[9] && allowed[19]);
        let long = began + Duration::from_secs(60);
        samples.add(Run { ended: long, ..full(1, Duration::from_secs(3)) });
        assert!(!samples.allow_test_run(long + Duration::from_secs(11)), "a run is worth more than the quiet");
        assert!(samples.allow_test_run(long + Duration::from_secs(12)));
    }
}
