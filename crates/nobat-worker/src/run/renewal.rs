//! Keeps the leases of every session alive, from one thread that no inference
//! can starve, and ends the run of a job whose lease is lost while it runs alone.

use std::sync::{Arc, Weak};
use std::time::Duration;

use nobat_queue::Queue;
use nobat_queue::backend::{Lease, LeaseTracker};
use nobat_queue::{Renewal, Renewer};
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::watch;

use crate::watchdog::Watchdog;

/// Every session's tracker, by the queue it leases from.
#[derive(Clone, Default)]
pub(crate) struct LeaseTrackers(Arc<Mutex<Vec<(SmolStr, Weak<LeaseTracker>)>>>);

impl LeaseTrackers {
    /// Adds a session's tracker, which is forgotten when the session is dropped.
    pub(crate) fn add(&self, model: SmolStr, tracker: &Arc<LeaseTracker>) {
        self.0.lock().push((model, Arc::downgrade(tracker)));
    }

    /// Leases that are held now.
    pub(crate) fn held(&self) -> usize {
        self.live().iter().map(|(_, tracker)| tracker.leases().len()).sum()
    }

    fn live(&self) -> Vec<(SmolStr, Arc<LeaseTracker>)> {
        let mut trackers = self.0.lock();
        trackers.retain(|(_, tracker)| tracker.strong_count() > 0);
        trackers.iter().filter_map(|(model, tracker)| Some((model.clone(), tracker.upgrade()?))).collect()
    }
}

/// Starts the renewing thread; it ends when `stop` turns true or is dropped.
pub(crate) fn start(
    queue: Arc<dyn Queue>,
    trackers: LeaseTrackers,
    watchdog: Watchdog,
    stop: watch::Receiver<bool>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name("nobat-renew".into())
        .spawn(move || runtime.block_on(renew(queue, trackers, watchdog, stop)))
}

async fn renew(queue: Arc<dyn Queue>, trackers: LeaseTrackers, watchdog: Watchdog, mut stop: watch::Receiver<bool>) {
    // A third of the lease leaves two more chances after a failed call.
    let every = Duration::from_millis(u64::from(queue.settings().lease_ms) / 3).max(Duration::from_millis(10));
    let mut renewer: Option<Box<dyn Renewer>> = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = stop.wait_for(|&stop| stop) => return,
        }
        for (model, tracker) in trackers.live() {
            let leases = tracker.leases();
            if leases.is_empty() {
                continue;
            }
            if renewer.is_none() {
                renewer = queue.renewer().await.inspect_err(|error| log::warn!("cannot renew leases: {error}")).ok();
            }
            let Some(open) = renewer.as_mut() else { break };
            match open.renew(&model, &leases).await {
                Ok(answers) => {
                    let lost: Vec<Lease> = (leases.iter().zip(answers))
                        .filter(|(_, answer)| *answer == Renewal::Lost)
                        .map(|(lease, _)| *lease)
                        .collect();
                    let lost = tracker.mark_lost(&lost);
                    if !lost.is_empty() {
                        log::info!(model = model.as_str(), jobs = lost.len(); "leases lost or jobs cancelled");
                        watchdog.end(&lost);
                    }
                }
                Err(error) => {
                    log::warn!(model = model.as_str(), leases = leases.len(); "cannot renew leases: {error}");
                    renewer = None;
                }
            }
        }
    }
}
