//! What a model's runs showed of how long runs take.
//!
//! It ages: a slow spell must not condemn the jobs that come after it. A run of
//! long ago is forgotten, a far faster one outdates all before it, and where
//! nothing runs for lack of hope, a probe may. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::regression::{Line, fit_quantile};

/// Runs looked back on.
const WINDOW: usize = 512;
/// How long a run is looked back on.
const AGE: Duration = Duration::from_secs(30);
/// A long run is looked back on for as long as so many of its kind take, so that
/// there is evidence of slow models too.
const AGE_IN_RUNS: u32 = 2 * EVIDENCE as u32;
/// Where nothing ran for so long, jobs without hope may run all the same.
const PROBE_AFTER: Duration = Duration::from_secs(1);
/// And for so many times as long as the last run took, to spend little on them.
const PROBE_AFTER_RUNS: u32 = 4;
/// A run that is so many times as fast as all that are remembered is of a new time.
const NEW_TIME: u32 = 2;
/// Runs between two fits of the regression once there are many; also the share
/// of the runs, one in so many, that must be new for a fit while there are few.
const REFIT_EVERY: u32 = 16;
/// Runs before a job may be dropped on their word.
const EVIDENCE: usize = 8;
/// The percentile held against the slo.
pub(super) const QUANTILE: f64 = 0.99;
/// The percentile that decides whether a job is worth running: giving one up that
/// would have made it costs as much as running one too late.
const LIKELY: f64 = 0.75;

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its rows.
    pub rows: u32,
    /// The cap that it filled: its rows, or the whole cap where the next job did
    /// not fit beside them; 0 for a run that was ended before it finished.
    pub fills: u32,
    /// How long it took; at least so long, if it was ended.
    pub took: Duration,
    /// When it ended.
    pub ended: Instant,
}

impl Run {
    /// Whether it is far faster than `old`, also if all of `old` was per row.
    fn outdates(&self, old: &Run) -> bool {
        let share = (f64::from(self.rows) / f64::from(old.rows.max(1))).min(1.0);
        self.fills > 0 && self.took * NEW_TIME < old.took.mul_f64(share)
    }

    fn fresh_until(&self) -> Instant {
        self.ended + AGE.max(self.took.saturating_mul(AGE_IN_RUNS))
    }
}

/// The remembered runs and the lines through them.
#[derive(Clone, Debug)]
pub struct Evidence {
    samples: VecDeque<Run>,
    /// Until then none of them is too old.
    fresh_until: Option<Instant>,
    /// Samples that came or went, ever.
    changes: u32,
    sure: Fit,
    likely: Fit,
    /// When the last run ended, or a batch was let through as a probe.
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
        // The first runs teach the most and are the cheapest to fit.
        let rest = (samples.len() as u32 / REFIT_EVERY).clamp(1, REFIT_EVERY);
        if self.line.is_none() || changes.wrapping_sub(self.at_change) >= rest {
            let runs = samples.iter().map(|run| (run.rows, run.took.as_secs_f64()));
            (self.line, self.at_change) = (fit_quantile(runs, self.quantile), changes);
        }
        self.line
    }
}

impl Evidence {
    /// None yet.
    pub fn new() -> Evidence {
        let (sure, likely) = (Fit::new(QUANTILE), Fit::new(LIKELY));
        Evidence { samples: VecDeque::new(), fresh_until: None, changes: 0, sure, likely, last: None }
    }

    /// Adds a run; `false` if it shows nothing new.
    pub fn add(&mut self, run: Run) -> bool {
        self.last = Some(run.ended);
        if run.fills == 0 && self.likely(run.ended).is_some_and(|line| line.run(run.rows) > run.took) {
            // It was ended before runs like it end.
            return false;
        }
        self.forget(run.ended);
        if self.samples.len() >= EVIDENCE && self.samples.iter().all(|old| run.outdates(old)) {
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

    /// The line that runs do not exceed at the 99th percentile. `None` before
    /// there is evidence.
    pub fn sure(&mut self, now: Instant) -> Option<Line> {
        self.forget(now);
        self.sure.line(&self.samples, self.changes)
    }

    /// The same line as of the last run, and the number of its fit.
    pub(super) fn fitted(&mut self) -> Option<(Line, u32)> {
        let line = self.sure.line(&self.samples, self.changes)?;
        Some((line, self.sure.at_change))
    }

    /// How long runs are likely to take, by their rows: three of four are no
    /// longer. `None` before there is enough evidence to drop a job on it.
    pub fn likely(&mut self, now: Instant) -> Option<Line> {
        self.forget(now);
        if self.samples.len() < EVIDENCE {
            return None;
        }
        self.likely.line(&self.samples, self.changes)
    }

    /// The fastest of the remembered runs of at most `rows` rows, or what none
    /// finished within: what not even a lucky run stays below. `None` before there
    /// is evidence.
    pub fn fastest(&mut self, rows: u32, now: Instant) -> Option<Duration> {
        self.forget(now);
        if self.samples.len() < EVIDENCE {
            return None;
        }
        let took = |finished| {
            let of_size = self.samples.iter().filter(move |run| run.rows <= rows && (run.fills > 0) == finished);
            of_size.map(|run| run.took)
        };
        took(true).min().or_else(|| took(false).max())
    }

    /// The largest cap that a remembered run filled.
    pub(super) fn filled(&self) -> u32 {
        self.samples.iter().map(|run| run.fills).max().unwrap_or(0)
    }

    /// Whether a batch that seems without hope may run: where nothing ran for a
    /// while, only a run can show whether it is so still.
    pub fn probe(&mut self, now: Instant) -> bool {
        let runs = self.samples.back().map_or(Duration::ZERO, |run| run.took * PROBE_AFTER_RUNS);
        let quiet = self.last.is_none_or(|last| now.saturating_duration_since(last) >= PROBE_AFTER.max(runs));
        if quiet {
            self.last = Some(now);
        }
        quiet
    }

    fn forget(&mut self, now: Instant) {
        // Asked several times a batch: it looks at each only when one has grown old.
        if self.fresh_until.is_none_or(|until| now <= until) {
            return;
        }
        let before = self.samples.len();
        self.samples.retain(|run| now <= run.fresh_until());
        self.fresh_until = self.samples.iter().map(Run::fresh_until).min();
        self.changes = self.changes.wrapping_add((before - self.samples.len()) as u32);
    }
}

impl Default for Evidence {
    fn default() -> Evidence {
        Evidence::new()
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
        let (mut spell, mut slow) = (Evidence::new(), Evidence::new());
        let began = Instant::now();
        for _ in 0..EVIDENCE {
            spell.add(Run { ended: began, ..full(1, Duration::from_secs(1)) });
            slow.add(Run { ended: began, ..full(1, Duration::from_secs(10)) });
        }
        for (after, spell_known, slow_known) in
            [(AGE, true, true), (AGE + Duration::from_secs(1), false, true), (Duration::from_secs(161), false, false)]
        {
            let now = began + after;
            assert_eq!(spell.likely(now).is_some(), spell_known, "{after:?}");
            assert_eq!(spell.fastest(1, now).is_some(), spell_known, "{after:?}");
            assert_eq!(slow.likely(now).is_some(), slow_known, "{after:?}");
            assert_eq!(
                slow.sure(now).map(|line| line.run(8)),
                slow_known.then_some(Duration::from_secs(10)),
                "{after:?}"
            );
        }
    }

    #[test]
    fn runs_that_were_ended_say_how_long_runs_take_at_least() {
        let mut evidence = Evidence::new();
        let ended = |ms| Run { fills: 0, ..full(1, Duration::from_millis(ms)) };
        for at in 1..=EVIDENCE as u64 {
            evidence.add(ended(40 + at));
        }
        assert_eq!(evidence.fastest(1, Instant::now()), Some(Duration::from_millis(48)), "none finished within");
        // Those that had no time say nothing; one that finished says it all.
        for _ in 0..WINDOW {
            evidence.add(ended(1));
        }
        assert!(evidence.likely(Instant::now()).is_some_and(|line| line.run(1) > Duration::from_millis(40)));
        evidence.add(full(1, Duration::from_millis(45)));
        assert_eq!(evidence.fastest(1, Instant::now()), Some(Duration::from_millis(45)));
    }

    #[test]
    fn a_run_far_faster_than_all_remembered_ones_makes_them_forgotten() {
        let after = |run| {
            let mut evidence = Evidence::new();
            for _ in 0..64 {
                evidence.add(full(32, Duration::from_millis(400)));
            }
            evidence.add(run);
            evidence.likely(Instant::now()).is_some()
        };
        assert!(!after(full(32, Duration::from_millis(20))));
        assert!(after(full(32, Duration::from_millis(220))), "noise");
        assert!(after(full(1, Duration::from_millis(12))), "a row has its share of 32");
        assert!(!after(full(1, Duration::from_millis(5))));
        assert!(after(Run { fills: 0, ..full(32, Duration::from_millis(20)) }), "it was ended");
    }

    #[test]
    fn jobs_without_hope_are_let_through_where_nothing_ran_for_a_second() {
        let mut evidence = Evidence::new();
        let began = Instant::now();
        evidence.add(Run { ended: began, ..full(1, Duration::from_millis(100)) });
        let probes: Vec<bool> =
            (1..=24).map(|tenth| evidence.probe(began + Duration::from_millis(100 * tenth))).collect();
        assert_eq!(probes.iter().filter(|&&probe| probe).count(), 2);
        assert!(probes[9] && probes[19]);
        let long = began + Duration::from_secs(60);
        evidence.add(Run { ended: long, ..full(1, Duration::from_secs(3)) });
        assert!(!evidence.probe(long + Duration::from_secs(11)), "a run is worth more than the quiet");
        assert!(evidence.probe(long + Duration::from_secs(12)));
    }
}
