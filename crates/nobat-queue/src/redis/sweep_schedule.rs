//! Which queues this process sweeps, and when.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::keys::QueueKeys;

/// The queues this process sweeps, or would take over, and when it next comes to each.
#[derive(Default)]
pub(crate) struct SweepSchedule {
    queues: Mutex<HashMap<String, SweptQueue>>,
    changed: Notify,
    sweeps_all: AtomicBool,
}

struct SweptQueue {
    queue: Arc<QueueKeys>,
    consumers: usize,
    /// Swept without a consumer, too.
    unconsumed: bool,
    /// Whether this process is the queue's sweeper.
    is_sweeper: bool,
    at: Instant,
}

impl SweepSchedule {
    /// A consumer of the queue opened: it is swept from now on.
    pub(crate) fn add_consumer(&self, queue: &Arc<QueueKeys>) {
        self.update(queue, |entry| entry.consumers += 1);
    }

    /// A client opened: every queue of the deployment is swept from now on.
    pub(crate) fn sweep_all_queues(&self) {
        if !self.sweeps_all.swap(true, Ordering::AcqRel) {
            self.changed.notify_one();
        }
    }

    /// A queue became known to this process.
    pub(crate) fn queue_known(&self, queue: &Arc<QueueKeys>) {
        if self.sweeps_all() {
            self.update(queue, |entry| entry.unconsumed = true);
        }
    }

    fn update(&self, queue: &Arc<QueueKeys>, change: impl FnOnce(&mut SweptQueue)) {
        let mut queues = self.queues.lock();
        let entry = queues.entry(queue.base.clone()).or_insert_with(|| SweptQueue {
            queue: queue.clone(),
            consumers: 0,
            unconsumed: false,
            is_sweeper: false,
            at: Instant::now(),
        });
        change(entry);
        drop(queues);
        self.changed.notify_one();
    }

    /// A consumer closed; after the last one the queue is left to other processes.
    pub(crate) fn remove_consumer(&self, queue: &QueueKeys) {
        let mut queues = self.queues.lock();
        if let Some(entry) = queues.get_mut(&queue.base) {
            entry.consumers -= 1;
            if entry.consumers == 0 && !entry.unconsumed {
                queues.remove(&queue.base);
            }
        }
    }

    /// A job is due earlier than this sweeper planned to come.
    pub(crate) fn wake(&self, base: &str) {
        if let Some(entry) = self.queues.lock().get_mut(base) {
            entry.at = Instant::now();
        }
        self.changed.notify_one();
    }

    /// Whether this process sweeps every queue.
    pub(crate) fn sweeps_all(&self) -> bool {
        self.sweeps_all.load(Ordering::Acquire)
    }

    /// Resolves when a queue may be due earlier than it was planned.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The queues that are due, each with whether this process is its sweeper; and when
    /// the next one is.
    pub(crate) fn due(&self) -> (Vec<(Arc<QueueKeys>, bool)>, Option<Instant>) {
        let now = Instant::now();
        let queues = self.queues.lock();
        let due = queues
            .values()
            .filter(|entry| entry.at <= now)
            .map(|entry| (entry.queue.clone(), entry.is_sweeper))
            .collect();
        (due, queues.values().map(|entry| entry.at).min())
    }

    /// Comes to a queue again after `pause`.
    pub(crate) fn plan(&self, queue: &QueueKeys, is_sweeper: bool, pause: Duration) {
        if let Some(entry) = self.queues.lock().get_mut(&queue.base) {
            entry.is_sweeper = is_sweeper;
            entry.at = Instant::now() + pause;
        }
    }
}
