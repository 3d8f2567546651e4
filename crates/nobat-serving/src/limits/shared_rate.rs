//! A caller's rate over all gateways: one bucket in the store they share.
//!
//! The gateway's own bucket decides first ([`super::Limits::admit`]): who is over
//! the rate at one gateway is over it at all, and a flood never reaches the
//! store. A store that is away or slow leaves the decision at that.

use std::time::Duration;

use nobat_core::{Error, ErrorCode, OwnerId, Result};
use nobat_queue::Queue;

use super::gcra::Rate;
use super::quota::{Quota, QuotaCell};

/// A store that takes longer has no say.
pub(super) const PATIENCE: Duration = Duration::from_millis(250);

/// Takes `jobs` out of a caller's shared bucket.
pub(super) async fn take(queue: &dyn Queue, owner: OwnerId, rate: Rate, jobs: u32, quota: &QuotaCell) -> Result<()> {
    // The bucket counts in time: so many jobs are one of so many intervals.
    let asked = queue.take_rate(owner, rate.interval().saturating_mul(jobs), rate.window());
    let slow = |_| Error::new(ErrorCode::QueueUnavailable, "the store is slow");
    let taken = match tokio::time::timeout(PATIENCE, asked).await.map_err(slow).flatten() {
        Ok(Some(taken)) => taken,
        Ok(None) => return Ok(()),
        Err(error) => {
            log::debug!("a rate is counted by this gateway alone: {error}");
            return Ok(());
        }
    };
    let decision = rate.told(taken.allowed, taken.debt, jobs);
    quota.set(Quota::Rate(rate, decision));
    decision.judge(rate)
}
