//! Runs out of the metadata store's timers, carried out by apalis' in-memory worker.

use std::sync::Arc;
use std::time::Duration;

use apalis_core::backend::memory::{MemorySink, MemoryStorage, MemoryStorageError};
use apalis_core::error::BoxDynError;
use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::task_id::{RandomId, TaskId};
use apalis_core::worker::builder::WorkerBuilder;
use bytes::Bytes;
use futures::channel::mpsc;
use futures::{Sink, SinkExt, StreamExt};
use nobat_queue::Timer;
use tokio::sync::Notify;

use super::leases::{AWAY, DONE, LEASE, RUNS, RunLeases};
use crate::run::{Handler, RunRequest};

/// Looked at without being woken: a run that another process pushed.
const POLL: Duration = Duration::from_secs(1);
/// Runs taken in one go, and most that one process carries out at once.
const AT_ONCE: usize = 32;
const MOST_RUNNING: usize = 1_000;

/// A run whose timer fell due, and what stood in it.
#[derive(Clone)]
struct Taken {
    run: RunRequest,
    value: Bytes,
}

type Intake = mpsc::UnboundedSender<Task<Taken>>;

/// One life of a worker; `pushed` is rung when this process pushed a run.
pub(super) async fn work_once(
    name: String,
    leases: &RunLeases,
    pushed: &Notify,
    handler: &Handler,
) -> Result<(), BoxDynError> {
    let (intake, receiver) = mpsc::unbounded();
    // The worker takes from the channel; apalis' sink over it is nobody's.
    let sink: Box<dyn Sink<_, Error = MemoryStorageError> + Send + Sync + Unpin> =
        Box::new(intake.clone().sink_map_err(MemoryStorageError::from));
    let sink = MemorySink::new(Arc::new(futures::lock::Mutex::new(sink)));
    let (to, handler) = (leases.clone(), handler.clone());
    let worker = WorkerBuilder::new(name).backend(MemoryStorage::new_with(sink, receiver.boxed())).build(
        move |Taken { run, value }: Taken| {
            let (leases, handler) = (to.clone(), handler.clone());
            async move {
                leases.carry_out(&handler, run, &value).await;
                Ok::<(), BoxDynError>(())
            }
        },
    );
    tokio::select! {
        ended = worker.run() => Ok(ended?),
        error = feed(leases, pushed, &intake) => Err(error),
    }
}

/// Takes due runs for as long as the worker lives; returns why it cannot.
async fn feed(leases: &RunLeases, pushed: &Notify, intake: &Intake) -> BoxDynError {
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
            if let Err(error) = take(leases, due, intake).await {
                return error;
            }
        }
        if !more {
            let _ = tokio::time::timeout(POLL, pushed.notified()).await;
        }
    }
}

async fn take(leases: &RunLeases, due: Timer, intake: &Intake) -> Result<(), BoxDynError> {
    let Ok(run) = serde_json::from_slice::<RunRequest>(&due.value) else {
        if due.value != DONE {
            log::warn!(run = due.key.as_str(); "periodic: dropping a run that cannot be read");
        }
        // A mark has been kept for long enough. If this fails it is due again.
        let _ = leases.metadata.remove_timer(RUNS, &due.key).await;
        return Ok(());
    };
    // One of ours whose renewal came too late is renewed by having been taken.
    if !leases.holds(&due.key) {
        let taken = Taken { run, value: due.value };
        intake.unbounded_send(TaskBuilder::new(taken).task_id(TaskId::from_string(RandomId::default())).build())?;
    }
    Ok(())
}
