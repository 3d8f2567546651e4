//! When this gateway can serve: after its start, while its store takes jobs, until
//! it drains.
//!
//! The start is over once every model that was configured has been loaded or has
//! failed for good. Under `nobat serve` those are its worker's; a gateway of its own
//! takes the models of the workers that are there. From then on a model that is
//! loaded anew is no reason: its callers wait for it, the others are served.

use std::sync::atomic::{AtomicBool, Ordering};

use nobat_core::signature::ModelState;
use smol_str::SmolStr;
use tokio::sync::watch;

use crate::registry::Snapshot;

/// Whether the start is over, and who is told when readiness changes.
#[derive(Default)]
pub struct Readiness {
    /// The worker whose models are awaited; `None`: those of every live worker.
    expected: Option<SmolStr>,
    started: AtomicBool,
    told: watch::Sender<bool>,
}

impl Readiness {
    /// Of a gateway that starts beside `worker`, or alone.
    pub fn new(worker: Option<SmolStr>) -> Readiness {
        Readiness { expected: worker, ..Readiness::default() }
    }

    /// Whether every model that was configured has been loaded, or has failed for good.
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Follows readiness, for those that push it on.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.told.subscribe()
    }

    /// Whether nothing more is to be awaited in this view of the registry.
    pub(crate) fn is_settled(&self, view: &Snapshot) -> bool {
        match &self.expected {
            Some(worker) => view.workers.iter().any(|known| {
                known.id == *worker && known.models.iter().all(|model| model.state != ModelState::Loading)
            }),
            None => view.models().all(|model| model.default_version().signature.state != ModelState::Loading),
        }
    }

    /// Says that the start is over.
    pub(crate) fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Tells those who follow it, where that is news.
    pub(crate) fn tell(&self, ready: bool) {
        self.told.send_if_modified(|told| std::mem::replace(told, ready) != ready);
    }
}
