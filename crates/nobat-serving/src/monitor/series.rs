//! What this gateway saw over the last 15 minutes, a point each time the monitor looks.
//! Kept in memory, bounded, and gone with the process: Prometheus is for longer times.
//!
//! Rates are over the time since the point before; latencies are of the predictions that
//! callers waited for in that time, all models together, read off the histograms of the
//! metrics. How points come about is pure; [`TimeSeries`] holds them.

use std::collections::{HashMap, VecDeque};

use parking_lot::RwLock;
use serde::Serialize;
use smol_str::SmolStr;

/// How far back points are kept, milliseconds.
const KEPT_MS: u64 = 15 * 60 * 1000;
/// Most points, however often the monitor looks.
const MOST: usize = 900;

/// What has been counted up to one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    /// Predictions that callers waited for, answered.
    pub succeeded: u64,
    /// Those that failed on our side.
    pub failed: u64,
    /// Those refused, or at fault.
    pub refused: u64,
    /// Cumulative counts of answers by the upper bound of their time, in seconds.
    pub buckets: Vec<(f64, u64)>,
    /// Jobs enqueued and ended by queue, where the store answered: a queue that is seen for
    /// the first time has a past that is no rate.
    pub jobs: Option<HashMap<SmolStr, (u64, u64)>>,
}

/// How things stand at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Standing {
    /// Predictions in flight in this gateway.
    pub in_flight: u64,
    /// Jobs ready to lease, in all queues.
    pub queued: u64,
    /// Jobs waiting for their time.
    pub scheduled: u64,
    /// Jobs under lease.
    pub leased: u64,
    /// Dead letters.
    pub dead: u64,
    /// Age of the oldest queued job, milliseconds.
    pub oldest_ms: u64,
    /// Live workers.
    pub workers: u64,
}

/// One point.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// When, milliseconds since 1970 by this gateway's clock.
    pub time_ms: u64,
    /// Predictions answered to callers that waited, per second.
    pub succeeded_per_s: f64,
    /// Those that failed on our side, per second.
    pub failed_per_s: f64,
    /// Those refused, or at fault, per second.
    pub refused_per_s: f64,
    /// Half of the answers took no longer, milliseconds; null without answers.
    pub p50_ms: Option<f64>,
    /// 99 of 100 answers took no longer, milliseconds; null without answers.
    pub p99_ms: Option<f64>,
    /// Jobs enqueued in all queues, per second; null while the store does not answer.
    pub enqueued_per_s: Option<f64>,
    /// Jobs that ended in all queues, per second; null while the store does not answer.
    pub finished_per_s: Option<f64>,
    /// How things stood.
    #[serde(flatten)]
    pub standing: Standing,
}

/// The newest points.
#[derive(Default)]
pub struct TimeSeries {
    kept: RwLock<Kept>,
}

#[derive(Default)]
struct Kept {
    points: VecDeque<Point>,
    before: Option<(u64, Totals)>,
}

impl TimeSeries {
    /// The points after `since_ms`, the oldest first.
    pub fn since(&self, since_ms: u64) -> Vec<Point> {
        self.kept.read().points.iter().filter(|point| point.time_ms > since_ms).copied().collect()
    }

    /// Adds what is seen at `now_ms`. The first time there is nothing to hold it against, and
    /// a clock that was set back begins anew.
    pub(super) fn record(&self, now_ms: u64, totals: Totals, standing: Standing) {
        let mut kept = self.kept.write();
        let before = kept.before.replace((now_ms, totals.clone()));
        match before {
            Some((before_ms, before)) if before_ms < now_ms => {
                let seconds = (now_ms - before_ms) as f64 / 1e3;
                kept.points.push_back(point(now_ms, seconds, &before, &totals, standing));
            }
            Some((before_ms, _)) if before_ms > now_ms => kept.points.clear(),
            _ => {}
        }
        let is_old = |point: &Point| point.time_ms + KEPT_MS < now_ms;
        while kept.points.len() > MOST || kept.points.front().is_some_and(is_old) {
            kept.points.pop_front();
        }
    }
}

fn point(time_ms: u64, seconds: f64, before: &Totals, now: &Totals, standing: Standing) -> Point {
    // A queue that is forgotten takes its totals along.
    let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
    let added: Vec<(f64, u64)> = now
        .buckets
        .iter()
        .enumerate()
        .map(|(at, &(bound, count))| (bound, count.saturating_sub(before.buckets.get(at).map_or(0, |bucket| bucket.1))))
        .collect();
    let answered = now.succeeded.saturating_sub(before.succeeded);
    let jobs = before.jobs.as_ref().zip(now.jobs.as_ref()).map(|(before, now)| moved(before, now));
    Point {
        time_ms,
        succeeded_per_s: rate(before.succeeded, now.succeeded),
        failed_per_s: rate(before.failed, now.failed),
        refused_per_s: rate(before.refused, now.refused),
        p50_ms: quantile(&added, answered, 0.5).map(|s| s * 1e3),
        p99_ms: quantile(&added, answered, 0.99).map(|s| s * 1e3),
        enqueued_per_s: jobs.map(|(entered, _)| entered as f64 / seconds),
        finished_per_s: jobs.map(|(_, left)| left as f64 / seconds),
        standing,
    }
}

/// Jobs that were enqueued and that ended between two looks, of the queues that both saw.
fn moved(before: &HashMap<SmolStr, (u64, u64)>, now: &HashMap<SmolStr, (u64, u64)>) -> (u64, u64) {
    let of_both = now.iter().filter_map(|(queue, now)| before.get(queue).map(|before| (before, now)));
    of_both.fold((0, 0), |(entered, left), (before, now)| {
        (entered + now.0.saturating_sub(before.0), left + now.1.saturating_sub(before.1))
    })
}

/// The time below which a share `q` of `count` answers lies, in seconds, as if those of a
/// bucket lay evenly in it; over the last bound, that bound. `None` without answers.
fn quantile(buckets: &[(f64, u64)], count: u64, q: f64) -> Option<f64> {
    if count == 0 {
        return None;
    }
    let rank = q * count as f64;
    let (mut low, mut below) = (0.0, 0);
    for &(bound, up_to) in buckets {
        if up_to as f64 >= rank && up_to > below {
            return Some(low + (bound - low) * (rank - below as f64) / (up_to - below) as f64);
        }
        (low, below) = (bound, up_to);
    }
    Some(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn totals(succeeded: u64, jobs: Option<(u64, u64)>) -> Totals {
        let jobs = jobs.map(|jobs| HashMap::from([("m".into(), jobs)]));
        let buckets = vec![(0.01, succeeded / 2), (0.1, succeeded)];
        Totals { succeeded, failed: 0, refused: 0, buckets, jobs }
    }

    #[test]
    fn a_point_has_the_rates_since_the_one_before() {
        let series = TimeSeries::default();
        let standing = Standing { queued: 3, ..Standing::default() };
        series.record(1_000, totals(10, Some((5, 5))), standing);
        assert!(series.since(0).is_empty(), "nothing to hold it against");
        series.record(3_000, totals(30, Some((9, 5))), standing);
        let [point] = series.since(0)[..] else { panic!("one point") };
        assert_eq!((point.succeeded_per_s, point.enqueued_per_s, point.finished_per_s), (10.0, Some(2.0), Some(0.0)));
        assert_eq!(point.p50_ms, Some(10.0), "half of them are in the first bucket");
        assert!(point.p99_ms.is_some_and(|ms| ms > 90.0 && ms < 100.0), "{point:?}");
        series.record(5_000, totals(30, None), standing);
        let point = series.since(3_000)[0];
        assert_eq!((point.p99_ms, point.enqueued_per_s, point.standing.queued), (None, None, 3));
        series.record(7_000, totals(30, Some((9, 5))), standing);
        assert_eq!(series.since(5_000)[0].enqueued_per_s, None, "the store was away before");
    }

    #[test]
    fn a_queue_that_is_first_seen_is_no_spike() {
        let series = TimeSeries::default();
        let mut now = totals(0, Some((5, 5)));
        series.record(1_000, now.clone(), Standing::default());
        now.jobs.get_or_insert_default().insert("older".into(), (1_000_000, 1_000_000));
        series.record(2_000, now.clone(), Standing::default());
        now.jobs.get_or_insert_default().insert("older".into(), (1_000_003, 1_000_001));
        series.record(3_000, now, Standing::default());
        let rates: Vec<_> = series.since(0).iter().map(|point| (point.enqueued_per_s, point.finished_per_s)).collect();
        assert_eq!(rates, [(Some(0.0), Some(0.0)), (Some(3.0), Some(1.0))]);
    }

    #[test]
    fn a_quantile_lies_in_its_bucket() {
        let buckets = [(0.1, 0), (0.2, 50), (0.4, 100)];
        assert_eq!(quantile(&buckets, 100, 0.5), Some(0.2));
        let three_quarters = quantile(&buckets, 100, 0.75).expect("some");
        assert!((three_quarters - 0.3).abs() < 1e-12, "{three_quarters}");
        assert_eq!(quantile(&buckets, 200, 0.99), Some(0.4), "over the last bound");
        assert_eq!(quantile(&buckets, 0, 0.5), None);
    }

    proptest! {
        #[test]
        fn points_are_bounded_in_number_and_age_and_rise(steps in prop::collection::vec((-2_000i64..30_000, 0u64..50), 1..2_000)) {
            let (series, mut now_ms, mut count) = (TimeSeries::default(), 1_000_000i64, 0);
            for (step, more) in steps {
                now_ms = (now_ms + step).max(1);
                count += more;
                series.record(now_ms as u64, totals(count, Some((count, 0))), Standing::default());
                let points = series.since(0);
                prop_assert!(points.len() <= MOST);
                prop_assert!(points.iter().all(|point| point.time_ms + KEPT_MS >= now_ms as u64));
                prop_assert!(points.is_sorted_by(|a, b| a.time_ms < b.time_ms));
                prop_assert!(points.iter().all(|point| point.p50_ms <= point.p99_ms && point.succeeded_per_s >= 0.0));
            }
        }
    }
}
