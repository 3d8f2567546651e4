//! What earlier sessions measured, and whether today is slower. Pure.
//!
//! A machine is not the same from hour to hour, and a stored baseline cannot be measured
//! again beside the new version. So a baseline keeps sessions: with three or more of them
//! what the machine does in between is part of the bounds; with fewer the runs of one session
//! are compared, and the report says that slow changes of the machine are not in them.

use nobat_core::{Error, Result};
use nobat_statistics::runs::{Ratio, geometric_mean, ratio, ratio_of_sessions};
use serde::{Deserialize, Serialize};

use super::engine::LoadOutcome;
use super::latencies::LEVEL;
use crate::stage::Verdict;

/// Sessions from which the machine's own changes are known.
const SESSIONS: usize = 3;
/// Runs without which a session says nothing.
const RUNS: usize = 5;

/// Figures of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFigures {
    /// Requests that were due.
    pub requests: u64,
    /// Median latency of predictions, in milliseconds.
    pub p50_ms: f64,
    /// Its 99th percentile.
    pub p99_ms: f64,
    /// Predictions a second.
    pub answered_per_s: f64,
}

/// Runs that were made one after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// The version that answered.
    pub version: String,
    /// When: milliseconds since 1970.
    pub at_ms: u64,
    /// The runs.
    pub runs: Vec<RunFigures>,
}

impl Session {
    /// The figures of an outcome.
    pub fn of(outcome: &LoadOutcome, version: &str, at_ms: u64) -> Session {
        let seconds = outcome.run.as_secs_f64();
        let figures = |run: &super::tally::Tally| RunFigures {
            requests: run.due,
            p50_ms: run.latencies.quantile(0.5).as_secs_f64() * 1e3,
            p99_ms: run.latencies.quantile(0.99).as_secs_f64() * 1e3,
            answered_per_s: run.latencies.count() as f64 / seconds,
        };
        Session { version: version.into(), at_ms, runs: outcome.runs.iter().map(figures).collect() }
    }

    fn figures(&self, of: impl Fn(&RunFigures) -> f64) -> Vec<f64> {
        self.runs.iter().map(of).collect()
    }
}

/// What is kept of a model's load tests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// The model.
    pub model: String,
    /// The protocol.
    pub protocol: String,
    /// The load, in words: only the same is compared.
    pub load: String,
    /// Requests a second of an open loop at random, so that it can be repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Earliest first.
    pub sessions: Vec<Session>,
}

impl Baseline {
    /// Reads what [`Baseline`] serializes to.
    ///
    /// # Errors
    /// `invalid_parameter` saying what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Baseline> {
        let baseline: Baseline = serde_json::from_slice(bytes)
            .map_err(|error| Error::invalid(format!("it is no baseline of a load test: {error}")))?;
        let is_figure = |figure: f64| figure.is_finite() && figure >= 0.0;
        let is_run = |run: &RunFigures| [run.p50_ms, run.p99_ms, run.answered_per_s].into_iter().all(is_figure);
        if baseline.sessions.is_empty() || !baseline.sessions.iter().all(|session| session.runs.iter().all(is_run)) {
            return Err(Error::invalid("it has no session, or figures that cannot be"));
        }
        Ok(baseline)
    }

    /// # Errors
    /// `invalid_parameter` where it is of another model, protocol or load than `other`.
    pub fn check(&self, model: &str, protocol: &str, load: &str) -> Result<()> {
        let pairs = [("model", &self.model, model), ("protocol", &self.protocol, protocol), ("load", &self.load, load)];
        match pairs.into_iter().find(|(_, own, other)| own != other) {
            None => Ok(()),
            Some((what, own, other)) => Err(Error::invalid(format!(
                "the baseline was measured with another {what}: `{own}`, not `{other}`; repeat it with the same, or write a new one"
            ))),
        }
    }

    /// Compares today's session with it. `change` is the share by which it may be slower.
    pub fn compare(&self, today: &Session, change: f64, closed: bool) -> Vec<BaselineComparison> {
        let mut figures: Vec<Figure> = vec![
            Figure { name: "p50", unit: "ms", inverse: false, of: |run| run.p50_ms },
            Figure { name: "p99", unit: "ms", inverse: false, of: |run| run.p99_ms },
        ];
        if closed {
            // The rate of an open loop is what it was told to be.
            figures.push(Figure {
                name: "predictions a second",
                unit: "",
                inverse: true,
                of: |run| run.answered_per_s,
            });
        }
        figures.iter().map(|figure| self.compare_figure(figure, today, change)).collect()
    }

    fn compare_figure(&self, figure: &Figure, today: &Session, change: f64) -> BaselineComparison {
        let all: Vec<Vec<f64>> = self.sessions.iter().map(|session| session.figures(figure.of)).collect();
        let means: Vec<f64> = all.iter().map(|runs| geometric_mean(runs)).collect();
        let (last, new) = (all.last().cloned().unwrap_or_default(), today.figures(figure.of));
        let of_sessions = self.sessions.len() >= SESSIONS;
        // Over one is slower, whatever the figure.
        let turned = |figures: &[f64]| -> Vec<f64> {
            figures.iter().map(|value| if figure.inverse { 1.0 / value } else { *value }).collect()
        };
        let enough = last.len() >= RUNS && new.len() >= RUNS;
        let found = match (enough, of_sessions) {
            (false, _) => None,
            (true, true) => ratio_of_sessions(&turned(&means), geometric_mean(&turned(&new)), LEVEL),
            (true, false) => ratio(&turned(&last), &turned(&new), LEVEL),
        };
        let (old, new_mean) =
            (if of_sessions { geometric_mean(&means) } else { geometric_mean(&last) }, geometric_mean(&new));
        let comparison = BaselineComparison {
            figure: figure.name,
            unit: figure.unit,
            old,
            new: new_mean,
            sessions: self.sessions.len(),
            of_sessions,
            ratio: found,
            verdict: Verdict::Passed,
        };
        let verdict = match found {
            None if !enough => Verdict::needs(
                format!("{} and {} runs are too few to compare", last.len(), new.len()),
                format!("{RUNS} runs on each side"),
            ),
            None => Verdict::not_judged("a run had no prediction to compare"),
            Some(found) if found.low > 1.0 + change => Verdict::Failed,
            Some(found) if found.high <= 1.0 + change => Verdict::Passed,
            Some(found) => {
                let why = format!(
                    "it is between {:.2} and {:.2} times as slow, which is on both sides of {:.2}",
                    found.low,
                    found.high,
                    1.0 + change
                );
                let runs = found.runs_needed(change, LEVEL);
                let needed = match of_sessions {
                    true => "more sessions in the baseline, on a quieter machine".into(),
                    false => format!("{runs} runs on each side, or a quieter machine"),
                };
                Verdict::needs(why, needed)
            }
        };
        BaselineComparison { verdict, ..comparison }
    }
}

struct Figure {
    name: &'static str,
    unit: &'static str,
    inverse: bool,
    of: fn(&RunFigures) -> f64,
}

/// One figure, today and before.
#[derive(Clone, Debug, PartialEq)]
pub struct BaselineComparison {
    /// `p50`, `p99` or `predictions a second`.
    pub figure: &'static str,
    /// `ms`, or nothing.
    pub unit: &'static str,
    /// Before: the geometric mean over runs.
    pub old: f64,
    /// Today.
    pub new: f64,
    /// Sessions of the baseline.
    pub sessions: usize,
    /// Whether the bounds hold what the machine does between sessions.
    pub of_sessions: bool,
    /// How many times slower; `None` where it cannot be said.
    pub ratio: Option<Ratio>,
    /// Failed when it is slower by more than it may be, whatever chance does.
    pub verdict: Verdict,
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_statistics::random::{Random, seeded};
    use rand_distr::{Distribution, Normal};

    fn session(random: &mut Random, p99: f64, noise: f64, runs: usize) -> Session {
        let normal = Normal::new(0.0, noise).expect("a spread");
        let mut draw = |mean: f64| mean * normal.sample(random).exp();
        let run = |_| RunFigures {
            requests: 900,
            p50_ms: draw(p99 / 4.0),
            p99_ms: draw(p99),
            answered_per_s: draw(4e3 / p99),
        };
        Session { version: "1".into(), at_ms: 0, runs: (0..runs).map(run).collect() }
    }

    fn baseline(sessions: Vec<Session>) -> Baseline {
        let load = "80 requests a second at random".into();
        Baseline { model: "digits".into(), protocol: "v2".into(), load, rate: Some(80.0), sessions }
    }

    fn verdicts(baseline: &Baseline, today: &Session) -> Vec<Verdict> {
        baseline.compare(today, 0.2, true).into_iter().map(|comparison| comparison.verdict).collect()
    }

    #[test]
    fn five_times_slower_is_found_and_the_same_is_not_at_the_stated_rate() {
        let mut random = seeded(3);
        let (mut found, mut alarms) = (0, 0);
        for _ in 0..400 {
            let before = baseline(vec![session(&mut random, 8.0, 0.1, 5)]);
            found +=
                u32::from(verdicts(&before, &session(&mut random, 40.0, 0.1, 5)).iter().all(|v| *v == Verdict::Failed));
            alarms += u32::from(verdicts(&before, &session(&mut random, 8.0, 0.1, 5)).contains(&Verdict::Failed));
        }
        assert_eq!((found, alarms), (400, 0));
    }

    #[test]
    fn at_the_margin_one_in_twenty_fails_and_noise_cannot_judge() {
        let mut random = seeded(4);
        let (mut failed, mut passed) = (0, 0);
        for _ in 0..2_000 {
            let before = baseline(vec![session(&mut random, 10.0, 0.05, 5)]);
            let today = session(&mut random, 12.0, 0.05, 5);
            let p99 = before.compare(&today, 0.2, false).remove(1);
            failed += u32::from(p99.verdict == Verdict::Failed);
            passed += u32::from(p99.verdict == Verdict::Passed);
        }
        assert!((60..140).contains(&failed) && (60..140).contains(&passed), "{failed} {passed} of 2,000");
        let before = baseline(vec![session(&mut random, 10.0, 0.6, 5)]);
        let noisy = before.compare(&session(&mut random, 10.0, 0.6, 5), 0.05, false).remove(1);
        let Verdict::NotJudged { why, needed: Some(needed) } = noisy.verdict else { panic!("{noisy:?}") };
        assert!(why.contains("both sides of 1.05") && needed.contains("runs on each side"), "{why} {needed}");
    }

    #[test]
    fn sessions_bring_what_the_machine_does_in_between_into_the_bounds() {
        let mut random = seeded(5);
        let slow = Normal::new(0.0f64, 0.25).expect("a spread");
        let mut errors = [0, 0];
        for _ in 0..1_000 {
            let mut any = |p99: f64| {
                let machine = slow.sample(&mut random).exp();
                session(&mut random, p99 * machine, 0.03, 5)
            };
            let sessions: Vec<Session> = (0..4).map(|_| any(10.0)).collect();
            let today = any(10.0);
            for (at, sessions) in [sessions[..1].to_vec(), sessions].into_iter().enumerate() {
                let p99 = baseline(sessions).compare(&today, 0.0, false).remove(1);
                errors[at] += u32::from(p99.verdict == Verdict::Failed);
            }
        }
        assert!(errors[0] > 300, "one session mistakes the machine for the model: {errors:?} of 1,000");
        assert!((25..80).contains(&errors[1]), "{errors:?} of 1,000");
    }

    #[test]
    fn another_load_or_a_file_that_is_none_is_refused() {
        let mut random = seeded(6);
        let before = baseline(vec![session(&mut random, 8.0, 0.1, 5)]);
        let why = before.check("digits", "v2", "90 requests a second at random").expect_err("refused").message;
        assert!(why.contains("another load: `80 requests a second at random`"), "{why}");
        assert!(before.check("digits", "v2", "80 requests a second at random").is_ok());
        let bytes = serde_json::to_vec(&before).expect("serializes");
        let read = Baseline::parse(&bytes).expect("reads back");
        assert_eq!((&read.load, read.sessions[0].runs.len()), (&before.load, 5));
        assert!((read.sessions[0].runs[4].p99_ms / before.sessions[0].runs[4].p99_ms - 1.0).abs() < 1e-9);
        assert!(Baseline::parse(b"{}").expect_err("refused").message.contains("no baseline"));
        let few = baseline(vec![session(&mut random, 8.0, 0.1, 2)]);
        let Verdict::NotJudged { needed, .. } = verdicts(&few, &session(&mut random, 8.0, 0.1, 5)).remove(0) else {
            panic!("two runs are judged")
        };
        assert_eq!(needed.as_deref(), Some("5 runs on each side"));
    }
}
