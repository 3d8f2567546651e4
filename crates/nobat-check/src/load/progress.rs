//! How far a load test is, in a line.

use super::engine::{LoadEvent, LoadProgress};
use super::search::KneeOutcome;
use super::words::{ms, rate};
use crate::stage::StageProgress;

/// Tells a stage's listener what the engine tells.
pub(super) struct StageTeller<'a> {
    what: &'static str,
    tell: &'a StageProgress<'a>,
}

impl<'a> StageTeller<'a> {
    pub(super) fn new(what: &'static str, tell: &'a StageProgress<'a>) -> StageTeller<'a> {
        StageTeller { what, tell }
    }

    pub(super) fn hear(&self, event: &LoadEvent<'_>) {
        if let LoadEvent::Progress(progress) = event {
            let length = progress.length.map_or(0, |length| length.as_secs().max(1));
            (self.tell)(progress.elapsed.as_secs().min(length), length, &in_words(self.what, progress));
        }
    }
}

/// What is offered and done, what is under way, and how it is.
pub(super) fn in_words(what: &str, progress: &LoadProgress) -> String {
    let latencies = &progress.tally.latencies;
    let quantiles = format!("p50 {} p99 {}", ms(latencies.quantile(0.5)), ms(latencies.quantile(0.99)));
    let Some(run) = progress.run else {
        return format!("{what}: warming up, {} in flight, {quantiles}", progress.in_flight);
    };
    let failed = match progress.tally.failed() {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    format!(
        "{what}: run {}, {} offered, {} answered, {} in flight, {quantiles}, lag {}{failed}",
        run + 1,
        rate(progress.offered_per_s),
        rate(progress.answered_per_s),
        progress.in_flight,
        ms(progress.lag_p99)
    )
}

/// Where a search is.
pub(super) fn knee_in_words(found: &KneeOutcome, now: f64) -> String {
    let end = |end: Option<f64>| end.map_or_else(|| "?".into(), rate);
    format!("the knee is between {} and {}: trying {}", end(found.bracket.held), end(found.bracket.missed), rate(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Bracket, Tally};
    use std::time::Duration;

    #[test]
    fn a_line_says_what_is_going_on() {
        let mut tally = Tally::default();
        (1..=100).for_each(|at| tally.latencies.record(Duration::from_millis(at)));
        tally.errors.insert("HTTP 503".into(), 3);
        let progress = LoadProgress {
            run: Some(1),
            elapsed: Duration::from_secs(3),
            length: Some(Duration::from_secs(10)),
            offered_per_s: 50.0,
            answered_per_s: 48.0,
            in_flight: 7,
            tally,
            lag_p99: Duration::from_micros(60),
        };
        assert_eq!(
            in_words("load", &progress),
            "load: run 2, 50.0/s offered, 48.0/s answered, 7 in flight, p50 50.0 ms p99 99.0 ms, lag 0.060 ms, 3 failed"
        );
        let cold = LoadProgress { run: None, ..progress };
        assert!(in_words("load", &cold).starts_with("load: warming up, 7 in flight"));
        let found = KneeOutcome { bracket: Bracket { held: Some(40.0), missed: None }, runs: vec![], ended_by: None };
        assert_eq!(knee_in_words(&found, 80.0), "the knee is between 40.0/s and ?: trying 80.0/s");
    }
}
