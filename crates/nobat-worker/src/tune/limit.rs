//! The limit on a run at load, which belongs to no job.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nobat_core::JobId;
use nobat_core::job::LeaseToken;
use nobat_queue::backend::Lease;

use crate::engine::RunLimit;
use crate::watchdog::Watchdog;

/// Longest run at load. A row of the largest models takes seconds; a run of this length
/// most likely never ends, and no other model loads meanwhile.
pub(crate) const RUN_LIMIT: Duration = Duration::from_secs(30);
/// Stands for the lease in runs at load.
const NO_JOB: Lease = (JobId { random: 0, tombstone_min: 0, mac: 0, locator: 0 }, LeaseToken(0));

/// Ends the runs of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadLimit<'a> {
    pub(crate) watchdog: &'a Watchdog,
    /// The longest a run may take.
    pub(crate) run: Duration,
    /// Set by a drain: every run from then on is ended at once.
    pub(crate) stop: &'a AtomicBool,
}

impl LoadLimit<'_> {
    /// The limit of the next run.
    pub(crate) fn next(&self) -> RunLimit<'_> {
        let left = if self.stop.load(Ordering::Relaxed) { Duration::ZERO } else { self.run };
        RunLimit { at: Some(Instant::now() + left), lease: NO_JOB, watchdog: self.watchdog }
    }

    /// Ends the run of a load that is under way.
    pub(crate) fn end_run(watchdog: &Watchdog) {
        watchdog.end(&[NO_JOB]);
    }
}

/// A run of synthetic input that was ended by its [`LoadLimit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a run of synthetic input was ended after {} s; look for a loop that does not end on zeros and small numbers, or export a smaller model", .0.as_secs_f64()
)]
pub(crate) struct RunTimedOut(pub(crate) Duration);
