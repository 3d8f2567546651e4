//! Waiting for a state instead of for a time.

use std::time::{Duration, Instant};

/// Long enough for anything that happens at all, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const EVERY: Duration = Duration::from_millis(5);

/// Blocks until `holds`.
///
/// # Panics
/// When it does not within [`PATIENCE`]; `what` says what did not come.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come within {PATIENCE:?}");
        std::thread::sleep(EVERY);
    }
}

/// Waits until `holds`.
///
/// # Panics
/// As [`until`].
pub async fn until_async(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what} did not come within {PATIENCE:?}");
        tokio::time::sleep(EVERY).await;
    }
}
