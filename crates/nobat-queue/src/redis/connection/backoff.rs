//! Pauses between tries.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(20);
const MOST: Duration = Duration::from_millis(500);

/// Doubling pauses between tries, with jitter so that a fleet does not return
/// in one instant.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to pause after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.min(8)).min(MOST);
        self.failures += 1;
        full.mul_f64(rand::random_range(0.5..1.0))
    }

    /// Forgets past failures.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}
