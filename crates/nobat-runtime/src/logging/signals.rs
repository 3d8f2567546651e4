//! Levels and files while running: SIGHUP reads the configuration again, SIGUSR1
//! logs one level more, SIGUSR2 goes back to the configured levels.

use signal_hook::consts::{SIGHUP, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use nobat_core::Result;

/// What a signal asks of the levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LevelChange {
    /// They stay.
    Keep,
    /// One more everywhere, up to trace.
    More,
    /// Back to the configured ones.
    Restore,
}

/// Starts the thread that serves the signals. Without it the process would end
/// on the first of them; when it cannot start, logging still works.
pub(super) fn listen(apply: impl Fn(LevelChange) -> Result<()> + Send + 'static) {
    let mut signals = match Signals::new([SIGHUP, SIGUSR1, SIGUSR2]) {
        Ok(signals) => signals,
        Err(error) => return log::warn!("log levels cannot be changed by signal: {error}"),
    };
    let thread = std::thread::Builder::new().name("log-signals".into()).stack_size(256 * 1024);
    let spawned = thread.spawn(move || {
        for signal in signals.forever() {
            let change = match signal {
                SIGUSR1 => LevelChange::More,
                SIGUSR2 => LevelChange::Restore,
                _ => LevelChange::Keep,
            };
            match apply(change) {
                Ok(()) => log::info!(level:% = log::max_level(); "logging changed by signal"),
                Err(error) => log::error!("logging stays as it is: {error}"),
            }
        }
    });
    if let Err(error) = spawned {
        log::warn!("log levels cannot be changed by signal: {error}");
    }
}
