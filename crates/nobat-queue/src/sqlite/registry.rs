//! Live workers and the commands to them. In memory only: a worker of an
//! embedded queue lives in this process.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use smol_str::SmolStr;

use crate::api::WorkerInfo;
use crate::worker_signals::WorkerSignals;

/// Live workers and what their process is told.
#[derive(Default)]
pub(super) struct WorkerRegistry {
    /// Short critical sections without awaits: a plain mutex.
    workers: Mutex<HashMap<SmolStr, (WorkerInfo, Instant)>>,
    pub(super) signals: WorkerSignals,
}

impl WorkerRegistry {
    pub(super) fn register(&self, info: &WorkerInfo, ttl: Duration) {
        let known = self.workers.lock().insert(info.id.clone(), (info.clone(), Instant::now() + ttl));
        if known.is_none_or(|(before, _)| before.models != info.models) {
            self.signals.change();
        }
    }

    pub(super) fn deregister(&self, id: &str) {
        if self.workers.lock().remove(id).is_some() {
            self.signals.change();
        }
    }

    /// Live workers by id.
    pub(super) fn workers(&self) -> Vec<WorkerInfo> {
        let now = Instant::now();
        let mut workers = self.workers.lock();
        workers.retain(|_, (_, until)| *until > now);
        let mut live: Vec<_> = workers.values().map(|(info, _)| info.clone()).collect();
        live.sort_by(|a, b| a.id.cmp(&b.id));
        live
    }
}
