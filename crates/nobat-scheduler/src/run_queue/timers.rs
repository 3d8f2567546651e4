//! Runs out of the metadata store's timers: those that are due are taken and carried out.

use std::time::Duration;

use nobat_queue::Timer;
use tokio::sync::Notify;

use super::leases::{AWAY, DONE, LEASE, RUNS, RunLeases};
use crate::run::{Handler, RunRequest};

/// Looked at without being woken: a run that another process pushed.
const POLL: Duration = Duration::from_secs(1);
/// Runs taken in one go, and most that one process carries out at once.
const AT_ONCE: usize = 32;
const MOST_RUNNING: usize = 1_000;

/// Takes due runs for ever; `pushed` is rung when this process pushed one.
pub(super) async fn work(leases: &RunLeases, pushed: &Notify, handler: &Handler) {
    loop {
        let room = MOST_RUNNING.saturating_sub(leases.count()).min(AT_ONCE);
        let taken = match leases.metadata.take_due(RUNS, room, LEASE).await {
            Ok(taken) => taken,
            Err(error) => {
                log::debug!("periodic: waiting for the metadata store: {error}");
                tokio::time::sleep(AWAY).await;
                continue;
            }
        };
        let more = taken.len() == AT_ONCE;
        for due in taken {
            take(leases, due, handler).await;
        }
        if !more {
            let _ = tokio::time::timeout(POLL, pushed.notified()).await;
        }
    }
}

async fn take(leases: &RunLeases, due: Timer, handler: &Handler) {
    match serde_json::from_slice::<RunRequest>(&due.value) {
        // One of ours whose renewal came too late is renewed by having been taken.
        Ok(_) if leases.holds(&due.key) => {}
        Ok(run) => {
            let (leases, handler) = (leases.clone(), handler.clone());
            tokio::spawn(async move { leases.carry_out(&handler, run, &due.value).await });
        }
        // A mark has been kept for long enough. If this fails it is due again.
        Err(_) => {
            if due.value != DONE {
                log::warn!(run = due.key.as_str(); "periodic: dropping a run that cannot be read");
            }
            let _ = leases.metadata.remove_timer(RUNS, &due.key).await;
        }
    }
}
