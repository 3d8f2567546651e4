//! Tokens that a caller's texts may have in a minute. They are known when a text has been
//! read, so they are paid afterwards: who has used up a minute's worth and more waits
//! until that is earned again. Like every count but the shared rate it is this gateway's own.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nobat_core::{Error, ErrorCode, Result};

use super::limiter::{Limits, own, owner_of};
use crate::auth::keyring::Grant;

const MINUTE_NS: u64 = 60_000_000_000;

impl Limits {
    /// Refuses a caller that is over its tokens.
    ///
    /// # Errors
    /// `rate_limited` with `retry_after`.
    pub fn may_read(&self, grant: Option<&Grant>, now: Instant) -> Result<()> {
        let Some(most) = self.tokens_per_min(grant) else { return Ok(()) };
        let paid_ns = self.caller(owner_of(grant)).tokens_ns.load(Relaxed);
        match wait(paid_ns, self.counts.elapsed_ns(now)) {
            None => Ok(()),
            Some(wait) => Err(Error::new(
                ErrorCode::RateLimited,
                format!("this caller's texts have used up its limit of {most} tokens a minute; slow down"),
            )
            .retry_after(wait)),
        }
    }

    /// Counts tokens of a caller's texts.
    pub fn have_read(&self, grant: Option<&Grant>, tokens: u64, now: Instant) {
        let Some(most) = self.tokens_per_min(grant) else { return };
        let (caller, now_ns) = (self.caller(owner_of(grant)), self.counts.elapsed_ns(now));
        let _ = caller.tokens_ns.fetch_update(Relaxed, Relaxed, |paid_ns| Some(paid(paid_ns, now_ns, tokens, most)));
    }

    fn tokens_per_min(&self, grant: Option<&Grant>) -> Option<u32> {
        Some(own(grant.map(|grant| grant.tokens_per_min), self.counts.config.tokens_per_min)).filter(|&most| most > 0)
    }
}

/// The instant at which all that was read is earned again, after `tokens` more.
fn paid(paid_ns: u64, now_ns: u64, tokens: u64, most: u32) -> u64 {
    let cost_ns = u128::from(tokens) * u128::from(MINUTE_NS) / u128::from(most);
    paid_ns.max(now_ns).saturating_add(u64::try_from(cost_ns).unwrap_or(u64::MAX))
}

/// How long to wait until less than a minute's worth is owed.
fn wait(paid_ns: u64, now_ns: u64) -> Option<Duration> {
    paid_ns.checked_sub(now_ns.saturating_add(MINUTE_NS)).filter(|&over| over > 0).map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn over_any_time_a_caller_reads_no_more_than_its_limit_and_one_request(
            most in 1u32..100_000, requests in prop::collection::vec((0u64..30_000_000_000, 1u64..5_000), 1..200),
        ) {
            let (mut now_ns, mut paid_ns, mut read, mut largest) = (0, 0, 0u64, 0);
            for (pause_ns, tokens) in requests {
                now_ns += pause_ns;
                if wait(paid_ns, now_ns).is_none() {
                    paid_ns = paid(paid_ns, now_ns, tokens, most);
                    read += tokens;
                    largest = largest.max(tokens);
                }
                let earned = u128::from(now_ns + MINUTE_NS) * u128::from(most) / u128::from(MINUTE_NS);
                prop_assert!(u128::from(read) <= earned + u128::from(largest) + 1);
            }
            let owed = wait(paid_ns, now_ns).unwrap_or_default().as_nanos() as u64;
            prop_assert!(wait(paid_ns, now_ns + owed).is_none(), "after the wait it may go on");
        }
    }
}
