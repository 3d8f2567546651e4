//! Live workers and the commands to them. In memory only: a worker of an
//! embedded queue lives in this process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::{Notify, broadcast};

use crate::api::{WorkerCommand, WorkerInfo};

/// How long a reader waits for a change before it looks again anyway.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// Commands kept for a worker that is busy with an earlier one.
const COMMANDS: usize = 64;

/// Live workers and their inbox.
pub(super) struct Registry {
    /// Short critical sections without awaits: a plain mutex.
    workers: Mutex<HashMap<SmolStr, (WorkerInfo, Instant)>>,
    /// Counts changes.
    version: AtomicU64,
    /// The version that was last read: a reader that missed a change between
    /// reading and waiting does not wait.
    read: AtomicU64,
    changed: Notify,
    commands: broadcast::Sender<WorkerCommand>,
    /// The one worker of this process takes its commands here, so that none is
    /// lost while it carries out another.
    inbox: tokio::sync::Mutex<broadcast::Receiver<WorkerCommand>>,
}

impl Registry {
    pub(super) fn new() -> Registry {
        let (commands, inbox) = broadcast::channel(COMMANDS);
        Registry {
            workers: Mutex::default(),
            version: AtomicU64::new(0),
            read: AtomicU64::new(0),
            changed: Notify::new(),
            commands,
            inbox: tokio::sync::Mutex::new(inbox),
        }
    }

    pub(super) fn register(&self, info: &WorkerInfo, ttl: Duration) {
        let known = self.workers.lock().insert(info.id.clone(), (info.clone(), Instant::now() + ttl));
        if known.is_none_or(|(before, _)| before.models != info.models) {
            self.change();
        }
    }

    pub(super) fn deregister(&self, id: &str) {
        if self.workers.lock().remove(id).is_some() {
            self.change();
        }
    }

    fn change(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// Live workers by id.
    pub(super) fn workers(&self) -> Vec<WorkerInfo> {
        self.read.store(self.version.load(Ordering::Acquire), Ordering::Release);
        let now = Instant::now();
        let mut workers = self.workers.lock();
        workers.retain(|_, (_, until)| *until > now);
        let mut live: Vec<_> = workers.values().map(|(info, _)| info.clone()).collect();
        live.sort_by(|a, b| a.id.cmp(&b.id));
        live
    }

    pub(super) async fn changed(&self) {
        let changed = self.changed.notified();
        tokio::pin!(changed);
        // Registered before the versions are compared: a change in between is seen.
        changed.as_mut().enable();
        if self.version.load(Ordering::Acquire) == self.read.load(Ordering::Acquire) {
            let _ = tokio::time::timeout(LOOK_AGAIN, changed).await;
        }
    }

    pub(super) fn command(&self, command: &WorkerCommand) {
        // The inbox is a receiver that is never dropped.
        let _ = self.commands.send(command.clone());
    }

    pub(super) async fn next_command(&self) -> WorkerCommand {
        let mut inbox = self.inbox.lock().await;
        loop {
            match inbox.recv().await {
                Ok(command) => return command,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    log::warn!("the worker was busy for so long that {missed} commands were dropped");
                }
                // The sender lives as long as the inbox.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}
