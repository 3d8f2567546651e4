//! The store's clock: wall-clock microseconds that never go back.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Reads the wall clock once, at the start, and then only counts on: a host
/// whose clock is set while the process runs reorders nothing and expires no
/// lease.
pub(super) struct StoreClock {
    base_us: u64,
    start: Instant,
}

impl StoreClock {
    pub(super) fn start() -> StoreClock {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        StoreClock { base_us: since_1970.as_micros() as u64, start: Instant::now() }
    }

    /// Microseconds since 1970.
    pub(super) fn now_us(&self) -> u64 {
        self.base_us + self.start.elapsed().as_micros() as u64
    }

    /// The instant at which the clock will show `at_us`.
    pub(super) fn instant(&self, at_us: u64) -> Instant {
        self.start + std::time::Duration::from_micros(at_us.saturating_sub(self.base_us))
    }
}
