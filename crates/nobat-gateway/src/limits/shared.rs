//! A caller's rate over all gateways: one bucket in the store they share.
//!
//! The gateway's own bucket decides first ([`super::Limits::admit`]): who is over
//! the rate at one gateway is over it at all, and a flood never reaches the
//! store. A store that is away or slow leaves the decision at that.

use std::time::Duration;

use nobat_core::Result;
use nobat_queue::Queue;

use super::{Permit, over};

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
    pub async fn settle_rate(&mut self, queue: &dyn Queue) -> Result<()> {
        let Some((rate, _)) = self.rate.filter(|_| self.has_shared_rate()) else { return Ok(()) };
        let asked = queue.take_rate(self.owner, rate.interval(), rate.window());
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
        let decision = rate.told(taken.allowed, taken.debt);
        if !decision.allowed {
            return Err(over(rate, decision));
        }
        self.rate = Some((rate, decision));
        Ok(())
    }
}
