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

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nobat_queue::backend::Lease;
use parking_lot::Mutex;

/// Stands for no deadline: longer than any process runs.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    TimedOut,
    /// Its lease is lost: the job was cancelled, or another worker has it.
    Abandoned,
}

/// A handle on the watchdog's thread, which ends with the last handle.
#[derive(Clone, Debug)]
pub(crate) struct Watchdog {
    runs: Arc<Mutex<Runs>>,
    /// Wakes the thread: the nearest deadline has changed.
    wake: Sender<()>,
}

#[derive(Debug, Default)]
struct Runs {
    // Keyed by time, then by a serial number: two runs may share an instant.
    armed: BTreeMap<(Instant, u64), Run>,
    serial: u64,
}

struct Run {
    lease: Lease,
    kill: Box<dyn FnOnce() + Send>,
    ended: Arc<OnceLock<Ended>>,
}

impl Run {
    fn end(self, why: Ended) {
        // Before the kill: the run's thread reads it right after.
        let _ = self.ended.set(why);
        (self.kill)();
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lease.fmt(f)
    }
}

impl Watchdog {
    pub(crate) fn start() -> std::io::Result<Watchdog> {
        let runs = Arc::new(Mutex::new(Runs::default()));
        let (wake, wakes) = bounded(1);
        let for_thread = Arc::clone(&runs);
        std::thread::Builder::new().name("nobat-watchdog".into()).spawn(move || watch(&for_thread, &wakes))?;
        Ok(Watchdog { runs, wake })
    }

    /// Calls `kill` at `at`, or when `lease` is lost before, unless the guard is
    /// dropped first.
    pub(crate) fn arm(&self, lease: Lease, at: Option<Instant>, kill: impl FnOnce() + Send + 'static) -> Armed<'_> {
        let ended = Arc::new(OnceLock::new());
        let mut runs = self.runs.lock();
        runs.serial += 1;
        let key = (at.unwrap_or_else(|| Instant::now() + NEVER), runs.serial);
        runs.armed.insert(key, Run { lease, kill: Box::new(kill), ended: Arc::clone(&ended) });
        let wakes = at.is_some() && runs.armed.first_key_value().is_some_and(|(first, _)| *first == key);
        drop(runs);
        if wakes {
            // Where the channel is full the thread is about to wake anyway.
            let _ = self.wake.try_send(());
        }
        Armed { runs: &self.runs, key, ended }
    }

    /// Ends the armed runs of these leases.
    pub(crate) fn end(&self, lost: &[Lease]) {
        let ended: Vec<Run> = {
            let mut runs = self.runs.lock();
            runs.armed.extract_if(.., |_, run| lost.contains(&run.lease)).map(|(_, run)| run).collect()
        };
        ended.into_iter().for_each(|run| run.end(Ended::Abandoned));
    }
}

fn watch(runs: &Mutex<Runs>, wakes: &Receiver<()>) {
    loop {
        let next = {
            let mut runs = runs.lock();
            let now = Instant::now();
            while let Some(first) = runs.armed.first_entry().filter(|first| first.key().0 <= now) {
                first.remove().end(Ended::TimedOut);
            }
            runs.armed.first_key_value().map_or(now + NEVER, |(key, _)| key.0)
        };
        if wakes.recv_deadline(next) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

/// An armed run; dropping it disarms.
pub(crate) struct Armed<'a> {
    runs: &'a Mutex<Runs>,
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
        self.runs.lock().armed.remove(&self.key);
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
