//! When a server is warm: its latencies no longer change. Pure.
//!
//! Connections open, caches fill, controllers find their place, clocks rise. What is measured
//! meanwhile is not what comes after, so it is counted apart, second by second.

use std::time::Duration;

use super::latencies::Latencies;

/// Seconds that must be alike.
const ALIKE: usize = 3;
/// How far apart the medians of seconds that are alike may be.
const APART: f64 = 0.1;
/// Seconds after which no more is waited for.
pub(super) const PATIENCE: usize = 30;

/// How a warm-up stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WarmUp {
    /// Not yet.
    Cold,
    /// The last seconds were alike.
    Warm,
    /// They never were.
    Unstable,
}

/// Judges the whole seconds so far: warm when the medians of the last three are within 10 %
/// of each other, or differ no more than so few answers do by chance.
pub(super) fn warm_up(seconds: &[Latencies]) -> WarmUp {
    match seconds.last_chunk::<ALIKE>() {
        Some(last) if alike(last) => WarmUp::Warm,
        _ if seconds.len() >= PATIENCE => WarmUp::Unstable,
        _ => WarmUp::Cold,
    }
}

fn alike(seconds: &[Latencies; ALIKE]) -> bool {
    if seconds.iter().any(|second| second.count() == 0) {
        return false;
    }
    let medians = seconds.each_ref().map(|second| second.quantile(0.5));
    let (low, high) = medians.iter().fold((Duration::MAX, Duration::ZERO), |(low, high), &m| (low.min(m), high.max(m)));
    if high.as_secs_f64() <= low.as_secs_f64() * (1.0 + APART) {
        return true;
    }
    let mut all = Latencies::default();
    seconds.iter().for_each(|second| all.add(second));
    let median = all.quantile(0.5);
    let may_be = |second: &Latencies| second.interval(0.5).is_none_or(|(low, high)| low <= median && median <= high);
    seconds.iter().all(may_be)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(ms: impl IntoIterator<Item = u64>) -> Latencies {
        let mut latencies = Latencies::default();
        ms.into_iter().for_each(|ms| latencies.record(Duration::from_millis(ms)));
        latencies
    }

    #[test]
    fn a_server_is_warm_when_three_seconds_are_alike() {
        let cold = [second(vec![300; 500]), second(vec![150; 500]), second(vec![104; 500])];
        assert_eq!(warm_up(&cold[..2]), WarmUp::Cold);
        assert_eq!(warm_up(&cold), WarmUp::Cold);
        let mut seconds = cold.to_vec();
        seconds.extend([second(vec![100; 500]), second(vec![98; 500])]);
        assert_eq!(warm_up(&seconds), WarmUp::Warm);
    }

    #[test]
    fn few_answers_that_differ_by_chance_are_alike_and_many_are_not() {
        let few = [second([10, 40, 90, 200]), second([20, 30, 60, 80]), second([5, 70, 80, 300])];
        assert_eq!(warm_up(&few), WarmUp::Warm);
        let silent = [second([10]), second([]), second([10])];
        assert_eq!(warm_up(&silent), WarmUp::Cold, "a second without answers is like no other");
        let many: Vec<Latencies> =
            (0..PATIENCE as u64).map(|at| second((0..900).map(|n| 50 + 20 * (at % 2) + n % 10))).collect();
        assert_eq!(warm_up(&many[..PATIENCE - 1]), WarmUp::Cold);
        assert_eq!(warm_up(&many), WarmUp::Unstable);
    }
}
