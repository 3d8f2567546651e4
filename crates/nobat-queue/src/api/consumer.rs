//! A worker's end of one queue: leases, their settlement and their renewal.

use std::time::Duration;

use async_trait::async_trait;
use nobat_core::job::{LeaseToken, LeasedJob, Settlement};
use nobat_core::{JobId, Result};

/// How long a lease lasts unless renewed.
pub const LEASE: Duration = Duration::from_secs(15);
/// How often a held lease is renewed.
pub const RENEW_EVERY: Duration = Duration::from_secs(5);
/// A job whose worker died this often is quarantined as dead.
pub const MAX_DEATHS: u32 = 3;
/// A job with this many deaths is on its last chance: of a queue's, one at a time is
/// under lease. Jobs that were at hand each time when another one killed their
/// process would be quarantined with it otherwise.
pub const LAST_CHANCE: u32 = MAX_DEATHS - 1;
/// How long a job on its last chance waits, at a time, while another one runs.
pub const POSTPONED: Duration = Duration::from_millis(50);
/// A silence of less than this is no outage, however short the leases are: a machine
/// under load stands still for as long.
pub const SILENCE_MIN: Duration = Duration::from_secs(2);
/// Most expired leases one call takes back, and most due jobs it promotes.
pub const SWEEP_LIMIT: usize = 100;

/// What one call of [`Consumer::settle_and_lease`] brought.
#[derive(Debug, Default)]
pub struct LeaseReply {
    /// Newly leased jobs, in the order to run them.
    pub leased: Vec<LeasedJob>,
    /// Settlements that were refused: the lease was lost or the job cancelled.
    pub refused: Vec<JobId>,
    /// Whether ready jobs are left in the queue.
    pub more: bool,
}

/// A worker session's end of one queue.
#[async_trait]
pub trait Consumer: Send {
    /// Settles and leases up to `want` jobs in one round trip; also promotes
    /// due jobs and takes back expired leases, bounded. Never waits for work.
    /// Settlements are kept and sent again by the implementation until the
    /// store answered, so an error never loses one: call again.
    async fn settle_and_lease(&mut self, settle: Vec<Settlement>, want: usize) -> Result<LeaseReply>;

    /// As [`Consumer::settle_and_lease`], of nothing but what [ranks](nobat_core::score::rank)
    /// above `level` by now: for a caller that is full of what ranks no higher.
    async fn settle_and_lease_above(&mut self, settle: Vec<Settlement>, want: usize, level: i16) -> Result<LeaseReply>;

    /// As [`Consumer::settle_and_lease`], for a caller that holds nothing and goes on
    /// to [`Consumer::idle`]: should nothing be ready, up to `want` jobs may be leased
    /// and pushed to this consumer as soon as they are enqueued. The next call of
    /// either kind brings them.
    async fn settle_and_lease_or_wait(&mut self, settle: Vec<Settlement>, want: usize) -> Result<LeaseReply> {
        self.settle_and_lease(settle, want).await
    }

    /// Whether jobs may have been pushed to this consumer since its last call: it must
    /// be called once more before it is dropped, or they wait for their lease's end.
    fn is_waiting(&self) -> bool {
        false
    }

    /// Waits until there may be work. Never fails: while the store is away it
    /// waits for it to come back.
    ///
    /// # Cancel safety
    /// Cancel safe: a wake-up taken and then dropped is put back.
    async fn idle(&mut self);
}

/// What became of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Ours for another lease length.
    Renewed,
    /// Expired and taken back, or cancelled: stop working on it.
    Lost,
}

/// Keeps leases alive from a thread that inference cannot starve.
#[async_trait]
pub trait Renewer: Send {
    /// Renews leases of `model`'s queue; the answers are in the same order.
    async fn renew(&mut self, model: &str, leases: &[(JobId, LeaseToken)]) -> Result<Vec<Renewal>>;
}
