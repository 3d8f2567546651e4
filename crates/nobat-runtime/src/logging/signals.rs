//! Levels and files while running: SIGHUP reads the configuration again, SIGUSR1
//! logs one level more, SIGUSR2 goes back to the configured levels.

use signal_hook::consts::{SIGHUP, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::Logging;

/// Starts the thread that serves the signals. Without it the process would end
/// on the first of them; when it cannot start, logging still works.
pub(super) fn listen(logging: Logging) {
    let mut signals = match Signals::new([SIGHUP, SIGUSR1, SIGUSR2]) {
        Ok(signals) => signals,
        Err(error) => return log::warn!("log levels cannot be changed by signal: {error}"),
    };
    let thread = std::thread::Builder::new().name("log-signals".into()).stack_size(256 * 1024);
    let spawned = thread.spawn(move || {
        for signal in signals.forever() {
            let changed = match signal {
                SIGUSR1 => logging.more(),
                SIGUSR2 => logging.restore(),
                _ => logging.reload(),
            };
            match changed {
                Ok(()) => log::info!(level:% = log::max_level(); "logging changed by signal"),
                Err(error) => log::error!("logging stays as it is: {error}"),
            }
        }
    });
    if let Err(error) = spawned {
        log::warn!("log levels cannot be changed by signal: {error}");
    }
}
