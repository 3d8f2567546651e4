//! Ends runs that are not worth finishing: past their deadline, or of a job
//! that was cancelled or taken over. One thread per process sleeps until the
//! nearest deadline.
//!
//! A run is armed with what ends it and disarmed when its guard drops; whether
//! and why the watchdog fired is read from the guard, because the runtime's own
//! error for a terminated run says nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nobat_queue::backend::Lease;
use parking_lot::{Condvar, Mutex};

type Kill = Box<dyn FnOnce() + Send>;

/// Stands for no deadline: longer than any process runs.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Why a run was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its deadline passed.
    TimedOut,
    /// Its lease is lost: the job was cancelled, or another worker has it.
    Abandoned,
}

/// A handle on the watchdog's thread, which ends with the last handle.
#[derive(Clone)]
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
    _owner: Arc<Owner>,
}

struct Owner(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    // Keyed by time, then by a serial number: two runs may share an instant.
    armed: BTreeMap<(Instant, u64), Run>,
    serial: u64,
    stop: bool,
}

struct Run {
    lease: Lease,
    kill: Kill,
    ended: Arc<OnceLock<Ended>>,
}

impl Run {
    fn end(self, why: Ended) {
        // Before the kill: the run's thread reads it right after.
        let _ = self.ended.set(why);
        (self.kill)();
    }
}

impl std::fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watchdog")
    }
}

impl Watchdog {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start() -> std::io::Result<Watchdog> {
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        std::thread::Builder::new().name("nobat-watchdog".into()).spawn(move || watch(&for_thread))?;
        Ok(Watchdog { _owner: Arc::new(Owner(Arc::clone(&shared))), shared })
    }

    /// Calls `kill` at `at`, or when `lease` is lost before, unless the guard is
    /// dropped first.
    pub(crate) fn arm(&self, lease: Lease, at: Option<Instant>, kill: impl FnOnce() + Send + 'static) -> Armed<'_> {
        let ended = Arc::new(OnceLock::new());
        let mut state = self.shared.state.lock();
        state.serial += 1;
        let key = (at.unwrap_or_else(|| Instant::now() + NEVER), state.serial);
        state.armed.insert(key, Run { lease, kill: Box::new(kill), ended: Arc::clone(&ended) });
        let wakes = at.is_some() && state.armed.first_key_value().is_some_and(|(first, _)| *first == key);
        drop(state);
        if wakes {
            self.shared.changed.notify_one();
        }
        Armed { shared: &self.shared, key, ended }
    }

    /// Ends the armed runs of these leases.
    pub(crate) fn end(&self, lost: &[Lease]) {
        let runs: Vec<Run> = {
            let mut state = self.shared.state.lock();
            state.armed.extract_if(.., |_, run| lost.contains(&run.lease)).map(|(_, run)| run).collect()
        };
        runs.into_iter().for_each(|run| run.end(Ended::Abandoned));
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.state.lock().stop = true;
        self.0.changed.notify_one();
    }
}

fn watch(shared: &Shared) {
    let mut state = shared.state.lock();
    while !state.stop {
        let now = Instant::now();
        match state.armed.first_key_value().map(|(&key, _)| key) {
            Some(key) if key.0 <= now => {
                if let Some(run) = state.armed.remove(&key) {
                    run.end(Ended::TimedOut);
                }
            }
            Some(key) => {
                shared.changed.wait_for(&mut state, key.0 - now);
            }
            None => {
                shared.changed.wait_for(&mut state, Duration::from_secs(3600));
            }
        }
    }
}

/// An armed run; dropping it disarms.
pub(crate) struct Armed<'a> {
    shared: &'a Shared,
    key: (Instant, u64),
    ended: Arc<OnceLock<Ended>>,
}

impl Armed<'_> {
    /// Whether the watchdog ended the run, and why.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.ended.get().copied()
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().armed.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use nobat_core::JobId;
    use nobat_core::job::LeaseToken;

    use super::*;

    fn lease(job: u128) -> Lease {
        (JobId { random: job, tombstone_min: 0, mac: 0, locator: 0 }, LeaseToken(1))
    }

    fn arm(watchdog: &Watchdog, job: u128, after_ms: Option<u64>) -> (Armed<'_>, mpsc::Receiver<()>) {
        let (tell, told) = mpsc::channel();
        let at = after_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
        let armed = watchdog.arm(lease(job), at, move || {
            let _ = tell.send(());
        });
        (armed, told)
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn an_armed_run_is_ended_and_a_disarmed_one_is_not() {
        let watchdog = Watchdog::start().expect("a thread");
        let (spared, unharmed) = arm(&watchdog, 1, Some(40));
        drop(spared);
        let (armed, ended) = arm(&watchdog, 2, Some(80));
        ended.recv_timeout(SOON).expect("the watchdog fires");
        assert_eq!(armed.ended(), Some(Ended::TimedOut));
        assert!(unharmed.try_recv().is_err());
    }

    #[test]
    fn a_run_whose_lease_is_lost_is_ended_and_its_neighbour_is_not() {
        let watchdog = Watchdog::start().expect("a thread");
        let (lost, ended) = arm(&watchdog, 1, None);
        let (kept, unharmed) = arm(&watchdog, 2, None);
        watchdog.end(&[lease(1), lease(3)]);
        ended.recv_timeout(SOON).expect("the watchdog ends it");
        assert_eq!((lost.ended(), kept.ended()), (Some(Ended::Abandoned), None));
        assert!(unharmed.try_recv().is_err());
    }
}
