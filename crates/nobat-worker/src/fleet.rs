//! Which models other workers have ready: what a chain needs to know of steps that run there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nobat_core::signature::ModelState;
use tokio::sync::watch;

use crate::state::WorkerState;

/// Keeps [`WorkerState::fleet`] as the registry says, while this worker has a chain, until
/// `stop` turns true.
pub(crate) async fn follow_fleet(state: Arc<WorkerState>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = state.queue.registry_changed() => {}
            _ = stop.wait_for(|&stop| stop) => return,
        }
        if !state.has_chains.load(Ordering::Relaxed) {
            continue;
        }
        match state.queue.workers().await {
            Ok(workers) => {
                let others = workers.into_iter().filter(|worker| worker.id != state.id);
                let ready = others.flat_map(|worker| worker.models).filter(|model| model.state == ModelState::Ready);
                *state.fleet.lock() = ready.collect();
            }
            Err(error) => log::debug!("cannot read the registry for chains: {error}"),
        }
    }
}
