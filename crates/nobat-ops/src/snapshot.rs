//! Series that are read when they are shown: what other parts count or hold
//! already, so that showing it costs the hot path nothing.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// How a series behaves over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, but for restarts.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// All series of one name.
#[derive(Clone, Debug)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: Vec<(Vec<(&'static str, String)>, f64)>,
}

impl Family {
    /// A family without series yet.
    pub fn new(name: &'static str, help: &'static str, kind: Kind) -> Family {
        Family { name, help, kind, samples: Vec::new() }
    }

    /// Adds the series of these labels.
    pub fn push(&mut self, mut labels: Vec<(&'static str, String)>, value: f64) {
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
            match kind {
                Kind::Counter => {
                    let mut counter = Counter::default();
                    counter.set_value(value);
                    metric.set_counter(counter);
                }
                Kind::Gauge => {
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
        });
        family
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
