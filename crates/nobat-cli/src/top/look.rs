//! One look at a deployment: what the API answers, as `nobat top` shows it.

use std::collections::VecDeque;

use anyhow::Result;
use reqwest::Method;
use serde_json::Value;

use crate::client::Client;
use crate::table::plain;

/// Points that the small charts show.
const POINTS: usize = 120;

/// What is remembered between looks.
#[derive(Default)]
pub(super) struct Past {
    points: VecDeque<Point>,
    /// Totals of each queue, and when they were seen, for its rates.
    queues: Vec<(String, u64, u64)>,
    seen_ms: u64,
}

/// One point of the time series.
#[derive(Clone, Copy, Default)]
pub(super) struct Point {
    pub(super) time_ms: u64,
    pub(super) answers_per_s: f64,
    pub(super) failed_per_s: f64,
    pub(super) entered_per_s: Option<f64>,
    pub(super) left_per_s: Option<f64>,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
}

/// One queue.
pub(super) struct QueueLine {
    pub(super) name: String,
    pub(super) queued: u64,
    pub(super) leased: u64,
    pub(super) scheduled: u64,
    pub(super) dead: u64,
    pub(super) oldest_ms: u64,
    pub(super) paused: bool,
    /// Enqueued and ended per second since the last look.
    pub(super) rates: Option<(f64, f64)>,
}

/// One worker.
pub(super) struct WorkerLine {
    pub(super) host: String,
    pub(super) sessions: u64,
    pub(super) models: String,
    pub(super) started_at_ms: u64,
}

/// One look.
pub(super) struct Look {
    pub(super) at_ms: u64,
    pub(super) version: String,
    pub(super) state: String,
    pub(super) in_flight: u64,
    /// What is ill: the check, and what it says.
    pub(super) ill: Vec<(String, String)>,
    pub(super) queues: Vec<QueueLine>,
    pub(super) workers: Vec<WorkerLine>,
    /// The newest last; empty where the key may not see them.
    pub(super) points: Vec<Point>,
}

impl Look {
    /// Asks the service.
    ///
    /// # Errors
    /// What keeps it from being asked.
    pub(super) async fn take(client: &Client, past: &mut Past) -> Result<Look> {
        let get = async |path: &str| Ok::<_, anyhow::Error>(client.json(client.request(Method::GET, path)).await?.1);
        let status = get("/api/v1/status").await?;
        let workers = get("/api/v1/workers").await?;
        let since_ms = past.points.back().map_or(0, |point| point.time_ms);
        // A key that does not cover every model sees none.
        let series = get(&format!("/api/v1/timeseries?since_ms={since_ms}")).await.unwrap_or_default();
        past.points.extend(list(&series, "points").iter().map(point));
        while past.points.len() > POINTS {
            past.points.pop_front();
        }
        let at_ms = nobat_runtime::now_ms();
        let queues = queues(&status, past, at_ms);
        Ok(Look {
            at_ms,
            version: text(&status, "version"),
            state: text(&status, "state"),
            in_flight: count(&status, "in_flight"),
            ill: list(&status, "checks")
                .iter()
                .filter(|check| text(check, "state") == "failing")
                .map(|check| (text(check, "name"), text(check, "detail")))
                .collect(),
            queues,
            workers: list(&workers, "workers").iter().map(worker).collect(),
            points: past.points.iter().copied().collect(),
        })
    }

    /// The newest point.
    pub(super) fn last(&self) -> Option<Point> {
        self.points.last().copied()
    }

    /// The sum of a number over the queues.
    pub(super) fn sum(&self, of: impl Fn(&QueueLine) -> u64) -> u64 {
        self.queues.iter().map(of).sum()
    }

    /// How long the oldest queued job waits.
    pub(super) fn oldest_ms(&self) -> u64 {
        self.queues.iter().filter(|queue| queue.queued > 0).map(|queue| queue.oldest_ms).max().unwrap_or_default()
    }
}

fn queues(status: &Value, past: &mut Past, at_ms: u64) -> Vec<QueueLine> {
    let seconds = (at_ms.saturating_sub(past.seen_ms)) as f64 / 1e3;
    let mut totals = Vec::new();
    let named = status.get("queues").and_then(Value::as_object);
    let lines = named.into_iter().flatten().map(|(name, queue)| {
        let (entered, left) = (count(queue, "enqueued_total"), count(queue, "finished_total"));
        totals.push((name.clone(), entered, left));
        let before = past.queues.iter().find(|(other, ..)| other == name).filter(|_| seconds > 0.0);
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        QueueLine {
            name: plain(name),
            queued: count(queue, "queued"),
            leased: count(queue, "leased"),
            scheduled: count(queue, "scheduled"),
            dead: count(queue, "dead"),
            oldest_ms: count(queue, "oldest_ms"),
            paused: queue.get("paused").and_then(Value::as_bool).unwrap_or_default(),
            rates: before
                .map(|(_, entered_before, left_before)| (rate(*entered_before, entered), rate(*left_before, left))),
        }
    });
    let mut lines: Vec<QueueLine> = lines.collect();
    // What waits most is what somebody looks for.
    lines.sort_by(|a, b| (b.queued + b.leased).cmp(&(a.queued + a.leased)).then_with(|| a.name.cmp(&b.name)));
    (past.queues, past.seen_ms) = (totals, at_ms);
    lines
}

fn worker(worker: &Value) -> WorkerLine {
    let models = list(worker, "models");
    let named = models.iter().map(|model| {
        let (name, state) = (text(model, "name"), text(model, "state"));
        if state == "ready" { name } else { format!("{name} ({state})") }
    });
    let mut named: Vec<String> = named.collect();
    named.dedup();
    WorkerLine {
        host: text(worker, "host"),
        sessions: count(worker, "sessions"),
        models: named.join(", "),
        started_at_ms: count(worker, "started_at_ms"),
    }
}

fn point(point: &Value) -> Point {
    let number = |name: &str| point.get(name).and_then(Value::as_f64);
    Point {
        time_ms: count(point, "time_ms"),
        answers_per_s: number("succeeded_per_s").unwrap_or_default(),
        failed_per_s: number("failed_per_s").unwrap_or_default(),
        entered_per_s: number("enqueued_per_s"),
        left_per_s: number("finished_per_s"),
        p50_ms: number("p50_ms"),
        p99_ms: number("p99_ms"),
    }
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn count(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

/// A text of others, without what a terminal obeys.
fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).map(plain).unwrap_or_default()
}

/// A duration of milliseconds, for people.
pub(super) fn span_ms(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 1_000.0 => format!("{ms:.0} ms"),
        ms if ms < 60_000.0 => format!("{:.1} s", ms / 1e3),
        ms if ms < 3_600_000.0 => format!("{:.0} min", ms / 60e3),
        ms if ms < 86_400_000.0 => format!("{:.1} h", ms / 3_600e3),
        ms => format!("{:.1} d", ms / 86_400e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rates_of_a_queue_are_between_two_looks_and_the_busiest_is_first() {
        let status = |total: u64| {
            json!({"queues": {
                "a": {"queued": 1, "enqueued_total": 5, "finished_total": 5},
                "b": {"queued": 9, "leased": 1, "enqueued_total": total, "finished_total": total / 2, "paused": true},
            }})
        };
        let mut past = Past::default();
        assert!(queues(&status(10), &mut past, 1_000).iter().all(|queue| queue.rates.is_none()));
        let seen = queues(&status(30), &mut past, 3_000);
        assert_eq!((seen[0].name.as_str(), seen[0].rates, seen[0].paused), ("b", Some((10.0, 5.0)), true));
        assert_eq!(seen[1].rates, Some((0.0, 0.0)));
    }

    #[test]
    fn what_others_wrote_cannot_steer_the_terminal() {
        let line = worker(&json!({"host": "a\u{1b}[2Jb", "models": [{"name": "m\u{7}", "state": "ready"}]}));
        assert!(!line.host.contains('\u{1b}') && !line.models.contains('\u{7}'), "{} {}", line.host, line.models);
    }

    #[test]
    fn an_answer_that_lacks_everything_is_a_look() {
        assert!(queues(&json!({}), &mut Past::default(), 0).is_empty());
        assert_eq!(point(&json!({})).p99_ms, None);
        assert_eq!(span_ms(90_000.0), "2 min");
    }
}
