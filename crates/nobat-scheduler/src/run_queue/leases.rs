//! The runs that this process carries out, each under a lease on its timer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use nobat_queue::MetadataStore;
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::run::{Handler, RunRequest};

/// The metadata store's set of runs, by key; one that has ended stays as [`DONE`].
pub(super) const RUNS: &str = "periodic-run";
pub(super) const DONE: &[u8] = b"done";
/// How long a key is remembered after its run: longer than a tick can be seen
/// again, by another scheduler or after a clock was set back.
pub(super) const KEPT: Duration = Duration::from_secs(86_400);
/// How long a run is its taker's, and how often that is renewed.
pub(super) const LEASE: Duration = Duration::from_secs(15);
const RENEW: Duration = Duration::from_secs(5);
/// Pause after the metadata store could not be reached.
pub(super) const AWAY: Duration = Duration::from_secs(1);

/// Takes runs and carries them out. Cheap to clone.
#[derive(Clone)]
pub(super) struct RunLeases {
    pub(super) metadata: Arc<dyn MetadataStore>,
    /// Runs this process is carrying out, by key.
    // Held for a look-up.
    running: Arc<Mutex<HashMap<String, Running>>>,
}

struct Running {
    untaken: Vec<u8>,
    held: Vec<u8>,
    task: AbortHandle,
}

impl RunLeases {
    pub(super) fn new(metadata: Arc<dyn MetadataStore>) -> RunLeases {
        RunLeases { metadata, running: Arc::default() }
    }

    /// How many runs are being carried out.
    pub(super) fn count(&self) -> usize {
        self.running.lock().len()
    }

    pub(super) fn holds(&self, key: &str) -> bool {
        self.running.lock().contains_key(key)
    }

    /// Carries a run out if its timer still holds `value`: nobody else has taken it,
    /// and it has not ended. Returns at its end; dropped before, the run goes on.
    pub(super) async fn carry_out(&self, handler: &Handler, run: RunRequest, value: &[u8]) {
        let (Ok(untaken), Ok(held)) = (run.to_json(), run.to_held()) else { return };
        match self.metadata.swap_timer(RUNS, &run.key, value, &held, LEASE).await {
            Ok(true) => {}
            Ok(false) => return log::debug!(run = run.key.as_str(); "periodic: a run is another's, or has ended"),
            // Its timer falls due again.
            Err(error) => return log::debug!(run = run.key.as_str(); "periodic: a run is taken later: {error}"),
        }
        let task = {
            let mut running = self.running.lock();
            let key = run.key.clone();
            let task = tokio::spawn(self.clone().hold(handler.clone(), run, held.clone()));
            running.insert(key, Running { untaken, held, task: task.abort_handle() });
            task
        };
        let _ = task.await;
    }

    /// Runs `handler` and keeps the run's lease.
    async fn hold(self, handler: Handler, run: RunRequest, held: Vec<u8>) {
        // On a task of its own: a run that takes long, or panics, holds up nobody.
        let mut running = Aborted(tokio::spawn(handler(run.clone())));
        loop {
            tokio::select! {
                ended = &mut running.0 => {
                    if let Err(error) = ended {
                        log::error!(task = run.task.as_str(); "periodic: a run of `{}` ended early: {error}", run.task);
                    }
                    break;
                }
                () = tokio::time::sleep(RENEW) => {
                    if let Err(error) = self.metadata.swap_timer(RUNS, &run.key, &held, &held, LEASE).await {
                        log::debug!("periodic: a run's lease is renewed later: {error}");
                    }
                }
            }
        }
        // Stays as a mark, so that its tick is never taken again.
        while let Err(error) = self.metadata.swap_timer(RUNS, &run.key, &held, DONE, KEPT).await {
            log::debug!("periodic: the end of a run is written later: {error}");
            tokio::time::sleep(AWAY).await;
        }
        self.running.lock().remove(&run.key);
    }

    /// Ends what is being carried out and makes it due at once, for another process.
    pub(super) async fn give_back(&self) {
        let left = std::mem::take(&mut *self.running.lock());
        for run in left.values() {
            run.task.abort();
        }
        for (key, run) in left {
            if let Err(error) = self.metadata.swap_timer(RUNS, &key, &run.held, &run.untaken, Duration::ZERO).await {
                return log::debug!("periodic: the lease of a run that was stopped ends by itself: {error}");
            }
        }
    }
}

/// A task that ends with its owner.
struct Aborted(tokio::task::JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}
