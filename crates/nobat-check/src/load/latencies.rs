//! Latencies, counted in bins three digits fine.

use std::time::Duration;

use hdrhistogram::Histogram;
use nobat_statistics::intervals::{quantile_ranks, values_needed};

/// The longest that is told apart from what is longer still.
const LONGEST: Duration = Duration::from_secs(60);
/// How sure an interval is.
pub(super) const LEVEL: f64 = 0.95;

/// How often which latency was seen, from a microsecond to a minute; what is longer counts as
/// a minute and is told. 139 KB, whatever is recorded.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
    clipped: u64,
}

impl Default for Latencies {
    fn default() -> Latencies {
        let histogram =
            Histogram::new_with_bounds(1, micros(LONGEST), 3).expect("the bounds are ascending, the digits under 6");
        Latencies { histogram, clipped: 0 }
    }
}

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        self.clipped += u64::from(latency > LONGEST);
        self.histogram.saturating_record(micros(latency.min(LONGEST)).max(1));
    }

    /// Counts all of the other's too.
    pub fn add(&mut self, other: &Latencies) {
        self.histogram.add(&other.histogram).expect("both have the same bounds");
        self.clipped += other.clipped;
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// How many took more than a minute.
    pub fn clipped(&self) -> u64 {
        self.clipped
    }

    /// The smallest value that a share `q` of all do not exceed; zero for none.
    pub fn quantile(&self, q: f64) -> Duration {
        Duration::from_micros(self.histogram.value_at_quantile(q).min(self.histogram.max()))
    }

    /// The mean; zero for none.
    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.histogram.mean().max(0.0) / 1e6)
    }

    /// The longest, up to a minute.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.histogram.max())
    }

    /// Where the quantile lies with 95 %, if answers do not wait for each other (under load
    /// they do, and it is wider); `None` where there are too few.
    pub fn interval(&self, q: f64) -> Option<(Duration, Duration)> {
        let n = self.count();
        let (low, high) = quantile_ranks(n, q, LEVEL)?;
        let at = |rank: u64| self.quantile((rank as f64 - 0.5) / n as f64);
        Some((at(low), at(high)))
    }

    /// How many answers `q` needs, where there are fewer.
    pub fn lacks(&self, q: f64) -> Option<u64> {
        let needed = values_needed(q, LEVEL);
        (self.count() < needed).then_some(needed)
    }

    /// Shares and latencies, for a curve with its tail drawn out.
    pub fn curve(&self) -> Vec<(f64, Duration)> {
        let shares = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999];
        let told = |&q: &f64| self.count() as f64 * (1.0 - q) >= 1.0;
        shares.into_iter().filter(told).map(|q| (q, self.quantile(q))).collect()
    }
}

fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_takes_over_a_minute_is_counted_and_told() {
        let mut latencies = Latencies::default();
        for seconds in [1, 30, 61, 4_000] {
            latencies.record(Duration::from_secs(seconds));
        }
        latencies.record(Duration::ZERO);
        assert_eq!((latencies.count(), latencies.clipped()), (5, 2));
        assert!(latencies.max() > LONGEST.mul_f64(0.999) && latencies.max() < LONGEST.mul_f64(1.001));
        assert_eq!(Latencies::default().quantile(0.99), Duration::ZERO);
    }

    #[test]
    fn a_percentile_of_too_few_says_how_many_it_needs() {
        let mut latencies = Latencies::default();
        (1..=367).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        assert_eq!((latencies.lacks(0.99), latencies.interval(0.99)), (Some(368), None));
        (368..=1_000).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        let (low, high) = latencies.interval(0.99).expect("an interval");
        assert_eq!(latencies.lacks(0.99), None);
        assert!((980..=985).contains(&low.as_millis()) && (995..=998).contains(&high.as_millis()), "{low:?} {high:?}");
    }

    proptest! {
        #[test]
        fn quantiles_are_three_digits_true_and_parts_add_up(mut ms in prop::collection::vec(1u64..50_000, 1..300), split in 0.0..1.0f64) {
            let (mut one, mut other) = (Latencies::default(), Latencies::default());
            let at = (ms.len() as f64 * split) as usize;
            ms[..at].iter().for_each(|&ms| one.record(Duration::from_millis(ms)));
            ms[at..].iter().for_each(|&ms| other.record(Duration::from_millis(ms)));
            one.add(&other);
            ms.sort_unstable();
            prop_assert_eq!(one.count(), ms.len() as u64);
            for q in [0.0, 0.25, 0.5, 0.9, 0.99, 1.0] {
                let rank = ((q * ms.len() as f64).ceil() as usize).max(1);
                let (truth, told) = (ms[rank - 1] as f64, one.quantile(q).as_secs_f64() * 1e3);
                prop_assert!((told / truth - 1.0).abs() < 0.0011, "{q}: {told} for {truth}");
            }
        }
    }
}
