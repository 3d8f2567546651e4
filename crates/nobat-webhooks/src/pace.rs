//! When a delivery is tried again, and when an endpoint is left alone. Pure but
//! for the mutex around the breakers; callers pass the time.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

/// Delays before each retry, in seconds: the schedule of Standard Webhooks.
pub const SCHEDULE_S: [u32; 7] = [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000];
/// Failures in a row after which an endpoint is left alone.
const FAILURES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Endpoints remembered; those that work are forgotten at once.
const MOST: usize = 10_000;

/// The delay before the attempt after `attempts` failed ones; `None` when the
/// schedule has run out. Up to a tenth is added, drawn from `random` in 0..2^32,
/// so that an endpoint that comes back is not met by all at once.
pub fn next_delay(schedule_s: &[u32], attempts: u32, random: u32) -> Option<Duration> {
    let delay = Duration::from_secs(u64::from(*schedule_s.get(attempts.checked_sub(1)? as usize)?));
    Some(delay + delay.mul_f64(0.1 * f64::from(random) / f64::from(u32::MAX)))
}

/// Circuit breakers by endpoint (scheme, host and port). One process's view:
/// each learns for itself.
#[derive(Debug, Default)]
pub struct Breakers {
    // Held for a look-up.
    by_endpoint: Mutex<HashMap<String, Breaker>>,
}

/// One endpoint's recent failures.
#[derive(Clone, Copy, Debug, Default)]
struct Breaker {
    failures: u32,
    /// Left alone until then, milliseconds.
    open_until_ms: u64,
}

impl Breakers {
    /// How long to leave an endpoint alone; `None`: go ahead. After a pause one
    /// caller is let through, the others wait for what it finds.
    pub fn ask(&self, endpoint: &str, now_ms: u64) -> Option<Duration> {
        let mut breakers = self.by_endpoint.lock();
        let breaker = breakers.get_mut(endpoint)?;
        if now_ms < breaker.open_until_ms {
            return Some(Duration::from_millis(breaker.open_until_ms - now_ms));
        }
        if breaker.failures < FAILURES {
            return None;
        }
        breaker.open_until_ms = now_ms + FIRST_PAUSE.as_millis() as u64;
        None
    }

    /// Learns what an attempt found.
    pub fn learn(&self, endpoint: &str, worked: bool, now_ms: u64) {
        let mut breakers = self.by_endpoint.lock();
        if worked {
            breakers.remove(endpoint);
            return;
        }
        if breakers.len() >= MOST {
            breakers.clear();
        }
        let breaker = breakers.entry(endpoint.to_owned()).or_default();
        breaker.failures = breaker.failures.saturating_add(1);
        if breaker.failures >= FAILURES {
            let doubled = FIRST_PAUSE * 2u32.pow((breaker.failures - FAILURES).min(10));
            breaker.open_until_ms = now_ms + doubled.min(LONGEST_PAUSE).as_millis() as u64;
        }
    }

    /// Leaves an endpoint alone for as long as it asked for: its other deliveries
    /// would be told the same.
    pub fn rest(&self, endpoint: &str, pause: Duration, now_ms: u64) {
        let mut breakers = self.by_endpoint.lock();
        let breaker = breakers.entry(endpoint.to_owned()).or_default();
        breaker.open_until_ms = breaker.open_until_ms.max(now_ms + pause.as_millis() as u64);
    }

    /// Endpoints that are left alone now, with the time each has left.
    pub fn open(&self, now_ms: u64) -> Vec<(String, Duration)> {
        let breakers = self.by_endpoint.lock();
        let open = breakers.iter().filter(|(_, breaker)| breaker.open_until_ms > now_ms);
        open.map(|(endpoint, breaker)| (endpoint.clone(), Duration::from_millis(breaker.open_until_ms - now_ms)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_is_the_published_one_and_ends() {
        let delays: Vec<_> = (1..=8).map(|attempts| next_delay(&SCHEDULE_S, attempts, 0)).collect();
        assert_eq!(delays[0], Some(Duration::from_secs(5)));
        assert_eq!(delays[3], Some(Duration::from_secs(2 * 3600)));
        assert_eq!(delays[7], None);
        let late = next_delay(&SCHEDULE_S, 2, u32::MAX).expect("a delay");
        assert!(late > Duration::from_secs(300) && late <= Duration::from_secs(330));
    }

    #[test]
    fn five_failures_in_a_row_open_the_breaker_and_one_success_closes_it() {
        let breakers = Breakers::default();
        for n in 0..5 {
            assert_eq!(breakers.ask("e", 1_000 + n), None);
            breakers.learn("e", false, 1_000 + n);
        }
        assert!(breakers.ask("e", 2_000).is_some());
        assert_eq!(breakers.ask("other", 2_000), None);
        assert_eq!(breakers.open(2_000).len(), 1);
        let after = 1_004 + 30_000;
        assert_eq!(breakers.ask("e", after), None, "one is let through");
        assert!(breakers.ask("e", after).is_some(), "the next waits for what it finds");
        breakers.learn("e", false, after);
        assert!(breakers.ask("e", after + 59_000).is_some(), "the pause doubles");
        breakers.learn("e", true, after + 60_000);
        assert_eq!(breakers.ask("e", after + 60_000), None);
    }

    #[test]
    fn an_endpoint_that_asks_for_a_rest_gets_it_whatever_it_was_before() {
        let breakers = Breakers::default();
        breakers.rest("e", Duration::from_secs(60), 1_000);
        assert_eq!(breakers.ask("e", 2_000), Some(Duration::from_secs(59)));
        assert_eq!(breakers.open(2_000), [("e".to_owned(), Duration::from_secs(59))]);
        breakers.rest("e", Duration::from_secs(1), 2_000);
        assert_eq!(breakers.ask("e", 2_000), Some(Duration::from_secs(59)), "a shorter one takes nothing back");
        assert_eq!((breakers.ask("e", 61_000), breakers.ask("e", 61_000)), (None, None), "and then it is as before");
    }

    #[test]
    fn a_success_between_failures_keeps_the_breaker_closed() {
        let breakers = Breakers::default();
        for n in 0..20 {
            breakers.learn("e", n % 4 == 3, n);
        }
        assert_eq!(breakers.ask("e", 20), None);
    }
}
