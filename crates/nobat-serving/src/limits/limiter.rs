//! The counts of callers: who may come in now, and for how much.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nobat_core::{Error, ErrorCode, OwnerId, Result};
use nobat_queue::Queue;
use parking_lot::RwLock;

use super::gcra::{Decision, Rate};
use super::quota::{Quota, QuotaCell};
use super::settings::LimitsConfig;
use super::shared_rate;
use crate::auth::keyring::Grant;

/// A caller without requests is forgotten when there are more than so many.
const CALLERS: usize = 10_000;

/// Counts what is let in. A clone-able handle.
#[derive(Clone)]
pub struct Limits {
    pub(super) counts: Arc<Counts>,
}

/// What is counted of all callers together, and of each.
pub(super) struct Counts {
    pub(super) config: LimitsConfig,
    started: Instant,
    in_flight: AtomicU64,
    pub(super) bytes: AtomicU64,
    // Read by every request, written once per caller; a read takes 15 ns.
    callers: RwLock<HashMap<OwnerId, Arc<Caller>>>,
}

/// One caller's counts.
#[derive(Default)]
pub(super) struct Caller {
    in_flight: AtomicU64,
    pub(super) bytes: AtomicU64,
    tat_ns: AtomicU64,
    /// As `tat_ns`, of failed look-ups.
    pub(super) lookups_ns: AtomicU64,
    /// When all tokens that were read are earned again.
    pub(super) tokens_ns: AtomicU64,
}

/// A request that was let in; counted until it is dropped.
pub struct AdmissionPermit {
    counts: Arc<Counts>,
    owner: OwnerId,
    caller: Arc<Caller>,
    /// The caller's rate; `None` without one.
    rate: Option<Rate>,
}

impl Limits {
    /// Starts to count. `config` has passed [`LimitsConfig::validate`].
    pub fn new(config: LimitsConfig) -> Limits {
        Limits {
            counts: Arc::new(Counts {
                config,
                started: Instant::now(),
                in_flight: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                callers: RwLock::default(),
            }),
        }
    }

    /// Predictions in flight, all callers together.
    pub fn in_flight(&self) -> u64 {
        self.counts.in_flight.load(Relaxed)
    }

    /// Lets a prediction of `grant`'s caller in, or refuses it.
    ///
    /// # Errors
    /// `queue_full` (ours), `quota_exceeded` and `rate_limited` (the caller's),
    /// each with `retry_after`.
    pub fn admit(&self, grant: Option<&Grant>, quota: &QuotaCell, now: Instant) -> Result<AdmissionPermit> {
        let config = &self.counts.config;
        let owner = owner_of(grant);
        let caller = self.caller(owner);
        if !take(&self.counts.in_flight, 1, u64::from(config.max_in_flight)) {
            return Err(Error::new(
                ErrorCode::QueueFull,
                format!("{} predictions are in flight, the most this gateway takes; try again", config.max_in_flight),
            )
            .retry_after(Duration::from_secs(1)));
        }
        // From here on every way out gives the count back: the permit does.
        let mut permit = AdmissionPermit { counts: self.counts.clone(), owner, caller, rate: None };
        let most = own(grant.map(|grant| grant.max_in_flight), config.max_in_flight_per_key);
        if !take(&permit.caller.in_flight, 1, u64::from(most)) {
            // Counted as taken, so that the permit's drop balances it.
            permit.caller.in_flight.fetch_add(1, Relaxed);
            quota.set(Quota::requests(most));
            return Err(Error::new(
                ErrorCode::QuotaExceeded,
                format!("{most} requests of this caller are in flight, its limit; wait for one to end"),
            )
            .retry_after(Duration::from_secs(1)));
        }
        if let Some(rate) = self.rate_of(grant) {
            permit.caller.take(rate, 1, self.counts.elapsed_ns(now), quota)?;
            permit.rate = Some(rate);
        }
        Ok(permit)
    }

    /// Takes an admitted request out of the bucket that all gateways share, for a
    /// caller with a rate; nothing to do for others.
    ///
    /// # Errors
    /// `rate_limited` with `retry_after`.
    pub async fn settle_rate(&self, permit: &AdmissionPermit, queue: &dyn Queue, quota: &QuotaCell) -> Result<()> {
        let Some(rate) = permit.rate.filter(|_| permit.has_shared_rate()) else { return Ok(()) };
        shared_rate::take(queue, permit.owner, rate, 1, quota).await
    }

    /// Counts the other jobs of a call that turned out to be `jobs` of them: the
    /// first was counted at admission.
    ///
    /// # Errors
    /// `rate_limited` with `retry_after`; `payload_too_large` for more than the
    /// caller may ever have at once.
    pub async fn charge(&self, grant: Option<&Grant>, jobs: usize, queue: &dyn Queue, quota: &QuotaCell) -> Result<()> {
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
        let owner = owner_of(grant);
        self.caller(owner).take(rate, others, self.counts.elapsed_ns(Instant::now()), quota)?;
        match self.counts.config.shared_rate {
            true => shared_rate::take(queue, owner, rate, others, quota).await,
            false => Ok(()),
        }
    }

    /// Refuses a priority over this caller's highest.
    ///
    /// # Errors
    /// `permission_denied`, naming both.
    pub fn check_priority(&self, grant: Option<&Grant>, priority: u8) -> Result<()> {
        let most = grant.and_then(|grant| grant.max_priority).unwrap_or(self.counts.config.max_priority);
        if priority <= most {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::PermissionDenied,
            format!("priority {priority} is over this caller's highest, {most}; ask for at most that"),
        ))
    }

    fn rate_of(&self, grant: Option<&Grant>) -> Option<Rate> {
        let config = &self.counts.config;
        match grant {
            Some(grant) if grant.rate_per_s > 0.0 => Rate::new(grant.rate_per_s, grant.burst),
            _ => Rate::new(config.rate_per_s, config.burst),
        }
    }

    pub(super) fn caller(&self, owner: OwnerId) -> Arc<Caller> {
        if let Some(caller) = self.counts.callers.read().get(&owner) {
            return caller.clone();
        }
        let mut callers = self.counts.callers.write();
        if callers.len() >= CALLERS {
            let now_ns = self.counts.elapsed_ns(Instant::now());
            callers.retain(|_, caller| {
                let counted = [&caller.tat_ns, &caller.lookups_ns, &caller.tokens_ns];
                Arc::strong_count(caller) > 1 || counted.into_iter().any(|until_ns| until_ns.load(Relaxed) > now_ns)
            });
        }
        callers.entry(owner).or_default().clone()
    }
}

impl Counts {
    /// Nanoseconds of this process's clock.
    pub(super) fn elapsed_ns(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Caller {
    /// Takes `jobs` out of this gateway's bucket.
    fn take(&self, rate: Rate, jobs: u32, now_ns: u64, quota: &QuotaCell) -> Result<()> {
        let decision = decide(&self.tat_ns, rate, jobs, now_ns);
        quota.set(Quota::Rate(rate, decision));
        decision.judge(rate)
    }
}

/// Decides over a bucket that other threads decide over too.
pub(super) fn decide(bucket: &AtomicU64, rate: Rate, jobs: u32, now_ns: u64) -> Decision {
    let mut tat_ns = bucket.load(Relaxed);
    loop {
        let decision = rate.decide(tat_ns, now_ns, jobs);
        match bucket.compare_exchange_weak(tat_ns, decision.tat_ns, Relaxed, Relaxed) {
            Ok(_) => return decision,
            Err(newer) => tat_ns = newer,
        }
    }
}

impl AdmissionPermit {
    /// Whether [`Limits::settle_rate`] has something to ask.
    pub fn has_shared_rate(&self) -> bool {
        self.rate.is_some() && self.counts.config.shared_rate
    }
}

impl Drop for AdmissionPermit {
    fn drop(&mut self) {
        self.counts.in_flight.fetch_sub(1, Relaxed);
        self.caller.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Counts `more` unless that would pass `most` (0 is no limit).
pub(super) fn take(count: &AtomicU64, more: u64, most: u64) -> bool {
    count
        .fetch_update(Relaxed, Relaxed, |taken| {
            let next = taken.saturating_add(more);
            (most == 0 || next <= most).then_some(next)
        })
        .is_ok()
}

/// Whose the requests of a grant are; everybody's without one.
pub(super) fn owner_of(grant: Option<&Grant>) -> OwnerId {
    grant.map_or(OwnerId::ANONYMOUS, |grant| grant.owner)
}

/// A key's own limit where it has one.
pub(super) fn own(of_key: Option<u32>, default: u32) -> u32 {
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
            tokens_per_min: 0,
        }
    }

    fn code(result: Result<AdmissionPermit>) -> ErrorCode {
        let error = result.err().expect("refused");
        assert!(error.retry_after.is_some(), "{error}");
        error.code
    }

    #[test]
    fn permits_are_counted_and_given_back_whatever_happens() {
        let limits = Limits::new(LimitsConfig { max_in_flight: 3, ..LimitsConfig::default() });
        let (a, b, now) = (grant(1, 2, 0.0), grant(2, 0, 0.0), Instant::now());
        let first = limits.admit(Some(&a), &QuotaCell::default(), now).expect("in");
        let second = limits.admit(Some(&a), &QuotaCell::default(), now).expect("in");
        assert_eq!(code(limits.admit(Some(&a), &QuotaCell::default(), now)), ErrorCode::QuotaExceeded);
        assert_eq!(limits.in_flight(), 2, "a refusal gives its count back");
        let third = limits.admit(Some(&b), &QuotaCell::default(), now).expect("in");
        assert_eq!(code(limits.admit(Some(&b), &QuotaCell::default(), now)), ErrorCode::QueueFull);
        drop((first, third));
        assert_eq!(limits.in_flight(), 1);
        let again = limits.admit(Some(&a), &QuotaCell::default(), now).expect("in");
        drop((second, again));
        assert_eq!(limits.in_flight(), 0);
    }

    #[test]
    fn each_caller_has_its_own_rate() {
        let limits = Limits::new(LimitsConfig::default());
        let now = Instant::now();
        let (a, b) = (grant(1, 0, 1.0), grant(2, 0, 1.0));
        assert!(
            limits.admit(Some(&a), &QuotaCell::default(), now).is_ok()
                && limits.admit(Some(&a), &QuotaCell::default(), now).is_ok()
        );
        assert_eq!(code(limits.admit(Some(&a), &QuotaCell::default(), now)), ErrorCode::RateLimited);
        assert!(limits.admit(Some(&b), &QuotaCell::default(), now).is_ok());
        let later = now + Duration::from_secs(1);
        let quota = QuotaCell::default();
        assert!(limits.admit(Some(&a), &quota, later).is_ok(), "earned again");
        assert!(matches!(quota.get(), Some(Quota::Rate(_, Decision { remaining: 0, .. }))));
        assert!(limits.admit(None, &QuotaCell::default(), now).expect("no limit").rate.is_none());
    }

    #[test]
    fn threads_never_pass_the_limit_together() {
        let limits = Limits::new(LimitsConfig { max_in_flight: 5, ..LimitsConfig::default() });
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let permit = limits.admit(None, &QuotaCell::default(), Instant::now());
                        assert!(limits.in_flight() <= 5);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(limits.in_flight(), 0);
    }
}
