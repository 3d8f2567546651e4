//! Keeps the worker in the registry (heartbeat, signatures, counters) and takes the
//! commands that gateways send to every worker.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::Sender;
use nobat_core::statistics::WorkerReport;
use nobat_queue::{LEASES, LOADS, RESIDENT_BYTES, WorkerCommand, WorkerInfo, drained_workers};
use smol_str::SmolStr;
use tokio::sync::watch;

use crate::models::loader::LoadCommand;
use crate::models::memory::resident_bytes;
use crate::state::WorkerState;

/// A worker is forgotten so long after its last heartbeat.
const REGISTRATION_TTL: Duration = Duration::from_secs(15);
/// Three heartbeats fit into the ttl.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Models whose load progress is remembered: a command may name any model, existing or not.
const MAX_LOADS: usize = 1_000;

/// Registers the worker until `stop` turns true, then leaves the registry.
pub(crate) async fn register(state: Arc<WorkerState>, commands: Sender<LoadCommand>, mut stop: watch::Receiver<bool>) {
    loop {
        if let Err(error) = state.queue.register_worker(&info(&state), REGISTRATION_TTL).await {
            log::warn!(code = error.code.as_str(); "cannot register this worker: {error}");
        }
        tokio::select! {
            () = state.changed.notified() => {}
            () = tokio::time::sleep(HEARTBEAT) => {}
            command = state.queue.next_command() => match command {
                WorkerCommand::Load { model } => {
                    count_received(&state, &model);
                    let _ = commands.send(LoadCommand::Load(model));
                }
                WorkerCommand::Unload { model } => {
                    count_received(&state, &model);
                    let _ = commands.send(LoadCommand::Unload(model));
                }
                WorkerCommand::Report { nonce } => state.nonce.store(nonce, Ordering::Relaxed),
            },
            _ = stop.wait_for(|&stop| stop) => break,
        }
    }
    // Before the registration ends, so that whoever sees it end finds the reason.
    if let Err(error) = drained_workers::record(&*state.queue.metadata(), &state.id, &state.host).await {
        log::debug!("cannot note that this worker leaves: {error}");
    }
    if let Err(error) = state.queue.deregister_worker(&state.id).await {
        log::warn!("cannot leave the registry; the registration expires by itself: {error}");
    }
}

/// Counts a command for `model` before the loading thread gets it.
fn count_received(state: &WorkerState, model: &SmolStr) {
    let served = state.served.lock();
    let mut loads = state.loads.lock();
    if loads.len() >= MAX_LOADS {
        // Whoever asked for a model that does not exist has been answered by now.
        loads.retain(|name, progress| progress.done < progress.taken || served.contains_key(name));
    }
    loads.entry(model.clone()).or_default().taken += 1;
}

fn info(state: &WorkerState) -> WorkerInfo {
    // The nonce first: counters read after it answer the report that was asked for.
    let nonce = state.nonce.load(Ordering::Relaxed);
    let sessions = state.served.lock().values().map(|served| served.sessions.len() as u32).sum();
    let versions = state.versions();
    let statistics = versions.iter().map(|version| version.stats.counted().statistics).collect();
    let mut report = serde_json::to_value(WorkerReport { nonce, statistics }).unwrap_or_default();
    report[LOADS] = serde_json::to_value(&*state.loads.lock()).unwrap_or_default();
    report[LEASES] = state.trackers.held().into();
    report[RESIDENT_BYTES] = resident_bytes().into();
    report["batching"] = versions.iter().map(|version| version.report()).collect();
    WorkerInfo {
        id: state.id.clone(),
        host: state.host.clone(),
        started_at_ms: state.started_at_ms,
        sessions,
        models: state.signatures(),
        report,
    }
}
