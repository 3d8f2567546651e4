//! When a failed attempt runs again: fixed or exponential delay with jitter; and
//! pauses between tries of what fails for a while.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A job's retry schedule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Attempts after the first; 0 means one attempt in all.
    pub max_retries: u8,
    /// Delay before the first retry, in milliseconds.
    pub delay_ms: u32,
    /// Factor per further retry, in percent: 100 keeps the delay, 200 doubles it.
    pub factor_pct: u16,
    /// Share of the delay drawn at random and taken off, in percent (0..=100).
    pub jitter_pct: u8,
    /// No delay is longer than this, in milliseconds.
    pub max_delay_ms: u32,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy { max_retries: 2, delay_ms: 1_000, factor_pct: 100, jitter_pct: 0, max_delay_ms: 600_000 }
    }
}

impl RetryPolicy {
    /// The delay before the attempt after `attempt` (counted from 1), or `None`
    /// when that was the last. `random` is uniform in 0..2^32.
    pub fn next_delay(&self, attempt: u32, random: u32) -> Option<Duration> {
        if attempt > u32::from(self.max_retries) {
            return None;
        }
        let cap = f64::from(self.max_delay_ms);
        let factor = f64::from(self.factor_pct.max(100)) / 100.0;
        let grown = f64::from(self.delay_ms) * factor.powi(attempt.saturating_sub(1) as i32);
        let full = grown.min(cap);
        let off = full * f64::from(self.jitter_pct.min(100)) / 100.0 * f64::from(random) / 4_294_967_296.0;
        Some(Duration::from_millis((full - off).round() as u64))
    }
}

/// Pauses that double from try to try.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `first` to `most`.
    pub const fn new(first: Duration, most: Duration) -> Backoff {
        Backoff { first, most, next: first }
    }

    /// How long the next pause is.
    pub const fn next(&self) -> Duration {
        self.next
    }

    /// How long to pause after one more failure.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.most);
        pause
    }

    /// As [`Backoff::pause`], up to half of it taken off: `random` is uniform in 0..1. So a
    /// fleet does not return in one instant.
    pub fn jittered(&mut self, random: f64) -> Duration {
        self.pause().mul_f64(1.0 - random / 2.0)
    }

    /// Forgets past failures.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_is_two_retries_after_one_second() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.next_delay(1, 0), Some(Duration::from_secs(1)));
        assert_eq!(policy.next_delay(2, u32::MAX), Some(Duration::from_secs(1)));
        assert_eq!(policy.next_delay(3, 0), None);
    }

    #[test]
    fn an_exponential_delay_doubles() {
        let policy = RetryPolicy { factor_pct: 200, max_retries: 9, ..RetryPolicy::default() };
        let ms: Vec<_> = (1..=4).map(|n| policy.next_delay(n, 0).map(|d| d.as_millis())).collect();
        assert_eq!(ms, [Some(1000), Some(2000), Some(4000), Some(8000)]);
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(50), ms(150));
        assert_eq!([backoff.pause(), backoff.pause(), backoff.pause()], [ms(50), ms(100), ms(150)]);
        assert_eq!(backoff.pause(), ms(150));
        backoff.reset();
        assert_eq!((backoff.next(), backoff.pause(), backoff.jittered(0.5)), (ms(50), ms(50), ms(75)));
    }

    proptest! {
        #[test]
        fn jitter_only_shortens_and_the_cap_holds(
            delay_ms in 0u32..10_000_000, factor_pct in 0u16..1000, jitter_pct: u8, attempt in 1u32..256, random: u32,
        ) {
            let policy = RetryPolicy { max_retries: 255, delay_ms, factor_pct, jitter_pct, max_delay_ms: 60_000 };
            let full = RetryPolicy { jitter_pct: 0, ..policy }.next_delay(attempt, 0);
            let delay = policy.next_delay(attempt, random);
            prop_assert!(delay <= full);
            prop_assert!(full <= Some(Duration::from_secs(60)));
        }
    }
}
