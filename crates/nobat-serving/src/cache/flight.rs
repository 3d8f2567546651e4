//! Single flight: identical requests in the air become one run.
//!
//! The first request of a key leads, the others follow. What followers get when
//! the leader does not succeed:
//! - a failure that the model or the service gave (`inference_failed`,
//!   `queue_full`, ...) is theirs as well: a thousand retries of it would be a
//!   storm, and their turn would end the same;
//! - a failure that was the leader's own (its deadline, its rate, its
//!   cancelling, its client leaving) is not: one follower takes over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use nobat_core::{ErrorCode, Result};
use tokio::sync::watch;

use super::key::CacheKey;

/// How a flight ended, as its followers see it; `None` while it is in the air.
type Landing = Option<Result<Bytes>>;

/// The keys in the air. A clone-able handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Flights {
    table: Arc<Mutex<HashMap<CacheKey, watch::Receiver<Landing>>>>,
}

impl Flights {
    /// The flight of `key`, to lead or to follow.
    pub(super) fn join(&self, key: CacheKey) -> std::result::Result<Flight, Follower> {
        let mut table = self.table();
        match table.get(&key) {
            Some(landing) => Err(Follower { landing: landing.clone() }),
            None => {
                let (sender, landing) = watch::channel(None);
                table.insert(key, landing);
                Ok(Flight { flights: self.clone(), key, sender })
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<CacheKey, watch::Receiver<Landing>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The leader's side of a run. Dropped without landing (its client left, its
/// task was cancelled), it lets a follower take over.
#[derive(Debug)]
pub struct Flight {
    flights: Flights,
    key: CacheKey,
    sender: watch::Sender<Landing>,
}

impl Flight {
    /// Tells the followers how the run ended; what was kept of it is kept by now.
    pub(super) fn land(self, outcome: Result<Bytes>) {
        if !matches!(&outcome, Err(error) if is_the_leaders_own(error.code)) {
            self.sender.send_replace(Some(outcome));
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.table().remove(&self.key);
    }
}

/// A follower's side.
#[derive(Debug)]
pub struct Follower {
    landing: watch::Receiver<Landing>,
}

impl Follower {
    /// Waits for the leader. `None`: it left or failed on its own account; join
    /// again, and perhaps lead.
    ///
    /// # Cancel safety
    /// Cancel safe; the flight goes on.
    pub async fn wait(mut self) -> Option<Result<Bytes>> {
        match self.landing.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone(),
            Err(_gone) => None,
        }
    }
}

fn is_the_leaders_own(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::DeadlineExceeded | ErrorCode::JobCancelled | ErrorCode::RateLimited | ErrorCode::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Source;
    use nobat_core::Error;

    const KEY: CacheKey = CacheKey { source: Source(1), content: 1 };

    fn lead_and_follow(flights: &Flights) -> (Flight, Follower) {
        match (flights.join(KEY), flights.join(KEY)) {
            (Ok(flight), Err(follower)) => (flight, follower),
            other => panic!("expected one of each, got {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_leader_that_leaves_hands_over_to_a_follower() {
        let flights = Flights::default();
        let (flight, follower) = lead_and_follow(&flights);
        drop(flight);
        assert!(follower.wait().await.is_none());
        assert!(flights.join(KEY).is_ok());
    }

    #[tokio::test]
    async fn followers_share_the_models_failure_but_not_the_leaders_deadline() {
        let flights = Flights::default();
        let fail = |code| Err(Error::new(code, "it failed"));
        let (flight, follower) = lead_and_follow(&flights);
        flight.land(fail(ErrorCode::InferenceFailed));
        let shared = follower.wait().await.expect("shared").expect_err("a failure");
        assert_eq!(shared.code, ErrorCode::InferenceFailed);

        let (flight, follower) = lead_and_follow(&flights);
        flight.land(fail(ErrorCode::DeadlineExceeded));
        assert!(follower.wait().await.is_none());
    }
}
