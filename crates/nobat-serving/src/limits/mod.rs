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
mod bytes;
pub mod gcra;
mod lookups;
mod quota;
mod shared;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nobat_core::{Error, ErrorCode, OwnerId, Result};
use nobat_queue::Queue;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::auth::keyring::Grant;
use crate::context::{Notes, RequestContext};
pub use backlog::Backlog;
pub use bytes::{COUNTED_FROM, HeldBytes};
pub use gcra::{Decision, Rate};
pub use quota::Quota;

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
    /// Bytes of request bodies in memory, all callers together.
    pub max_body_bytes_in_flight: u64,
    /// Bytes of request bodies in memory of one caller with a key.
    pub max_body_bytes_in_flight_per_key: u64,
    /// Jobs per second of one caller, unless its key says otherwise.
    pub rate_per_s: f64,
    /// Jobs of one caller at once beyond its rate; 0 is one second's worth.
    pub burst: u32,
    /// Highest priority of a caller's jobs, unless its key says otherwise.
    pub max_priority: u8,
    /// Look-ups of jobs that are not there, or another's, that a caller with a key
    /// may make in a minute.
    pub failed_lookups_per_min: u32,
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
            max_body_bytes_in_flight: 1 << 30,
            max_body_bytes_in_flight_per_key: 512 << 20,
            rate_per_s: 0.0,
            burst: 0,
            max_priority: u8::MAX,
            failed_lookups_per_min: 300,
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
    pub fn validate(&self, max_body_bytes: usize) -> Result<()> {
        let refuse = |why: &str| Err(Error::new(ErrorCode::InvalidParameter, why));
        if !(self.rate_per_s >= 0.0 && self.rate_per_s.is_finite()) {
            return refuse(
                "limits.rate_per_s is negative or not a number; give requests per second, or 0 for no limit",
            );
        }
        if self.burst > 0 && self.rate_per_s == 0.0 {
            return refuse("limits.burst needs limits.rate_per_s; give both or neither");
        }
        let bounds = [self.max_body_bytes_in_flight, self.max_body_bytes_in_flight_per_key];
        if bounds.into_iter().any(|most| most > 0 && most < max_body_bytes as u64) {
            return refuse(
                "limits.max_body_bytes_in_flight or limits.max_body_bytes_in_flight_per_key is below max_body_bytes: no \
                 body of that size could come in; raise it, or lower max_body_bytes",
            );
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
    bytes: AtomicU64,
    // Read by every request, written once per caller; a read takes 15 ns.
    callers: RwLock<HashMap<OwnerId, Arc<Caller>>>,
}

/// One caller's counts.
#[derive(Default)]
struct Caller {
    in_flight: AtomicU32,
    bytes: AtomicU64,
    tat_ns: AtomicU64,
    /// As `tat_ns`, of failed look-ups.
    lookups_ns: AtomicU64,
}

/// A request that was let in; counted until it is dropped.
pub struct Permit {
    shared: Arc<Shared>,
    owner: OwnerId,
    caller: Arc<Caller>,
    /// The caller's rate; `None` without one.
    rate: Option<Rate>,
}

impl Limits {
    /// Starts to count. `config` has passed [`LimitsConfig::validate`].
    pub fn new(config: LimitsConfig) -> Limits {
        Limits {
            shared: Arc::new(Shared {
                config,
                started: Instant::now(),
                in_flight: AtomicU32::new(0),
                bytes: AtomicU64::new(0),
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
    pub fn admit(&self, grant: Option<&Grant>, notes: &Notes, now: Instant) -> Result<Permit> {
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
            notes.set_quota(Quota::requests(most));
            return Err(Error::new(
                ErrorCode::QuotaExceeded,
                format!("{most} requests of this caller are in flight, its limit; wait for one to end"),
            )
            .retry_after(Duration::from_secs(1)));
        }
        if let Some(rate) = self.rate_of(grant) {
            permit.caller.take(rate, 1, self.shared.elapsed_ns(now), notes)?;
            permit.rate = Some(rate);
        }
        Ok(permit)
    }

    /// Counts the other jobs of a call that turned out to be `jobs` of them: the
    /// first was counted at the door.
    ///
    /// # Errors
    /// `rate_limited` with `retry_after`; `payload_too_large` for more than the
    /// caller may ever have at once.
    pub async fn charge(&self, context: &RequestContext, jobs: usize, queue: &dyn Queue) -> Result<()> {
        let grant = context.grant.as_deref();
        let (Some(rate), Some(others)) = (self.rate_of(grant), jobs.checked_sub(1).filter(|&others| others > 0)) else {
            return Ok(());
        };
        let burst = rate.burst();
        let others = u32::try_from(others).ok().filter(|&others| others < burst).ok_or_else(|| {
            Error::new(
                ErrorCode::PayloadTooLarge,
                format!("the call makes {jobs} jobs and this caller may have {burst} at once; send at most so many"),
            )
        })?;
        let caller = self.caller(context.owner);
        caller.take(rate, others, self.shared.elapsed_ns(Instant::now()), &context.notes)?;
        match self.shared.config.shared_rate {
            true => shared::take(queue, context.owner, rate, others, &context.notes).await,
            false => Ok(()),
        }
    }

    /// Refuses a priority over this caller's highest.
    ///
    /// # Errors
    /// `permission_denied`, naming both.
    pub fn check_priority(&self, grant: Option<&Grant>, priority: u8) -> Result<()> {
        let most = grant.and_then(|grant| grant.max_priority).unwrap_or(self.shared.config.max_priority);
        if priority <= most {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::PermissionDenied,
            format!("priority {priority} is over this caller's highest, {most}; ask for at most that"),
        ))
    }

    fn rate_of(&self, grant: Option<&Grant>) -> Option<Rate> {
        let config = &self.shared.config;
        match grant {
            Some(grant) if grant.rate_per_s > 0.0 => Rate::new(grant.rate_per_s, grant.burst),
            _ => Rate::new(config.rate_per_s, config.burst),
        }
    }

    fn caller(&self, owner: OwnerId) -> Arc<Caller> {
        if let Some(caller) = self.shared.callers.read().get(&owner) {
            return caller.clone();
        }
        let mut callers = self.shared.callers.write();
        if callers.len() >= CALLERS {
            let now_ns = self.shared.elapsed_ns(Instant::now());
            callers.retain(|_, caller| {
                Arc::strong_count(caller) > 1
                    || caller.tat_ns.load(Relaxed).max(caller.lookups_ns.load(Relaxed)) > now_ns
            });
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
    /// Takes `jobs` out of this gateway's bucket.
    fn take(&self, rate: Rate, jobs: u32, now_ns: u64, notes: &Notes) -> Result<()> {
        let decision = decide(&self.tat_ns, rate, jobs, now_ns);
        notes.set_quota(Quota::Rate(rate, decision));
        if decision.allowed { Ok(()) } else { Err(over(rate, decision)) }
    }
}

/// Decides over a bucket that other threads decide over too.
fn decide(bucket: &AtomicU64, rate: Rate, jobs: u32, now_ns: u64) -> Decision {
    let mut tat_ns = bucket.load(Relaxed);
    loop {
        let decision = rate.decide(tat_ns, now_ns, jobs);
        match bucket.compare_exchange_weak(tat_ns, decision.tat_ns, Relaxed, Relaxed) {
            Ok(_) => return decision,
            Err(newer) => tat_ns = newer,
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
    let why = format!("this caller's rate is over its limit of {burst} jobs in {window_s:.1} s; slow down");
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
            max_priority: None,
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
        let first = limits.admit(Some(&a), &Notes::default(), now).expect("in");
        let second = limits.admit(Some(&a), &Notes::default(), now).expect("in");
        assert_eq!(code(limits.admit(Some(&a), &Notes::default(), now)), ErrorCode::QuotaExceeded);
        assert_eq!(limits.in_flight(), 2, "a refusal gives its count back");
        let third = limits.admit(Some(&b), &Notes::default(), now).expect("in");
        assert_eq!(code(limits.admit(Some(&b), &Notes::default(), now)), ErrorCode::QueueFull);
        drop((first, third));
        assert_eq!(limits.in_flight(), 1);
        let again = limits.admit(Some(&a), &Notes::default(), now).expect("in");
        drop((second, again));
        assert_eq!(limits.in_flight(), 0);
    }

    #[test]
    fn each_caller_has_its_own_rate() {
        let limits = Limits::new(LimitsConfig::default());
        let now = Instant::now();
        let (a, b) = (grant(1, 0, 1.0), grant(2, 0, 1.0));
        assert!(
            limits.admit(Some(&a), &Notes::default(), now).is_ok()
                && limits.admit(Some(&a), &Notes::default(), now).is_ok()
        );
        assert_eq!(code(limits.admit(Some(&a), &Notes::default(), now)), ErrorCode::RateLimited);
        assert!(limits.admit(Some(&b), &Notes::default(), now).is_ok());
        let later = now + Duration::from_secs(1);
        let notes = Notes::default();
        assert!(limits.admit(Some(&a), &notes, later).is_ok(), "earned again");
        assert!(matches!(notes.quota(), Some(Quota::Rate(_, Decision { remaining: 0, .. }))));
        assert!(limits.admit(None, &Notes::default(), now).expect("no limit").rate.is_none());
    }

    #[test]
    fn threads_never_pass_the_limit_together() {
        let limits = Limits::new(LimitsConfig { max_in_flight: 5, ..LimitsConfig::default() });
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let permit = limits.admit(None, &Notes::default(), Instant::now());
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
        assert!(LimitsConfig { burst: 5, ..LimitsConfig::default() }.validate(1).is_err());
        assert!(LimitsConfig { rate_per_s: f64::NAN, ..LimitsConfig::default() }.validate(1).is_err());
        assert!(LimitsConfig { rate_per_s: 5.0, burst: 5, ..LimitsConfig::default() }.validate(1).is_ok());
        assert!(LimitsConfig { max_body_bytes_in_flight: 9, ..LimitsConfig::default() }.validate(10).is_err());
        assert!(LimitsConfig { max_body_bytes_in_flight: 0, ..LimitsConfig::default() }.validate(10).is_ok());
    }
}
