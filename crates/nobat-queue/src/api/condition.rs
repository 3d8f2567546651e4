//! Whether a store takes jobs at this moment, told by what happens to it and not
//! by asking it: what a readiness probe may read as often as it likes.
//!
//! A store holds one refusal a cause (a connection, a queue whose writes are
//! refused, a disk) and shows the oldest. Nothing here does I/O.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use nobat_core::Error;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Why, and since when, a store takes no jobs.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// When it began.
    pub since: Instant,
    /// `queue_unavailable`: what is wrong, with the remedy.
    pub error: Error,
}

/// Watches whether a store takes jobs. Cheap to clone; every clone remembers for
/// itself what it has seen.
#[derive(Clone, Debug)]
pub struct Condition {
    shown: watch::Receiver<Option<Arc<Refusal>>>,
}

impl Condition {
    /// Why the store takes no jobs; `None` while it does. Reads memory only.
    pub fn refusal(&self) -> Option<Arc<Refusal>> {
        self.shown.borrow().clone()
    }

    /// Resolves when the refusal is another one, or over, since this handle last
    /// waited; never, once the store is closed.
    ///
    /// # Cancel safety
    /// Cancel safe: a change that was not waited for is seen by the next call.
    pub async fn changed(&mut self) {
        if self.shown.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// What a store has against taking jobs, by cause.
#[derive(Debug)]
pub(crate) struct Refusals<C> {
    held: Mutex<BTreeMap<C, Arc<Refusal>>>,
    shown: watch::Sender<Option<Arc<Refusal>>>,
}

impl<C: Ord> Default for Refusals<C> {
    fn default() -> Refusals<C> {
        Refusals { held: Mutex::default(), shown: watch::Sender::new(None) }
    }
}

impl<C: Ord> Refusals<C> {
    pub(crate) fn watch(&self) -> Condition {
        Condition { shown: self.shown.subscribe() }
    }

    /// Holds `error` against the store until `cause` is cleared; since when stays,
    /// whatever it says meanwhile. Whether it is news.
    pub(crate) fn raise(&self, cause: C, error: Error) -> bool {
        let mut held = self.held.lock();
        let before = held.get(&cause);
        if before.is_some_and(|before| before.error.message == error.message) {
            return false;
        }
        let (since, new) = before.map_or((Instant::now(), true), |before| (before.since, false));
        held.insert(cause, Arc::new(Refusal { since, error }));
        self.show(&held);
        new
    }

    /// `cause` is over; for how long it was held, if it was.
    pub(crate) fn clear(&self, cause: &C) -> Option<Arc<Refusal>> {
        if self.is_empty() {
            return None;
        }
        let mut held = self.held.lock();
        let over = held.remove(cause);
        if over.is_some() {
            self.show(&held);
        }
        over
    }

    /// The causes that are held at this moment.
    pub(crate) fn causes(&self) -> Vec<C>
    where
        C: Clone,
    {
        self.held.lock().keys().cloned().collect()
    }

    /// Whether nothing is held against the store. Asked on every answered call: no lock
    /// but the one that a change takes.
    pub(crate) fn is_empty(&self) -> bool {
        self.shown.borrow().is_none()
    }

    /// Under the lock, so that what is shown is what is held.
    fn show(&self, held: &BTreeMap<C, Arc<Refusal>>) {
        self.shown.send_replace(held.values().min_by_key(|refusal| refusal.since).cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::ErrorCode;

    fn error(message: &str) -> Error {
        Error::new(ErrorCode::QueueUnavailable, message)
    }

    #[tokio::test]
    async fn the_oldest_cause_is_shown_until_the_last_is_over() {
        let refusals = Refusals::default();
        let mut condition = refusals.watch();
        assert!(condition.refusal().is_none());
        assert!(refusals.raise(1, error("a connection broke")));
        condition.changed().await;
        let since = condition.refusal().expect("refused").since;
        assert!(refusals.raise(2, error("no memory")));
        assert!(!refusals.raise(1, error("the connection cannot be opened")), "no news, but another word");
        let shown = condition.refusal().expect("refused");
        assert_eq!((shown.error.message.as_str(), shown.since), ("the connection cannot be opened", since));
        assert!(refusals.clear(&1).is_some());
        assert_eq!(condition.refusal().expect("refused").error.message, "no memory");
        assert!(refusals.clear(&1).is_none(), "over already");
        assert_eq!(refusals.causes(), [2]);
        refusals.clear(&2);
        condition.changed().await;
        assert!(condition.refusal().is_none());
    }
}
