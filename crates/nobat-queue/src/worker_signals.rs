//! What a process is told about workers, whichever way its store is told: that the
//! registry changed, and commands to its own worker.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify, broadcast};

use crate::api::WorkerCommand;

/// A change is noticed within this even when its message is lost.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Commands kept for a worker that is busy with an earlier one.
const COMMANDS: usize = 64;

pub(crate) struct WorkerSignals {
    changed: Notify,
    /// Counts changes.
    version: AtomicU64,
    commands: broadcast::Sender<WorkerCommand>,
    /// Open from the start: a command that comes between two calls of
    /// [`WorkerSignals::next_command`] waits here.
    inbox: Mutex<broadcast::Receiver<WorkerCommand>>,
}

impl Default for WorkerSignals {
    fn default() -> WorkerSignals {
        let (commands, inbox) = broadcast::channel(COMMANDS);
        WorkerSignals { changed: Notify::new(), version: AtomicU64::new(0), commands, inbox: Mutex::new(inbox) }
    }
}

impl WorkerSignals {
    /// The registry changed.
    pub(crate) fn change(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// Resolves when the registry may have changed since the version `seen`, with its version
    /// now: a reader that missed a change between reading and waiting does not wait.
    pub(crate) async fn changed(&self, seen: u64) -> u64 {
        let changed = self.changed.notified();
        tokio::pin!(changed);
        // Registered before the versions are compared: a change in between is seen.
        changed.as_mut().enable();
        if self.version.load(Ordering::Acquire) == seen {
            let _ = tokio::time::timeout(CHECK_EVERY, changed).await;
        }
        self.version.load(Ordering::Acquire)
    }

    /// A command came.
    pub(crate) fn command(&self, command: WorkerCommand) {
        // The inbox is a receiver that is never dropped.
        let _ = self.commands.send(command);
    }

    /// The next command to this process's worker.
    pub(crate) async fn next_command(&self) -> WorkerCommand {
        let mut inbox = self.inbox.lock().await;
        loop {
            match inbox.recv().await {
                Ok(command) => return command,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    log::warn!(missed; "commands to this worker were lost; send them again");
                }
                // The sender lives as long as the inbox.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}
