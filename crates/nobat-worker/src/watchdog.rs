//! Ends runs that outlive their deadline: one thread per process that sleeps
//! until the nearest one.
//!
//! A run is armed with what ends it and disarmed when its guard drops; whether
//! the watchdog fired is read from the guard, because the runtime's own error
//! for a terminated run says nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

type Kill = Box<dyn FnOnce() + Send>;

/// A handle on the watchdog's thread, which ends with the last handle.
#[derive(Clone)]
pub struct Watchdog {
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
    armed: BTreeMap<(Instant, u64), (Kill, Arc<AtomicBool>)>,
    serial: u64,
    stop: bool,
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
    pub fn start() -> std::io::Result<Watchdog> {
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        std::thread::Builder::new().name("nobat-watchdog".into()).spawn(move || watch(&for_thread))?;
        Ok(Watchdog { _owner: Arc::new(Owner(Arc::clone(&shared))), shared })
    }

    /// Calls `kill` at `at` unless the guard is dropped before.
    pub fn arm(&self, at: Instant, kill: impl FnOnce() + Send + 'static) -> Armed<'_> {
        let fired = Arc::new(AtomicBool::new(false));
        let mut state = self.shared.state.lock();
        state.serial += 1;
        let key = (at, state.serial);
        state.armed.insert(key, (Box::new(kill), Arc::clone(&fired)));
        drop(state);
        self.shared.changed.notify_one();
        Armed { shared: &self.shared, key, fired }
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
                if let Some((kill, fired)) = state.armed.remove(&key) {
                    fired.store(true, Ordering::Release);
                    kill();
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
pub struct Armed<'a> {
    shared: &'a Shared,
    key: (Instant, u64),
    fired: Arc<AtomicBool>,
}

impl Armed<'_> {
    /// Whether the watchdog ended the run.
    pub fn fired(&self) -> bool {
        self.fired.load(Ordering::Acquire)
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().armed.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_armed_run_is_ended_and_a_disarmed_one_is_not() {
        let watchdog = Watchdog::start().expect("a thread");
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let spared =
            watchdog.arm(Instant::now() + Duration::from_millis(40), move || flag.store(true, Ordering::Release));
        drop(spared);
        let (tell, told) = std::sync::mpsc::channel();
        let armed = watchdog.arm(Instant::now() + Duration::from_millis(80), move || {
            let _ = tell.send(());
        });
        told.recv_timeout(Duration::from_secs(10)).expect("the watchdog fires");
        assert!(armed.fired());
        assert!(!ended.load(Ordering::Acquire));
    }
}
