//! Waiting for work: a blocking pop of the queue's marker, on a connection of
//! its own, in a task of its own.
//!
//! The marker is one member that stands while there may be work. It stays until
//! popped, and whoever leases adds it again when jobs are left: one job wakes one
//! consumer, and no wake-up is lost. Invariants:
//! - A marker popped while nobody waits any more is put back.
//! - A pop that outlives its own timeout is taken for hung: the connection is
//!   replaced (a blocked read can survive its server).
//! - After a fault the consumer is woken once: what it missed it finds itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use redis::Value;
use tokio::sync::Notify;

use super::connect::{Backoff, Hub};
use super::keys::QueueKeys;
use super::{Inner, random_u32};

/// How long one pop blocks; an idle consumer costs Redis one command in this time.
const BLOCK: Duration = Duration::from_secs(30);
/// How much longer a reply may take before the connection is taken for hung.
const HUNG: Duration = Duration::from_secs(3);

const BUSY: u8 = 0;
const WAITING: u8 = 1;
const WOKEN: u8 = 2;

pub(crate) struct Marker {
    shared: Arc<Shared>,
    task: Option<tokio::task::JoinHandle<()>>,
}

struct Shared {
    inner: Arc<Inner>,
    queue: Arc<QueueKeys>,
    hub: Hub,
    state: AtomicU8,
    asked: Notify,
    woken: Notify,
}

impl Marker {
    pub(crate) fn new(inner: Arc<Inner>, queue: Arc<QueueKeys>) -> Marker {
        let hub = Hub::new(inner.target.clone(), None).without_response_timeout();
        let shared =
            Shared { inner, queue, hub, state: AtomicU8::new(BUSY), asked: Notify::new(), woken: Notify::new() };
        Marker { shared: Arc::new(shared), task: None }
    }

    /// Waits for the marker.
    ///
    /// # Cancel safety
    /// Cancel safe: a marker popped for a wait that was dropped is put back.
    pub(crate) async fn wait(&mut self) {
        let shared = &self.shared;
        self.task.get_or_insert_with(|| tokio::spawn(run(shared.clone())));
        shared.state.store(WAITING, Ordering::Release);
        shared.asked.notify_one();
        let guard = Waiting(shared);
        while shared.state.load(Ordering::Acquire) != WOKEN {
            shared.woken.notified().await;
        }
        shared.state.store(BUSY, Ordering::Release);
        drop(guard);
    }
}

/// Ends a wait, also one that is dropped.
struct Waiting<'a>(&'a Arc<Shared>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.0.state.swap(BUSY, Ordering::AcqRel) == WOKEN {
            put_back(self.0.clone());
        }
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // The pop may have been answered just now: a wake-up too many is
            // harmless, one too few is not.
            put_back(self.shared.clone());
        }
    }
}

/// Adds the marker again, on the process's own connection.
fn put_back(shared: Arc<Shared>) {
    if let Some(runtime) = &shared.inner.runtime.0 {
        runtime.handle().clone().spawn(async move {
            let marker = shared.queue.own("marker");
            if let Err(e) = shared.inner.send(redis::cmd("ZADD").arg(marker).arg(0).arg(0)).await {
                log::debug!("a wake-up could not be put back, the timekeeper will: {e}");
            }
        });
    }
}

async fn run(shared: Arc<Shared>) {
    let mut backoff = Backoff::default();
    let mut faulted = false;
    loop {
        while shared.state.load(Ordering::Acquire) != WAITING {
            shared.asked.notified().await;
        }
        match pop(&shared, faulted).await {
            Ok(popped) => {
                backoff.reset();
                if popped || faulted {
                    faulted = false;
                    if shared.state.compare_exchange(WAITING, WOKEN, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                        shared.woken.notify_one();
                    } else if popped {
                        put_back(shared.clone());
                    }
                }
            }
            Err(e) => {
                if !faulted {
                    log::warn!(model = shared.queue.model.as_str(); "waiting for work was interrupted, trying again: {e}");
                }
                faulted = true;
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }
}

/// Pops the marker; false when none came in time. After a fault it only makes
/// sure that the server answers.
async fn pop(shared: &Shared, faulted: bool) -> redis::RedisResult<bool> {
    let (mut link, generation) = shared.hub.link().await?;
    let block = BLOCK.mul_f64(0.8 + f64::from(random_u32()) / f64::from(u32::MAX) * 0.2);
    let (cmd, limit) = if faulted {
        (redis::cmd("PING"), HUNG)
    } else {
        let mut cmd = redis::cmd("BZPOPMIN");
        cmd.arg(shared.queue.own("marker")).arg(block.as_secs_f64());
        (cmd, block + HUNG)
    };
    let reply = match tokio::time::timeout(limit, link.send(&cmd)).await {
        Ok(reply) => reply,
        Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "a blocking pop hung").into()),
    };
    match reply {
        Ok(value) => Ok(!faulted && value != Value::Nil),
        Err(e) => {
            shared.hub.broken(generation);
            Err(e)
        }
    }
}
