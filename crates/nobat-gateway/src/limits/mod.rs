//! How much is let in: a rate per caller, requests in flight per caller and in
//! all, and whether a deadline can still be met.
//!
//! Everything that needs no body is decided before the body is read, so a flood
//! costs its heads. What is this caller's doing is a 429 (`rate_limited`,
//! `quota_exceeded`), what is ours is a 503 (`queue_full`); both say when to come
//! again. Queue length limits are the store's (`nobat_queue::QueueSettings`):
//! it alone counts all gateways.
//!
//! Invariants:
//! - A permit is counted from admission to the end of the answer, and given
//!   back however the request ends.
//! - A limit never queues: it lets in or refuses. Only a caller with a rate, where
//!   gateways share a store, waits for one round trip to it ([`Permit::settle_rate`]).

pub mod backlog;
pub mod gcra;
mod shared;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nobat_core::{Error, ErrorCode, OwnerId, Result};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::auth::keyring::Grant;
pub use backlog::Backlog;
pub use gcra::{Decision, Rate};

/// A caller without requests is forgotten when there are more than so many.
const CALLERS: usize = 10_000;

/// What an operator may limit. 0 is no limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Predictions in flight, all callers together; bounds memory.
    pub max_in_flight: u32,
    /// Predictions in flight of one caller, unless its key says otherwise.
    pub max_in_flight_per_key: u32,
    /// Writes per second of one caller, unless its key says otherwise.
    pub rate_per_s: f64,
    /// Writes of one caller at once beyond its rate; 0 is one second's worth.
    pub burst: u32,
    /// Count a caller's rate over all gateways, where they share a Redis; off,
    /// each gateway counts by itself.
    pub shared_rate: bool,
    /// Refuse a job that cannot finish within its deadline by the queue's
    /// present length and pace (`backlog`).
    pub predict_deadline: bool,
}

impl Default for LimitsConfig {
    fn default() -> LimitsConfig {
        LimitsConfig {
            max_in_flight: 8192,
            max_in_flight_per_key: 0,
            rate_per_s: 0.0,
            burst: 0,
            shared_rate: true,
            predict_deadline: true,
        }
    }
}

impl LimitsConfig {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the key and the remedy.
    pub fn validate(&self) -> Result<()> {
        let refuse = |why: &str| Err(Error::new(ErrorCode::InvalidParameter, why));
        if !(self.rate_per_s >= 0.0 && self.rate_per_s.is_finite()) {
            return refuse(
                "limits.rate_per_s is negative or not a number; give requests per second, or 0 for no limit",
            );
        }
        if self.burst > 0 && self.rate_per_s == 0.0 {
            return refuse("limits.burst needs limits.rate_per_s; give both or neither");
        }
        Ok(())
    }
}

/// Counts what is let in. A clone-able handle.
#[derive(Clone)]
pub struct Limits {
    shared: Arc<Shared>,
}

struct Shared {
    config: LimitsConfig,
    started: Instant,
    in_flight: AtomicU32,
    // Read by every request, written once per caller; a read takes 15 ns.
    callers: RwLock<HashMap<OwnerId, Arc<Caller>>>,
}

/// One caller's counts.
#[derive(Default)]
struct Caller {
    in_flight: AtomicU32,
    tat_ns: AtomicU64,
}

/// A request that was let in; counted until it is dropped.
pub struct Permit {
    shared: Arc<Shared>,
    owner: OwnerId,
    caller: Arc<Caller>,
    /// What the caller's rate limit stands at; `None` without one.
    pub rate: Option<(Rate, Decision)>,
}

impl Limits {
    /// Starts to count. `config` has passed [`LimitsConfig::validate`].
    pub fn new(config: LimitsConfig) -> Limits {
        Limits {
            shared: Arc::new(Shared {
                config,
                started: Instant::now(),
                in_flight: AtomicU32::new(0),
                callers: RwLock::default(),
            }),
        }
    }

    /// The settings.
    pub fn config(&self) -> &LimitsConfig {
        &self.shared.config
    }

    /// Predictions in flight, all callers together.
    pub fn in_flight(&self) -> u32 {
        self.shared.in_flight.load(Relaxed)
    }

    /// Lets a prediction of `grant`'s caller in, or refuses it.
    ///
    /// # Errors
    /// `queue_full` (ours), `quota_exceeded` and `rate_limited` (the caller's),
    /// each with `retry_after`.
    pub fn admit(&self, grant: Option<&Grant>, now: Instant) -> Result<Permit> {
        let config = &self.shared.config;
        let owner = grant.map_or(OwnerId::ANONYMOUS, |grant| grant.owner);
        let caller = self.caller(owner);
        if !take(&self.shared.in_flight, config.max_in_flight) {
            return Err(Error::new(
                ErrorCode::QueueFull,
                format!("{} predictions are in flight, the most this gateway takes; try again", config.max_in_flight),
            )
            .retry_after(Duration::from_secs(1)));
        }
        // From here on every way out gives the count back: the permit does.
        let mut permit = Permit { shared: self.shared.clone(), owner, caller, rate: None };
        let most = own(grant.map(|grant| grant.max_in_flight), config.max_in_flight_per_key);
        if !take(&permit.caller.in_flight, most) {
            // Counted as taken, so that the permit's drop balances it.
            permit.caller.in_flight.fetch_add(1, Relaxed);
            return Err(Error::new(
                ErrorCode::QuotaExceeded,
                format!("{most} requests of this caller are in flight, its limit; wait for one to end"),
            )
            .retry_after(Duration::from_secs(1)));
        }
        let rate = match grant {
            Some(grant) if grant.rate_per_s > 0.0 => Rate::new(grant.rate_per_s, grant.burst),
            _ => Rate::new(config.rate_per_s, config.burst),
        };
        if let Some(rate) = rate {
            let decision = permit.caller.decide(rate, self.shared.elapsed_ns(now));
            if !decision.allowed {
                return Err(over(rate, decision));
            }
            permit.rate = Some((rate, decision));
        }
        Ok(permit)
    }

    fn caller(&self, owner: OwnerId) -> Arc<Caller> {
        if let Some(caller) = self.shared.callers.read().get(&owner) {
            return caller.clone();
        }
        let mut callers = self.shared.callers.write();
        if callers.len() >= CALLERS {
            let now_ns = self.shared.elapsed_ns(Instant::now());
            callers.retain(|_, caller| Arc::strong_count(caller) > 1 || caller.tat_ns.load(Relaxed) > now_ns);
        }
        callers.entry(owner).or_default().clone()
    }
}

impl Shared {
    /// Nanoseconds of this process's clock.
    fn elapsed_ns(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Caller {
    fn decide(&self, rate: Rate, now_ns: u64) -> Decision {
        let mut tat_ns = self.tat_ns.load(Relaxed);
        loop {
            let decision = rate.decide(tat_ns, now_ns);
            match self.tat_ns.compare_exchange_weak(tat_ns, decision.tat_ns, Relaxed, Relaxed) {
                Ok(_) => return decision,
                Err(newer) => tat_ns = newer,
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, Relaxed);
        self.caller.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Says that a caller's rate is over.
fn over(rate: Rate, decision: Decision) -> Error {
    let (burst, window_s) = (rate.burst(), rate.window().as_secs_f64());
    let why = format!("this caller's rate is over its limit of {burst} requests in {window_s:.1} s; slow down");
    Error::new(ErrorCode::RateLimited, why).retry_after(decision.retry_after)
}

/// Counts one more unless that would pass `most` (0 is no limit).
fn take(count: &AtomicU32, most: u32) -> bool {
    count.fetch_update(Relaxed, Relaxed, |taken| (most == 0 || taken < most).then_some(taken + 1)).is_ok()
}

/// A key's own limit where it has one.
fn own(of_key: Option<u32>, default: u32) -> u32 {
    of_key.filter(|&limit| limit > 0).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Scope;

    fn grant(owner: u64, max_in_flight: u32, rate_per_s: f64) -> Grant {
        Grant {
            owner: OwnerId(owner),
            name: "k".into(),
            scope: Scope::Predict,
            models: vec!["*".into()],
            rate_per_s,
            burst: 2,
            max_in_flight,
            webhook: None,
        }
    }

    fn code(result: Result<Permit>) -> ErrorCode {
        let error = result.err().expect("refused");
        assert!(error.retry_after.is_some(), "{error}");
        error.code
    }

    #[test]
    fn permits_are_counted_and_given_back_whatever_happens() {
        let limits = Limits::new(LimitsConfig { max_in_flight: 3, ..LimitsConfig::default() });
        let (a, b, now) = (grant(1, 2, 0.0), grant(2, 0, 0.0), Instant::now());
        let first = limits.admit(Some(&a), now).expect("in");
        let second = limits.admit(Some(&a), now).expect("in");
        assert_eq!(code(limits.admit(Some(&a), now)), ErrorCode::QuotaExceeded);
        assert_eq!(limits.in_flight(), 2, "a refusal gives its count back");
        let third = limits.admit(Some(&b), now).expect("in");
        assert_eq!(code(limits.admit(Some(&b), now)), ErrorCode::QueueFull);
        drop((first, third));
        assert_eq!(limits.in_flight(), 1);
        let again = limits.admit(Some(&a), now).expect("in");
        drop((second, again));
        assert_eq!(limits.in_flight(), 0);
    }

    #[test]
    fn each_caller_has_its_own_rate() {
        let limits = Limits::new(LimitsConfig::default());
        let now = Instant::now();
        let (a, b) = (grant(1, 0, 1.0), grant(2, 0, 1.0));
        assert!(limits.admit(Some(&a), now).is_ok() && limits.admit(Some(&a), now).is_ok());
        assert_eq!(code(limits.admit(Some(&a), now)), ErrorCode::RateLimited);
        assert!(limits.admit(Some(&b), now).is_ok());
        let later = now + Duration::from_secs(1);
        let permit = limits.admit(Some(&a), later).expect("earned again");
        assert_eq!(permit.rate.map(|(_, decision)| decision.remaining), Some(0));
        assert!(limits.admit(None, now).expect("no limit").rate.is_none());
    }

    #[test]
    fn threads_never_pass_the_limit_together() {
        let limits = Limits::new(LimitsConfig { max_in_flight: 5, ..LimitsConfig::default() });
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let permit = limits.admit(None, Instant::now());
                        assert!(limits.in_flight() <= 5);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(limits.in_flight(), 0);
    }

    #[test]
    fn contradictory_settings_are_told() {
        assert!(LimitsConfig { burst: 5, ..LimitsConfig::default() }.validate().is_err());
        assert!(LimitsConfig { rate_per_s: f64::NAN, ..LimitsConfig::default() }.validate().is_err());
        assert!(LimitsConfig { rate_per_s: 5.0, burst: 5, ..LimitsConfig::default() }.validate().is_ok());
    }
}
