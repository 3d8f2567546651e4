//! Bytes of request bodies in memory, all callers together and each by itself.
//!
//! The number of requests in flight bounds what small bodies take; what large ones
//! take is bounded here. A body that declares its length is counted before it is
//! read, another as it arrives or is inflated. Like every limit it refuses and never
//! waits. What is counted is given back when the request ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use nobat_core::{Error, ErrorCode, Result};

use super::limiter::{Caller, Counts, Limits, take};
use super::quota::{Quota, QuotaCell};
use crate::auth::keyring::Grant;

/// Bodies up to here are bounded by their number (`limits.max_in_flight`): counting
/// their bytes would cost a small request more than it is worth.
pub const COUNTED_FROM: u64 = 64 << 10;

/// What one request's body takes; given back on drop.
pub struct HeldBytes {
    counts: Arc<Counts>,
    /// Who is counted by itself: a caller with a key.
    caller: Option<Arc<Caller>>,
    bytes: AtomicU64,
    /// Bytes that have arrived, counted or not.
    arrived: AtomicU64,
}

impl std::fmt::Debug for HeldBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HeldBytes({})", self.bytes.load(Relaxed))
    }
}

impl Limits {
    /// Starts to count the bytes of one request.
    pub fn hold_bytes(&self, grant: Option<&Grant>) -> HeldBytes {
        let caller = grant.map(|grant| self.caller(grant.owner));
        HeldBytes { counts: self.counts.clone(), caller, bytes: AtomicU64::new(0), arrived: AtomicU64::new(0) }
    }

    /// Bytes of bodies that are counted now.
    pub fn bytes_in_flight(&self) -> u64 {
        self.counts.bytes.load(Relaxed)
    }
}

impl HeldBytes {
    /// Counts until this request's body takes `bytes`; less than before changes
    /// nothing.
    ///
    /// # Errors
    /// `queue_full` (ours) and `quota_exceeded` (the caller's), with `retry_after`.
    pub fn reach(&self, bytes: u64, quota: &QuotaCell) -> Result<()> {
        let held = self.bytes.load(Relaxed);
        if bytes <= held || bytes <= COUNTED_FROM {
            return Ok(());
        }
        let more = bytes - held;
        let config = &self.counts.config;
        if let Some(caller) = &self.caller
            && !take(&caller.bytes, more, config.max_body_bytes_in_flight_per_key)
        {
            quota.set(Quota::bytes(config.max_body_bytes_in_flight_per_key));
            return Err(full(
                ErrorCode::QuotaExceeded,
                "this caller's requests",
                config.max_body_bytes_in_flight_per_key,
                "wait for one to end",
            ));
        }
        if !take(&self.counts.bytes, more, config.max_body_bytes_in_flight) {
            if let Some(caller) = &self.caller {
                caller.bytes.fetch_sub(more, Relaxed);
            }
            return Err(full(
                ErrorCode::QueueFull,
                "requests in flight",
                config.max_body_bytes_in_flight,
                "try again, or raise `limits.max_body_bytes_in_flight`",
            ));
        }
        self.bytes.store(bytes, Relaxed);
        Ok(())
    }

    /// Counts `more` bytes that have arrived.
    ///
    /// # Errors
    /// As [`HeldBytes::reach`].
    pub fn grow(&self, more: u64, quota: &QuotaCell) -> Result<()> {
        self.reach(self.arrived.fetch_add(more, Relaxed).saturating_add(more), quota)
    }

    /// Counts `more` bytes beside the body's: what was fetched for the request.
    ///
    /// # Errors
    /// As [`HeldBytes::reach`].
    pub fn add(&self, more: u64, quota: &QuotaCell) -> Result<()> {
        self.reach(self.bytes.load(Relaxed).saturating_add(more), quota)
    }

    /// Gives everything back: the next message of the same call begins.
    pub fn release(&self) {
        self.arrived.store(0, Relaxed);
        let bytes = self.bytes.swap(0, Relaxed);
        self.counts.bytes.fetch_sub(bytes, Relaxed);
        if let Some(caller) = &self.caller {
            caller.bytes.fetch_sub(bytes, Relaxed);
        }
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.release();
    }
}

fn full(code: ErrorCode, whose: &str, most: u64, remedy: &str) -> Error {
    Error::new(code, format!("the bodies of {whose} would take more than {most} bytes of memory; {remedy}"))
        .retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Scope;
    use crate::limits::LimitsConfig;

    const MIB: u64 = 1 << 20;

    fn limits(most: u64, per_key: u64) -> Limits {
        Limits::new(LimitsConfig {
            max_body_bytes_in_flight: most,
            max_body_bytes_in_flight_per_key: per_key,
            ..LimitsConfig::default()
        })
    }

    fn grant(owner: u64) -> Grant {
        Grant {
            owner: nobat_core::OwnerId(owner),
            name: "k".into(),
            scope: Scope::Predict,
            models: vec!["*".into()],
            rate_per_s: 0.0,
            burst: 0,
            max_in_flight: 0,
            tokens_per_min: 0,
            max_priority: None,
            webhook: None,
        }
    }

    #[test]
    fn bodies_are_bounded_together_and_each_caller_by_itself() {
        let limits = limits(10 * MIB, 6 * MIB);
        let (a, b, quota) = (grant(1), grant(2), QuotaCell::default());
        let first = limits.hold_bytes(Some(&a));
        first.reach(5 * MIB, &quota).expect("in");
        first.reach(4 * MIB, &quota).expect("it has that already");
        let second = limits.hold_bytes(Some(&a));
        let refused = second.reach(2 * MIB, &quota).expect_err("over its own");
        assert_eq!(refused.code, ErrorCode::QuotaExceeded);
        assert!(refused.retry_after.is_some() && quota.get() == Some(Quota::bytes(6 * MIB)));
        let third = limits.hold_bytes(Some(&b));
        assert_eq!(third.reach(6 * MIB, &quota).expect_err("over all").code, ErrorCode::QueueFull);
        assert_eq!(limits.bytes_in_flight(), 5 * MIB, "a refusal gives back what it took");
        third.reach(5 * MIB, &quota).expect("just fits");
        let anonymous = limits.hold_bytes(None);
        assert!(anonymous.reach(MIB, &quota).is_err());
        anonymous.reach(COUNTED_FROM, &quota).expect("small ones are bounded by their number");
        drop((first, second));
        anonymous.reach(MIB, &quota).expect("given back");
        third.release();
        drop((third, anonymous));
        assert_eq!(limits.bytes_in_flight(), 0);
    }

    #[test]
    fn threads_never_pass_the_limit_together() {
        let limits = limits(8 * MIB, 0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let quota = QuotaCell::default();
                    for round in 0..2_000 {
                        let held = limits.hold_bytes(None);
                        let _ = held.reach((1 + round % 4) * MIB, &quota);
                        assert!(limits.bytes_in_flight() <= 8 * MIB);
                    }
                });
            }
        });
        assert_eq!(limits.bytes_in_flight(), 0);
    }
}
