//! A caller's rate over all gateways: one bucket in the store they share.
//!
//! The gateway's own bucket decides first ([`super::Limits::admit`]): who is over
//! the rate at one gateway is over it at all, and a flood never reaches the
//! store. A store that is away or slow leaves the decision at that.

use std::time::Duration;

use nobat_core::{OwnerId, Result};
use nobat_queue::Queue;

use super::{Permit, Quota, Rate, over};
use crate::context::Notes;

/// A store that takes longer has no say.
const PATIENCE: Duration = Duration::from_millis(250);

impl Permit {
    /// Whether [`Permit::settle_rate`] has something to ask.
    pub fn has_shared_rate(&self) -> bool {
        self.rate.is_some() && self.shared.config.shared_rate
    }

    /// Takes this request out of the bucket that all gateways share, for a
    /// caller with a rate; nothing to do for others.
    ///
    /// # Errors
    /// `rate_limited` with `retry_after`.
    pub async fn settle_rate(&mut self, queue: &dyn Queue, notes: &Notes) -> Result<()> {
        let Some(rate) = self.rate.filter(|_| self.has_shared_rate()) else { return Ok(()) };
        take(queue, self.owner, rate, 1, notes).await
    }
}

/// Takes `jobs` out of a caller's shared bucket.
pub(super) async fn take(queue: &dyn Queue, owner: OwnerId, rate: Rate, jobs: u32, notes: &Notes) -> Result<()> {
    // The bucket counts in time: so many jobs are one of so many intervals.
    let asked = queue.take_rate(owner, rate.interval().saturating_mul(jobs), rate.window());
    let taken = match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(Some(taken))) => taken,
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(error)) => {
            log::debug!("a rate is counted by this gateway alone: {error}");
            return Ok(());
        }
        Err(_) => {
            log::debug!("a rate is counted by this gateway alone: the store is slow");
            return Ok(());
        }
    };
    let decision = rate.told(taken.allowed, taken.debt, jobs);
    notes.set_quota(Quota::Rate(rate, decision));
    if decision.allowed { Ok(()) } else { Err(over(rate, decision)) }
}
