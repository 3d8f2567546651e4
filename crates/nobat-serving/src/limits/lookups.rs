//! How often a caller may ask for jobs that are not its own, or not there.
//!
//! An id's check is 32 bits (`nobat_core::id`): who may try without end finds one
//! that passes. Only failures count, and who is over the limit is refused before its
//! next id is looked at, right or wrong: an answer would be what it guesses for.
//! Without keys every job is everybody's, and nothing is counted.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nobat_core::{Error, ErrorCode, Result};

use super::gcra::Rate;
use super::limiter::{Limits, decide};
use crate::auth::keyring::Grant;

impl Limits {
    /// Refuses a caller that has failed too often of late.
    ///
    /// # Errors
    /// `rate_limited` with `retry_after`.
    pub fn may_look_up(&self, grant: Option<&Grant>, now: Instant) -> Result<()> {
        let (Some(grant), Some(rate)) = (grant, self.lookup_rate()) else { return Ok(()) };
        let caller = self.caller(grant.owner);
        let decision = rate.decide(caller.lookups_ns.load(Relaxed), self.counts.elapsed_ns(now), 1);
        if decision.allowed {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::RateLimited,
            format!(
                "this caller asked for {} jobs that are not there in a minute; check its ids, and come again later",
                rate.burst()
            ),
        )
        .retry_after(decision.retry_after.max(Duration::from_secs(1))))
    }

    /// Counts a look-up that failed.
    pub fn lookup_failed(&self, grant: Option<&Grant>, now: Instant) {
        if let (Some(grant), Some(rate)) = (grant, self.lookup_rate()) {
            decide(&self.caller(grant.owner).lookups_ns, rate, 1, self.counts.elapsed_ns(now));
        }
    }

    fn lookup_rate(&self) -> Option<Rate> {
        let per_min = self.counts.config.failed_lookups_per_min;
        Rate::new(f64::from(per_min) / 60.0, per_min)
    }
}
