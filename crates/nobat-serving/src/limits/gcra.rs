//! A token bucket as one number: the generic cell rate algorithm. Pure.
//!
//! The state is the theoretical arrival time (TAT): the instant at which the
//! bucket is full again. Source: ITU-T I.371, annex A, the virtual scheduling
//! algorithm; all times in nanoseconds of one monotonic clock.

use std::time::Duration;

use nobat_core::{Error, ErrorCode, Result};

/// So many requests a second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Nanoseconds between two requests at the steady rate; never 0.
    interval_ns: u64,
    /// Requests that may come at once; never 0.
    burst: u32,
}

/// A decision, and what to tell the caller about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may go on.
    pub allowed: bool,
    /// Requests that could follow at once.
    pub remaining: u32,
    /// When the bucket is full again.
    pub reset: Duration,
    /// When a refused request could be sent again; zero when allowed.
    pub retry_after: Duration,
    /// The state to keep: unchanged when refused.
    pub tat_ns: u64,
}

impl Decision {
    /// The refusal of a request that is over its caller's `rate`.
    ///
    /// # Errors
    /// `rate_limited` with `retry_after`.
    pub fn judge(self, rate: Rate) -> Result<()> {
        if self.allowed {
            return Ok(());
        }
        let (burst, window_s) = (rate.burst(), rate.window().as_secs_f64());
        let why = format!("this caller's rate is over its limit of {burst} jobs in {window_s:.1} s; slow down");
        Err(Error::new(ErrorCode::RateLimited, why).retry_after(self.retry_after))
    }
}

impl Rate {
    /// A rate of `per_s` requests a second with room for `burst` at once (0: one
    /// second's worth); `None` when there is no limit.
    pub fn new(per_s: f64, burst: u32) -> Option<Rate> {
        if !(per_s > 0.0 && per_s.is_finite()) {
            return None;
        }
        let interval_ns = (1e9 / per_s).round().clamp(1.0, 1e18) as u64;
        let burst = if burst == 0 { per_s.ceil().clamp(1.0, 1e9) as u32 } else { burst };
        Some(Rate { interval_ns, burst })
    }

    /// Requests that may come at once.
    pub fn burst(self) -> u32 {
        self.burst
    }

    /// The time between two requests at the steady rate.
    pub fn interval(self) -> Duration {
        Duration::from_nanos(self.interval_ns)
    }

    /// The time in which a whole burst is earned again.
    pub fn window(self) -> Duration {
        Duration::from_nanos(self.interval_ns.saturating_mul(u64::from(self.burst)))
    }

    /// Decides on `cost` requests in one at `now_ns`, over the state `tat_ns`.
    pub fn decide(self, tat_ns: u64, now_ns: u64, cost: u32) -> Decision {
        let window_ns = self.interval_ns.saturating_mul(u64::from(self.burst));
        // A state from the future of this clock (another host, a restart) is
        // cut to a full debt, so it cannot refuse for ever.
        let tat_ns_now = tat_ns.clamp(now_ns, now_ns.saturating_add(window_ns));
        let cost_ns = self.interval_ns.saturating_mul(u64::from(cost));
        let next = tat_ns_now.saturating_add(cost_ns);
        let allowed = next - now_ns <= window_ns;
        let kept = if allowed { next } else { tat_ns_now };
        Decision { tat_ns: kept, ..self.tell(allowed, kept - now_ns, cost_ns) }
    }

    /// What to tell a caller whose bucket is full again in `debt`, as a bucket
    /// kept elsewhere decided.
    pub fn told(self, allowed: bool, debt: Duration, cost: u32) -> Decision {
        let cost_ns = self.interval_ns.saturating_mul(u64::from(cost));
        self.tell(allowed, u64::try_from(debt.as_nanos()).unwrap_or(u64::MAX), cost_ns)
    }

    fn tell(self, allowed: bool, debt_ns: u64, cost_ns: u64) -> Decision {
        let window_ns = self.interval_ns.saturating_mul(u64::from(self.burst));
        let left_ns = window_ns.saturating_sub(debt_ns);
        Decision {
            allowed,
            remaining: u32::try_from(left_ns / self.interval_ns).unwrap_or(u32::MAX),
            reset: Duration::from_nanos(debt_ns),
            retry_after: Duration::from_nanos(if allowed { 0 } else { cost_ns.saturating_sub(left_ns) }),
            tat_ns: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_does() {
        let rate = Rate::new(10.0, 3).expect("a limit");
        let mut tat = 0;
        let mut at = |now_ms: u64| {
            let decision = rate.decide(tat, 1_000_000_000 + now_ms * 1_000_000, 1);
            tat = decision.tat_ns;
            decision
        };
        assert_eq!((0..3).map(|_| at(0).remaining).collect::<Vec<_>>(), [2, 1, 0]);
        let refused = at(0);
        assert!(!refused.allowed);
        assert_eq!(refused.retry_after, Duration::from_millis(100));
        assert!(!at(99).allowed && at(100).allowed && !at(101).allowed);
        assert_eq!(at(1_000).remaining, 2);
    }

    #[test]
    fn no_rate_is_no_limit() {
        assert!(Rate::new(0.0, 5).is_none() && Rate::new(f64::NAN, 5).is_none() && Rate::new(-1.0, 0).is_none());
        assert_eq!(Rate::new(2.5, 0).map(Rate::burst), Some(3));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate_passes_and_retry_after_is_exact(
            per_s in 0.5f64..1_000.0, burst in 1u32..50,
            calls in prop::collection::vec((0u64..50_000_000, 1u32..50), 1..300),
        ) {
            let rate = Rate::new(per_s, burst).expect("a limit");
            let (mut now, mut tat, mut passed) = (1u64 << 40, 0, 0u64);
            let start = now;
            for (gap, cost) in calls {
                let cost = cost.min(burst);
                now += gap;
                let decision = rate.decide(tat, now, cost);
                if decision.allowed {
                    passed += u64::from(cost);
                } else {
                    let again = now + decision.retry_after.as_nanos() as u64;
                    prop_assert!(rate.decide(decision.tat_ns, again, cost).allowed, "retry_after was too short");
                    prop_assert!(!rate.decide(decision.tat_ns, again - 1, cost).allowed, "retry_after was too long");
                }
                tat = decision.tat_ns;
                let earned = (now - start) / rate.interval_ns;
                prop_assert!(passed <= u64::from(burst) + earned);
                prop_assert!(decision.remaining <= burst);
            }
        }

        #[test]
        fn a_state_from_the_future_refuses_for_a_window_at_most(tat: u64, now in 0u64..1 << 60, burst in 1u32..100) {
            let rate = Rate::new(10.0, burst).expect("a limit");
            let decision = rate.decide(tat, now, 1);
            prop_assert!(decision.reset <= rate.window());
            prop_assert!(decision.retry_after <= rate.window());
        }
    }
}
