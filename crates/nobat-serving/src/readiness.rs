//! When this gateway can serve: after its start, while its store takes jobs, until
//! it drains.
//!
//! The start is over once every model that was configured has been loaded or has
//! failed for good. Under `nobat serve` those are its worker's; a gateway of its own
//! takes the models of the workers that are there. From then on a model that is
//! loaded anew is no reason: its callers wait for it, the others are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nobat_core::signature::ModelState;
use smol_str::SmolStr;
use tokio::sync::watch;

use crate::registry::Snapshot;
use crate::state::ServingState;

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

    /// Says at once that nothing is taken any more.
    pub(crate) fn draining(&self) {
        self.told.send_replace(false);
    }

    /// Whether nothing more is to be awaited in this view of the registry.
    fn is_settled(&self, view: &Snapshot) -> bool {
        match &self.expected {
            Some(worker) => view.workers.iter().any(|known| {
                known.id == *worker && known.models.iter().all(|model| model.state != ModelState::Loading)
            }),
            None => view.models().all(|model| model.default_version().signature.state != ModelState::Loading),
        }
    }
}

impl ServingState {
    /// Whether predictions can be taken.
    pub fn is_ready(&self) -> bool {
        !self.is_draining() && self.readiness.is_started() && self.condition.refusal().is_none()
    }
}

/// Ends the start when it is over, and tells of readiness from then on; for ever.
pub async fn follow(shared: Arc<ServingState>) {
    let readiness = &shared.readiness;
    let (mut models, mut store) = (shared.registry.changes(), shared.queue.condition());
    loop {
        let seen = *models.borrow_and_update() > 0;
        if !readiness.is_started() && seen && readiness.is_settled(&shared.registry.load()) {
            // Routes know the models before anybody is told to send.
            shared.routes.bind_anew(&shared.registry);
            readiness.started.store(true, Ordering::Release);
            shared.registry.look_again();
        }
        let ready = shared.is_ready();
        readiness.told.send_if_modified(|told| std::mem::replace(told, ready) != ready);
        tokio::select! {
            _ = models.changed(), if !readiness.is_started() => {}
            () = store.changed() => {}
        }
    }
}
