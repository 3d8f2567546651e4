//! What chains need to know of the deployment: which models other workers have ready, and
//! which chains were declared as routes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nobat_core::chain::ChainDefinition;
use nobat_core::signature::ModelState;
use nobat_queue::route_jobs::SPACE;
use serde::Deserialize;
use smol_str::SmolStr;
use tokio::sync::watch;

use crate::state::WorkerState;

/// What of a route matters here.
#[derive(Deserialize)]
struct RouteDocument {
    chain: Option<ChainDefinition>,
}

/// Keeps [`WorkerState::fleet`] as the registry says, while this worker has a chain, and
/// [`WorkerState::routed`] as routes are declared, until `stop` turns true.
pub(crate) async fn follow_fleet(state: Arc<WorkerState>, mut stop: watch::Receiver<bool>) {
    let mut seen = 0;
    loop {
        tokio::select! {
            version = state.queue.registry_changed(seen) => seen = version,
            _ = stop.wait_for(|&stop| stop) => return,
        }
        follow_routes(&state).await;
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

async fn follow_routes(state: &WorkerState) {
    let documents = match state.queue.metadata().documents(SPACE).await {
        Ok(documents) => documents,
        Err(error) => return log::debug!("cannot read the routes for chains: {error}"),
    };
    let mut routed = BTreeMap::new();
    for (name, document) in documents.iter().filter(|(name, _)| !name.contains(':')) {
        // What cannot be read here gateways warn of.
        if let Ok(Some(RouteDocument { chain: Some(chain) })) = serde_json::from_slice(document) {
            routed.insert(SmolStr::new(name), Arc::new(chain));
        }
    }
    *state.routed.lock() = routed;
}
