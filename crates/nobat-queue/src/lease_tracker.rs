//! What a session has in hand of the queue: leases to keep alive, and settlements on their way.

use std::fmt;
use std::sync::Arc;

use nobat_core::JobId;
use nobat_core::job::{LeaseToken, LeasedJob, Settlement};
use parking_lot::Mutex;

/// What one session has in hand: settlements on their way to the store, and
/// the leases to keep alive meanwhile. Shared by the session's thread (which
/// leases and settles) and the renewer's (which reads the leases).
#[derive(Default)]
pub struct LeaseTracker {
    inner: Mutex<Tracked>,
    /// Takes settlements of what was never leased from the store.
    local: Option<LocalSettlements>,
}

/// Takes a settlement of a job that this process made for itself; gives back one of the store's.
pub type LocalSettlements = Arc<dyn Fn(Settlement) -> Option<Settlement> + Send + Sync>;

impl fmt::Debug for LeaseTracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.lock().fmt(f)
    }
}

#[derive(Debug, Default)]
struct Tracked {
    outbox: Vec<Settlement>,
    leases: Vec<Lease>,
    lost: Vec<Lease>,
}

/// One lease. A token alone names none: a store may give one to all the jobs of
/// a call.
pub type Lease = (JobId, LeaseToken);

impl LeaseTracker {
    /// A tracker whose settlements of the process's own jobs go to `local`, at once.
    pub fn with_local(local: LocalSettlements) -> LeaseTracker {
        LeaseTracker { local: Some(local), ..LeaseTracker::default() }
    }

    /// Puts a settlement out; it leaves with the backend's next cycle.
    pub fn settle(&self, settlement: Settlement) {
        if let Some(settlement) = self.of_store(settlement) {
            self.inner.lock().outbox.push(settlement);
        }
    }

    /// Puts many settlements out.
    pub fn settle_all(&self, settlements: &mut Vec<Settlement>) {
        if self.local.is_none() {
            self.inner.lock().outbox.append(settlements);
            return;
        }
        let mut of_store: Vec<Settlement> = settlements.drain(..).filter_map(|own| self.of_store(own)).collect();
        self.inner.lock().outbox.append(&mut of_store);
    }

    fn of_store(&self, settlement: Settlement) -> Option<Settlement> {
        match &self.local {
            Some(local) => local(settlement),
            None => Some(settlement),
        }
    }

    /// The leases held now.
    pub fn leases(&self) -> Vec<Lease> {
        self.inner.lock().leases.clone()
    }

    /// Marks leases as lost: their jobs are not worth running or settling.
    /// Returns those that were still held: one that was settled while the
    /// renewal was under way is not lost.
    pub fn mark_lost(&self, gone: &[Lease]) -> Vec<Lease> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let lost: Vec<Lease> = inner.leases.extract_if(.., |lease| gone.contains(lease)).collect();
        inner.lost.extend_from_slice(&lost);
        lost
    }

    /// Takes the leases that were lost since the last call: whoever holds their
    /// jobs lets go of them now, so nobody need remember them.
    pub fn take_lost(&self) -> Vec<Lease> {
        std::mem::take(&mut self.inner.lock().lost)
    }

    /// Notes newly leased jobs; the backend does so before its batcher sees them.
    pub fn add(&self, jobs: &[LeasedJob]) {
        let mut inner = self.inner.lock();
        inner.leases.extend(jobs.iter().map(|job| (job.id, job.token)));
    }

    /// Takes every settlement that is out.
    pub fn take_outbox(&self) -> Vec<Settlement> {
        std::mem::take(&mut self.inner.lock().outbox)
    }

    /// Whether a settlement is out.
    pub(crate) fn has_settlements(&self) -> bool {
        !self.inner.lock().outbox.is_empty()
    }

    /// Lets go of leases whose settlements the store has answered for.
    pub(crate) fn settled(&self, done: &[Lease]) {
        let mut inner = self.inner.lock();
        // The common case: everything held was one batch, settled in its order.
        if inner.leases == done {
            inner.leases.clear();
        } else {
            inner.leases.retain(|lease| !done.contains(lease));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(job: u128) -> Lease {
        (JobId { random: job, tombstone_min: 0, mac: 0, locator: 0 }, LeaseToken(7))
    }

    fn tracker(jobs: std::ops::Range<u128>) -> LeaseTracker {
        let tracker = LeaseTracker::default();
        tracker.inner.lock().leases.extend(jobs.map(lease));
        tracker
    }

    #[test]
    fn a_lost_lease_leaves_its_neighbours_of_one_token_alone() {
        let tracker = tracker(0..4);
        assert_eq!(tracker.mark_lost(&[lease(2), lease(9)]), [lease(2)]);
        assert_eq!(tracker.leases(), [lease(0), lease(1), lease(3)]);
        assert_eq!(tracker.take_lost(), [lease(2)]);
        assert!(tracker.take_lost().is_empty(), "told once");
    }

    #[test]
    fn leases_that_are_not_settled_yet_stay_to_be_renewed() {
        let tracker = tracker(0..4);
        tracker.settled(&[lease(0), lease(1)]);
        assert_eq!(tracker.leases(), [lease(2), lease(3)]);
        tracker.settled(&[lease(2), lease(3)]);
        assert!(tracker.leases().is_empty());
    }
}
