//! What is counted of requests and their answers. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::latencies::Latencies;

/// Codes that are told apart; a server may put anything there.
const MOST_CODES: usize = 50;
/// What stands for the others.
const OTHER_CODES: &str = "other codes";

/// How a request ended, as far as a load test looks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Whether it was a prediction.
    pub right: bool,
    /// For any other: its status and code, such as `HTTP 503 (queue_full)`.
    pub code: String,
    /// Whether it was no answer at all: unreachable, broken off, too late.
    pub silent: bool,
    /// Whether a refusal says when to come back.
    pub retry_after: bool,
    /// Where the server says that the time went.
    pub server: Option<ServerShares>,
}

/// The server's own account of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ServerShares {
    /// From enqueued to leased.
    pub queue: Duration,
    /// From leased to the start of the run.
    pub batch: Duration,
    /// The run.
    pub run: Duration,
}

/// The server's accounts, counted.
#[derive(Clone, Debug, Default)]
pub struct ServerLatencies {
    /// How long the answers took that have one, as their callers saw it.
    pub whole: Latencies,
    /// From enqueued to leased.
    pub queue: Latencies,
    /// From leased to the start of the run.
    pub batch: Latencies,
    /// The run.
    pub run: Latencies,
}

/// One run's requests.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests that were due.
    pub due: u64,
    /// Predictions that came within the goal; all of them where there is none.
    pub in_time: u64,
    /// How long predictions took; what failed is not among them.
    pub latencies: Latencies,
    /// What else came, by status and code.
    pub errors: BTreeMap<String, u64>,
    /// Refusals that say when to come back.
    pub retry_after: u64,
    /// The server's accounts, where it gives any.
    pub server: Option<Box<ServerLatencies>>,
}

impl Tally {
    /// Counts an answer that took `took`.
    pub fn answer(&mut self, took: Duration, answer: &Answer, goal: Option<Duration>) {
        self.retry_after += u64::from(answer.retry_after);
        if !answer.right {
            self.failed_by(&answer.code, 1);
            return;
        }
        self.in_time += u64::from(goal.is_none_or(|goal| took <= goal));
        self.latencies.record(took);
        if let Some(shares) = answer.server {
            let server = self.server.get_or_insert_default();
            server.whole.record(took);
            server.queue.record(shares.queue);
            server.batch.record(shares.batch);
            server.run.record(shares.run);
        }
    }

    /// Counts all of the other's too.
    pub fn add(&mut self, other: &Tally) {
        self.due += other.due;
        self.in_time += other.in_time;
        self.latencies.add(&other.latencies);
        self.retry_after += other.retry_after;
        for (code, count) in &other.errors {
            self.failed_by(code, *count);
        }
        if let Some(other) = &other.server {
            let server = self.server.get_or_insert_default();
            server.whole.add(&other.whole);
            server.queue.add(&other.queue);
            server.batch.add(&other.batch);
            server.run.add(&other.run);
        }
    }

    fn failed_by(&mut self, code: &str, times: u64) {
        let is_kept = self.errors.len() < MOST_CODES || self.errors.contains_key(code);
        *self.errors.entry(if is_kept { code } else { OTHER_CODES }.to_owned()).or_default() += times;
    }

    /// Requests that ended otherwise than with a prediction.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Requests that have not ended.
    pub fn open(&self) -> u64 {
        self.due.saturating_sub(self.latencies.count() + self.failed())
    }

    /// The share of all due requests that were answered right and in time; 1 where none was due.
    pub fn goodput(&self) -> f64 {
        if self.due == 0 { 1.0 } else { self.in_time as f64 / self.due as f64 }
    }

    /// The end: what has not ended by now is a failure.
    pub(super) fn close(&mut self) {
        let open = self.open();
        if open > 0 {
            self.errors.insert("not answered when the test ended".into(), open);
        }
    }
}

/// One request, for a list of all.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// When it was due, from the start of the first run.
    pub due: Duration,
    /// From then to its end.
    pub took: Duration,
    /// Empty for a prediction; else its status and code.
    pub code: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_what_they_are_and_parts_add_up() {
        let ms = Duration::from_millis;
        let right = Answer { right: true, ..Answer::default() };
        let timed = Answer { server: Some(ServerShares { queue: ms(3), batch: ms(1), run: ms(5) }), ..right.clone() };
        let busy = Answer { code: "HTTP 503 (queue_full)".into(), retry_after: true, ..Answer::default() };
        let mut tally = Tally { due: 4, ..Tally::default() };
        tally.answer(ms(10), &right, Some(ms(20)));
        tally.answer(ms(30), &timed, Some(ms(20)));
        tally.answer(ms(1), &busy, Some(ms(20)));
        assert_eq!((tally.in_time, tally.failed(), tally.open(), tally.goodput()), (1, 1, 1, 0.25));
        let mut twice = tally.clone();
        twice.add(&tally);
        twice.close();
        assert_eq!((twice.due, twice.open(), twice.retry_after, twice.latencies.count()), (8, 0, 2, 4));
        assert_eq!(twice.errors["HTTP 503 (queue_full)"], 2);
        assert_eq!(twice.errors["not answered when the test ended"], 2);
        assert_eq!(twice.server.expect("accounts").run.quantile(0.5).as_millis(), 5);
        assert_eq!(Tally::default().goodput(), 1.0);
    }

    #[test]
    fn codes_without_end_are_counted_together() {
        let (mut all, mut one) = (Tally::default(), Tally::default());
        for n in 0..1_000 {
            let answer = Answer { code: format!("HTTP 500 ({n})"), ..Answer::default() };
            one.answer(Duration::ZERO, &answer, None);
        }
        all.add(&one);
        all.add(&one);
        assert_eq!((one.errors.len(), one.failed(), all.errors.len(), all.failed()), (51, 1_000, 51, 2_000));
    }
}
