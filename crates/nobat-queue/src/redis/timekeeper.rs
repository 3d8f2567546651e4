//! What time does to a queue nobody is busy with: due jobs become ready, leases
//! of dead workers come back, deadlines pass.
//!
//! A busy worker's every step does this by the way. For an idle queue exactly
//! one process keeps its timers (a key with a ttl, taken by the tick script); the
//! others look once per [`LOOK`] whether it is still there, all their queues in one
//! command. An idle process so costs Redis well under one command a second,
//! however many models it serves.
//!
//! A worker does so for the queues it consumes. A gateway does for every queue of
//! the deployment: a deadline passes though no worker is there.
//!
//! Each look is also the sign that the store can be reached: after a silence of most
//! of a lease the scripts give the leases that ran out meanwhile another chance. The
//! next process takes over well before: [`PAUSE`], the ttl's second and [`LOOK`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::Value;
use tokio::sync::Notify;

use super::connect::{Fault, fault};
use super::keys::QueueKeys;
use super::{Inner, random_u32, scripts};

/// How often a process looks whether another's timekeeper lives.
const LOOK: Duration = Duration::from_secs(4);
/// The keeper's longest pause.
const PAUSE: Duration = Duration::from_secs(5);
/// How often a gateway looks for queues that others made.
const ROAM: Duration = Duration::from_secs(30);

/// How soon a tick is tried again that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// The queues this process consumes, and when each is looked at next.
#[derive(Clone, Default)]
pub(crate) struct Timers {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    watched: Mutex<HashMap<String, Watched>>,
    changed: Notify,
    /// Whether this process looks after every queue: it enqueues.
    roams: AtomicBool,
    /// Whether the last tick failed: told once.
    failing: AtomicBool,
}

struct Watched {
    queue: Arc<QueueKeys>,
    consumers: usize,
    /// Looked after without a consumer, too.
    attended: bool,
    /// Whether this process keeps the queue's timers.
    keeper: bool,
    at: Instant,
}

impl Timers {
    /// Begins to care for a queue's timers: a consumer opened.
    pub(crate) fn open(&self, queue: &Arc<QueueKeys>) {
        self.watch(queue, |entry| entry.consumers += 1);
    }

    /// From here on every queue of the deployment is cared for: a client opened.
    pub(crate) fn roam(&self) {
        if !self.shared.roams.swap(true, Ordering::AcqRel) {
            self.shared.changed.notify_one();
        }
    }

    /// A queue became known to this process.
    pub(crate) fn known(&self, queue: &Arc<QueueKeys>) {
        if self.shared.roams.load(Ordering::Acquire) {
            self.watch(queue, |entry| entry.attended = true);
        }
    }

    fn watch(&self, queue: &Arc<QueueKeys>, change: impl FnOnce(&mut Watched)) {
        let mut watched = self.shared.watched.lock();
        let entry = watched.entry(queue.base.clone()).or_insert_with(|| Watched {
            queue: queue.clone(),
            consumers: 0,
            attended: false,
            keeper: false,
            at: Instant::now(),
        });
        change(entry);
        drop(watched);
        self.shared.changed.notify_one();
    }

    /// A consumer closed; with the last one the timers are another's.
    pub(crate) fn close(&self, queue: &QueueKeys) {
        let mut watched = self.shared.watched.lock();
        if let Some(entry) = watched.get_mut(&queue.base) {
            entry.consumers -= 1;
            if entry.consumers == 0 && !entry.attended {
                watched.remove(&queue.base);
            }
        }
    }

    /// A job was scheduled for earlier than this keeper planned to look.
    pub(crate) fn nudge(&self, base: &str) {
        if let Some(entry) = self.shared.watched.lock().get_mut(base) {
            entry.at = Instant::now();
        }
        self.shared.changed.notify_one();
    }

    fn due(&self) -> (Vec<(Arc<QueueKeys>, bool)>, Option<Instant>) {
        let now = Instant::now();
        let watched = self.shared.watched.lock();
        let due =
            watched.values().filter(|entry| entry.at <= now).map(|entry| (entry.queue.clone(), entry.keeper)).collect();
        (due, watched.values().map(|entry| entry.at).min())
    }

    fn plan(&self, queue: &QueueKeys, keeper: bool, pause: Duration) {
        if let Some(entry) = self.shared.watched.lock().get_mut(&queue.base) {
            entry.keeper = keeper;
            entry.at = Instant::now() + pause;
        }
    }
}

/// Runs until the process's store is dropped.
pub(crate) async fn run(inner: Weak<Inner>) {
    let mut roamed: Option<Instant> = None;
    loop {
        let Some(strong) = inner.upgrade() else { return };
        let timers = strong.timers.clone();
        if timers.shared.roams.load(Ordering::Acquire) && roamed.is_none_or(|at| at.elapsed() >= ROAM) {
            roamed = Some(Instant::now());
            // Each becomes known by it; where the store is away, another time.
            let _ = strong.all_queues().await;
        }
        let (due, next) = timers.due();
        if due.is_empty() {
            drop(strong);
            let pause = next.map_or(LOOK, |at| at.saturating_duration_since(Instant::now()).min(LOOK));
            let _ = tokio::time::timeout(pause, timers.shared.changed.notified()).await;
            continue;
        }
        let (ours, others): (Vec<_>, Vec<_>) = due.into_iter().partition(|(_, keeper)| *keeper);
        let vacant = vacant(&strong, others).await;
        let mut reached = true;
        for queue in ours.into_iter().map(|(queue, _)| queue).chain(vacant) {
            match reached {
                true => reached = tick(&strong, &queue).await,
                // The others would wait for the same store.
                false => timers.plan(&queue, false, AGAIN),
            }
        }
    }
}

/// Those of the queues whose timekeeper is gone; the rest are looked at later.
async fn vacant(inner: &Inner, queues: Vec<(Arc<QueueKeys>, bool)>) -> Vec<Arc<QueueKeys>> {
    if queues.is_empty() {
        return Vec::new();
    }
    let look = look(inner);
    let mut vacant = Vec::new();
    let keys = queues.iter().map(|(queue, _)| queue.own("keeper"));
    // One command for all of them where the server allows it.
    let replies = if inner.target.is_cluster() {
        let mut replies = Vec::with_capacity(queues.len());
        for key in keys {
            replies.push(inner.hub.send(redis::cmd("GET").arg(key)).await.unwrap_or(Value::Okay));
        }
        replies
    } else {
        let mut mget = redis::cmd("MGET");
        keys.for_each(|key| {
            mget.arg(key);
        });
        match inner.hub.send(&mget).await {
            Ok(Value::Array(replies)) => replies,
            _ => Vec::new(),
        }
    };
    for (at, (queue, _)) in queues.into_iter().enumerate() {
        match replies.get(at) {
            Some(Value::Nil) => vacant.push(queue),
            _ => inner.timers.plan(&queue, false, look),
        }
    }
    vacant
}

/// Looks after a queue; false when the store cannot be reached.
async fn tick(inner: &Inner, queue: &QueueKeys) -> bool {
    let settings = &inner.settings;
    let mut cmd = scripts::TICK.on(&queue.base);
    cmd.arg(&inner.process[..])
        .arg(pause(inner).as_micros() as u64)
        .arg(settings.max_dead)
        .arg(u64::from(settings.dead_ttl_s) * 1000)
        .arg(inner.prefix.client_channel())
        .arg(u64::from(settings.lease_ms) * 1000);
    let failing = &inner.timers.shared.failing;
    match inner.hub.send(&cmd).await {
        Ok(reply) => {
            match reply {
                Value::Array(reply) if matches!(reply[..], [Value::Int(1), Value::Int(_)]) => {
                    let wait_us = if let Value::Int(wait_us) = reply[1] { wait_us.max(0) as u64 } else { 0 };
                    inner.timers.plan(queue, true, Duration::from_micros(wait_us));
                }
                _ => inner.timers.plan(queue, false, look(inner)),
            }
            if failing.swap(false, Ordering::AcqRel) {
                log::info!("the queues' timers are kept again");
            }
            true
        }
        Err(e) => {
            inner.timers.plan(queue, false, AGAIN);
            if !failing.swap(true, Ordering::AcqRel) {
                log::warn!(model = queue.model.as_str(); "the queues' timers cannot be kept, it is tried again by itself: {e}");
            }
            // What one queue's keys are to blame for says nothing about the others.
            fault(&e) == Fault::Ours
        }
    }
}

/// Never longer than a third of a lease: leases begin without a signal.
fn pause(inner: &Inner) -> Duration {
    PAUSE.min(Duration::from_millis(u64::from(inner.settings.lease_ms) / 3)).max(Duration::from_millis(20))
}

fn look(inner: &Inner) -> Duration {
    let full = LOOK.min(pause(inner));
    full.mul_f64(0.8 + f64::from(random_u32()) / f64::from(u32::MAX) * 0.2)
}
