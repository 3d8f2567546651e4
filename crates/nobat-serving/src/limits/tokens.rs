//! Tokens that a caller's texts may have in a minute. They are known when a text has been
//! read, so they are paid afterwards: who has used up a minute's worth and more waits
//! until that is earned again.
//!
//! What a caller owes is kept here, and in the store for all gateways that share one: the larger holds. A store
//! that is away or slow has no say, as with rates ([`super::shared_rate`]).

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nobat_core::{Error, ErrorCode, OwnerId, Result};
use nobat_queue::Queue;

use super::limiter::{Limits, own, owner_of};
use super::shared_rate::PATIENCE;
use crate::auth::keyring::Grant;

const MINUTE_NS: u64 = 60_000_000_000;

impl Limits {
    /// Refuses a caller that is over its tokens.
    ///
    /// # Errors
    /// `rate_limited` with `retry_after`.
    pub async fn may_read(&self, grant: Option<&Grant>, queue: &dyn Queue) -> Result<()> {
        let Some(most) = self.tokens_per_min(grant) else { return Ok(()) };
        let owner = owner_of(grant);
        // Who is over the limit at one gateway is over it at all.
        self.judge_tokens(owner, most)?;
        self.owe(owner, Duration::ZERO, queue).await;
        self.judge_tokens(owner, most)
    }

    fn judge_tokens(&self, owner: OwnerId, most: u32) -> Result<()> {
        let paid_ns = self.caller(owner).tokens_ns.load(Relaxed);
        match wait(paid_ns, self.counts.elapsed_ns(Instant::now())) {
            None => Ok(()),
            Some(wait) => Err(Error::new(
                ErrorCode::RateLimited,
                format!("this caller's texts have used up its limit of {most} tokens a minute; slow down"),
            )
            .retry_after(wait)),
        }
    }

    /// Counts tokens of a caller's texts.
    pub async fn have_read(&self, grant: Option<&Grant>, tokens: u64, queue: &dyn Queue) {
        let Some(most) = self.tokens_per_min(grant) else { return };
        let (owner, now_ns) = (owner_of(grant), self.counts.elapsed_ns(Instant::now()));
        let pay = |paid_ns| Some(paid(paid_ns, now_ns, tokens, most));
        let _ = self.caller(owner).tokens_ns.fetch_update(Relaxed, Relaxed, pay);
        self.owe(owner, Duration::from_nanos(cost_ns(tokens, most)), queue).await;
    }

    /// Adds to what a caller owes in the store, and learns what others have added.
    async fn owe(&self, owner: OwnerId, more: Duration, queue: &dyn Queue) {
        if !self.counts.config.shared_rate {
            return;
        }
        let slow = |_| Error::new(ErrorCode::QueueUnavailable, "the store is slow");
        match tokio::time::timeout(PATIENCE, queue.owe_tokens(owner, more)).await.map_err(slow).flatten() {
            Ok(Some(debt)) => {
                let paid_ns = self.counts.elapsed_ns(Instant::now()).saturating_add(debt.as_nanos() as u64);
                self.caller(owner).tokens_ns.fetch_max(paid_ns, Relaxed);
            }
            Ok(None) => {}
            Err(error) => log::debug!("tokens are counted by this gateway alone: {error}"),
        }
    }

    fn tokens_per_min(&self, grant: Option<&Grant>) -> Option<u32> {
        Some(own(grant.map(|grant| grant.tokens_per_min), self.counts.config.tokens_per_min)).filter(|&most| most > 0)
    }
}

/// How long it takes to earn tokens.
fn cost_ns(tokens: u64, most: u32) -> u64 {
    u64::try_from(u128::from(tokens) * u128::from(MINUTE_NS) / u128::from(most)).unwrap_or(u64::MAX)
}

/// The instant at which all that was read is earned again, after `tokens` more.
fn paid(paid_ns: u64, now_ns: u64, tokens: u64, most: u32) -> u64 {
    paid_ns.max(now_ns).saturating_add(cost_ns(tokens, most))
}

/// How long to wait until less than a minute's worth is owed.
fn wait(paid_ns: u64, now_ns: u64) -> Option<Duration> {
    paid_ns.checked_sub(now_ns.saturating_add(MINUTE_NS)).filter(|&over| over > 0).map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use nobat_queue::QueueSettings;
    use nobat_queue::redis::RedisQueue;
    use nobat_testkit::RedisServer;
    use proptest::prelude::*;

    use super::*;
    use crate::limits::LimitsConfig;

    fn gateway(shared_rate: bool) -> Limits {
        Limits::new(LimitsConfig { tokens_per_min: 100, shared_rate, ..LimitsConfig::default() })
    }

    #[tokio::test]
    async fn what_a_caller_reads_at_one_gateway_counts_at_the_others() {
        let server = RedisServer::start(&[]);
        let queue = RedisQueue::connect(&server.url(), QueueSettings::default(), "nobat").await.expect("opens");
        let (one, other, alone) = (gateway(true), gateway(true), gateway(false));
        for limits in [&one, &other, &alone] {
            limits.may_read(None, &*queue).await.expect("nothing was read");
        }
        one.have_read(None, 60, &*queue).await;
        other.have_read(None, 30, &*queue).await;
        one.may_read(None, &*queue).await.expect("less than a minute's worth");
        other.have_read(None, 300, &*queue).await;
        for limits in [&one, &other] {
            let refused = limits.may_read(None, &*queue).await.expect_err("390 of 100 a minute");
            let wait = refused.retry_after.expect("it says when");
            assert!(
                refused.code == ErrorCode::RateLimited && wait.as_secs() >= 160 && wait.as_secs() <= 174,
                "{wait:?}"
            );
        }
        alone.may_read(None, &*queue).await.expect("it counts by itself");
        drop(server);
        // A store that is away leaves it at what is known here.
        other.may_read(None, &*queue).await.expect_err("known here too");
        gateway(true).may_read(None, &*queue).await.expect("nothing is known");
    }

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
