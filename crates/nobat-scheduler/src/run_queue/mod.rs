//! What carries a run from the scheduler that saw its tick to the one that
//! carries it out. The run is a timer in the metadata store. Around one plain Redis server
//! apalis-redis carries it between processes (`redis`); around a cluster, Sentinel
//! and the embedded store the timer itself does.
//!
//! ```text
//! push -> timer ─┬─ apalis-redis ─┬─> its key taken -> the handler
//!                └─ due -> taken ─┘      └─ renewed ────────┘ -> mark
//! ```
//!
//! Invariants:
//! - Time is the store's: a host whose clock is wrong neither delays a run nor
//!   carries out one that another process is carrying out.
//! - A key is new once, in the very call that stores the run. A run is carried out by
//!   whoever swaps its timer's value for one of their own, whichever way it came, and
//!   the key stays for [`KEPT`] after the run has ended.
//! - A run whose process died is due again when its lease ends: at least once. One
//!   that is stopped in good order is due again at once.

mod leases;
mod redis;
mod timers;

use std::sync::Arc;
use std::time::Duration;

use nobat_core::Result;
use nobat_queue::MetadataStore;
use nobat_queue::redis::single_server;
use tokio::sync::{Notify, watch};

use crate::run::{Handler, RunRequest};
use leases::{DONE, KEPT, RUNS, RunLeases};

/// What a `vacuum` leaves of a key's time at least.
const KEPT_LEAST: Duration = Duration::from_secs(3_600);
/// Marks looked at by one `vacuum`.
const MOST_MARKS: usize = 100_000;

/// The way of runs between schedulers. Cheap to clone.
#[derive(Clone)]
pub struct RunQueue {
    leases: RunLeases,
    /// Rung when this process pushed a run.
    pushed: Arc<Notify>,
    /// apalis-redis, beside the metadata store's timers, which carry what it does not.
    redis: Option<redis::Server>,
}

impl RunQueue {
    /// A queue over a deployment's metadata store alone.
    pub fn new(metadata: Arc<dyn MetadataStore>) -> RunQueue {
        RunQueue { leases: RunLeases::new(metadata), pushed: Arc::default(), redis: None }
    }

    /// The queue of a deployment around the Redis at `url`, or none.
    pub fn around(metadata: Arc<dyn MetadataStore>, url: &str, prefix: &str) -> RunQueue {
        let redis = single_server(url).map(|url| redis::Server::new(url, prefix));
        RunQueue { redis, ..RunQueue::new(metadata) }
    }

    /// Takes a run; `false` when its key was taken before. Durable when it returns.
    ///
    /// # Errors
    /// `queue_unavailable`; asking again is safe.
    pub async fn push(&self, run: &RunRequest) -> Result<bool> {
        let (metadata, json) = (&self.leases.metadata, run.to_json()?);
        let server = match &self.redis {
            Some(server) if redis::is_right(&**metadata).await? => Some(server),
            _ => None,
        };
        // Killed right after this, or without luck below: the timer carries it.
        let delay = if server.is_some() { redis::HANDOVER } else { Duration::ZERO };
        let new = metadata.add_timer(RUNS, &run.key, &json, delay).await?;
        match server {
            _ if !new => {}
            None => self.pushed.notify_one(),
            Some(server) => {
                if let Err(error) = server.push(&run.key, json).await {
                    log::debug!("periodic: the metadata store carries a run that apalis-redis did not take: {error}");
                }
            }
        }
        Ok(new)
    }

    /// Carries runs out until `stop` is true. A run that panics ends its own task
    /// only. An apalis worker's future is not provably `Send`: block a thread on this.
    pub async fn work(self, name: String, handler: Handler, stop: watch::Receiver<bool>) {
        let (mut stopped, leases) = (stop.clone(), &self.leases);
        let timers = async {
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => {}
                () = timers::work(leases, &self.pushed, &handler) => {}
            }
        };
        let beside = async {
            if let Some(server) = &self.redis {
                server.work(&name, leases, &handler, stop).await;
            }
        };
        futures::join!(timers, beside);
        leases.give_back().await;
    }

    /// Forgets the keys of runs that ended more than `keep` ago, an hour at least;
    /// how many. After a day they are forgotten without it.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn vacuum(&self, keep: Duration) -> Result<usize> {
        let keep = keep.max(KEPT_LEAST);
        if let Some(server) = &self.redis {
            server.vacuum(keep).await?;
        }
        let (metadata, mut forgotten) = (&self.leases.metadata, 0);
        for (mark, left) in metadata.timers(RUNS, MOST_MARKS).await? {
            if mark.value == DONE && KEPT.saturating_sub(left) >= keep {
                forgotten += usize::from(metadata.remove_timer(RUNS, &mark.key).await?);
            }
        }
        Ok(forgotten)
    }
}
