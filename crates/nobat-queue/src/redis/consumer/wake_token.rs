//! Waiting for work: a blocking pop of the queue's wake token (key `marker`), on a
//! connection of its own, in a task of its own.
//!
//! The token is one member that stands while there may be work. It stays until
//! popped, and whoever leases adds it again when jobs are left: one job wakes one
//! consumer, and no wake-up is lost. Invariants:
//! - A token popped while nobody waits any more is put back.
//! - A pop that outlives its own timeout is taken for hung: the connection is
//!   replaced (a blocked read can survive its server's process). A host that went
//!   away is noticed sooner, by the connection's probes.
//! - After a fault the consumer is woken once: what it missed it finds itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use redis::Value;
use tokio::sync::Notify;

use super::super::connection::{BACKOFF, ConnectionManager};
use super::super::keys::QueueKeys;
use super::super::store::RedisStore;

/// How long one pop blocks; an idle consumer costs Redis one command in this time.
const BLOCK: Duration = Duration::from_secs(30);
/// How much longer a reply may take before the connection is taken for hung.
const HUNG: Duration = Duration::from_secs(3);

const BUSY: u8 = 0;
const WAITING: u8 = 1;
const WOKEN: u8 = 2;

pub(crate) struct WakeToken {
    shared: Arc<TokenState>,
    task: Option<tokio::task::JoinHandle<()>>,
}

struct TokenState {
    store: Arc<RedisStore>,
    queue: Arc<QueueKeys>,
    manager: ConnectionManager,
    state: AtomicU8,
    asked: Notify,
    woken: Notify,
}

impl WakeToken {
    pub(crate) fn new(store: Arc<RedisStore>, queue: Arc<QueueKeys>) -> WakeToken {
        let manager = ConnectionManager::new(store.endpoint.clone(), None).without_response_timeout();
        let shared = TokenState {
            store,
            queue,
            manager,
            state: AtomicU8::new(BUSY),
            asked: Notify::new(),
            woken: Notify::new(),
        };
        WakeToken { shared: Arc::new(shared), task: None }
    }

    /// Waits for the token.
    ///
    /// # Cancel safety
    /// Cancel safe: a token popped for a wait that was dropped is put back.
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
struct Waiting<'a>(&'a Arc<TokenState>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.0.state.swap(BUSY, Ordering::AcqRel) == WOKEN {
            put_back(self.0.clone());
        }
    }
}

impl Drop for WakeToken {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // The pop may have been answered just now: a wake-up too many is
            // harmless, one too few is not.
            put_back(self.shared.clone());
        }
    }
}

/// Adds the token again, on the process's own connection.
fn put_back(shared: Arc<TokenState>) {
    let state = shared.clone();
    shared.store.runtime.spawn(async move {
        let token = state.queue.own("marker");
        if let Err(e) = state.store.send(redis::cmd("ZADD").arg(token).arg(0).arg(0)).await {
            log::debug!("a wake-up could not be put back, the sweeper will: {e}");
        }
    });
}

async fn run(shared: Arc<TokenState>) {
    let mut backoff = BACKOFF;
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
                tokio::time::sleep(backoff.jittered(rand::random())).await;
            }
        }
    }
}

/// Pops the token; false when none came in time. After a fault it only makes
/// sure that the server answers.
async fn pop(shared: &TokenState, faulted: bool) -> redis::RedisResult<bool> {
    let (mut connection, generation) = shared.manager.connection().await?;
    let block = BLOCK.mul_f64(rand::random_range(0.8..1.0));
    let (cmd, limit) = if faulted {
        (redis::cmd("PING"), HUNG)
    } else {
        let mut cmd = redis::cmd("BZPOPMIN");
        cmd.arg(shared.queue.own("marker")).arg(block.as_secs_f64());
        (cmd, block + HUNG)
    };
    let reply = match tokio::time::timeout(limit, connection.send(&cmd)).await {
        Ok(reply) => reply,
        Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "a blocking pop hung").into()),
    };
    match reply {
        Ok(value) => Ok(!faulted && value != Value::Nil),
        Err(e) => {
            shared.manager.broken(generation);
            Err(e)
        }
    }
}
