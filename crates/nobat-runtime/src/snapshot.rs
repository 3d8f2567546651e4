//! Series that are read when they are shown: what other parts count or hold
//! already, so that showing it costs the hot path nothing.

use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// Upper bounds of latency histograms, seconds: 1-2.5-5 steps from a tenth of a
/// millisecond, where cache hits lie, to a minute, where waits end.
pub const LATENCY_BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// How a series behaves over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, but for restarts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by how long something took.
    Histogram,
}

/// Durations counted by [`LATENCY_BUCKETS`], for who has a lock of its own around them.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    /// By the bucket they fall into; the last is for those over every bound.
    counts: [u64; LATENCY_BUCKETS.len() + 1],
    sum: Duration,
}

impl Latencies {
    /// Counts one.
    pub fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.counts[LATENCY_BUCKETS.partition_point(|&bound| bound < seconds)] += 1;
        self.sum += took;
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[derive(Clone, Debug)]
enum Value {
    Number(f64),
    Latencies(Box<Latencies>),
}

/// All series of one name.
#[derive(Clone, Debug)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: Vec<(Vec<(&'static str, String)>, Value)>,
}

impl Family {
    /// A family without series yet.
    pub fn new(name: &'static str, help: &'static str, kind: Kind) -> Family {
        Family { name, help, kind, samples: Vec::new() }
    }

    /// Adds the series of these labels.
    pub fn push(&mut self, labels: Vec<(&'static str, String)>, value: f64) {
        self.add(labels, Value::Number(value));
    }

    /// Adds the histogram of these labels, to a family of that kind.
    pub fn push_latencies(&mut self, labels: Vec<(&'static str, String)>, latencies: &Latencies) {
        self.add(labels, Value::Latencies(Box::new(latencies.clone())));
    }

    fn add(&mut self, mut labels: Vec<(&'static str, String)>, value: Value) {
        labels.sort_unstable_by_key(|&(name, _)| name);
        self.samples.push((labels, value));
    }

    fn into_proto(self) -> MetricFamily {
        let kind = self.kind;
        let metrics = self.samples.into_iter().map(|(labels, value)| {
            let labels = labels.into_iter().map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name(name.to_owned());
                pair.set_value(value);
                pair
            });
            let mut metric = Metric::from_label(labels.collect());
            let value = match value {
                Value::Number(number) => number,
                Value::Latencies(latencies) => {
                    metric.set_histogram(latencies.into_proto());
                    return metric;
                }
            };
            match kind {
                Kind::Counter => {
                    let mut counter = Counter::default();
                    counter.set_value(value);
                    metric.set_counter(counter);
                }
                Kind::Gauge | Kind::Histogram => {
                    let mut gauge = Gauge::default();
                    gauge.set_value(value);
                    metric.set_gauge(gauge);
                }
            }
            metric
        });
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_metric(metrics.collect());
        family.set_field_type(match kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        family
    }
}

impl Latencies {
    fn into_proto(self) -> Histogram {
        let mut histogram = Histogram::default();
        let mut so_far = 0;
        let buckets = LATENCY_BUCKETS.iter().zip(&self.counts).map(|(&bound, &count)| {
            so_far += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(so_far);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(self.count());
        histogram.set_sample_sum(self.sum.as_secs_f64());
        histogram
    }
}

/// Reads families through `read` at each scrape.
pub(crate) struct Snapshot<F> {
    read: F,
    desc: Desc,
}

impl<F: Fn() -> Vec<Family> + Send + Sync> Snapshot<F> {
    /// `name` tells this snapshot from others; it is not shown.
    pub(crate) fn new(name: &str, read: F) -> prometheus::Result<Snapshot<F>> {
        let desc = Desc::new(name.to_owned(), "A group of series.".to_owned(), vec![], Default::default())?;
        Ok(Snapshot { read, desc })
    }
}

impl<F: Fn() -> Vec<Family> + Send + Sync> Collector for Snapshot<F> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        (self.read)().into_iter().filter(|family| !family.samples.is_empty()).map(Family::into_proto).collect()
    }
}
