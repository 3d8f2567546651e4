//! What the writer cannot notice: a folder that goes while nothing is committed, and
//! a commit that does not end.
//!
//! A thread of its own looks four times a second, two or three file names and one
//! number under the lock. What it finds stops the taking of new jobs as a
//! failed commit does; the next commit that succeeds, a trial at the latest, ends that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::store::EmbeddedStore;

/// Between two checks.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// A commit that takes longer hangs: what arrives behind it would wait for nobody
/// knows how long, and what is answered from memory would pile up before the disk.
const HANGS_AFTER_US: u64 = 1_000_000;

/// Checks until the queue is dropped.
pub(super) fn run(store: Arc<EmbeddedStore>) {
    let mut state = store.state.lock();
    while !state.stop {
        store.ended.wait_until(&mut state, Instant::now() + CHECK_EVERY);
        store.log_changes(&mut state);
        if state.stop || state.down.is_some() {
            continue;
        }
        let lost = parking_lot::MutexGuard::unlocked(&mut state, || store.folder.lost());
        let now_us = store.clock.now_us();
        let hangs = state.committing_us.filter(|&since_us| now_us >= since_us + HANGS_AFTER_US);
        if let Some(why) = lost {
            store.close(&mut state, &why);
            // It tries, and goes on trying.
            store.work.notify_one();
        } else if hangs.is_some() {
            store.close(
                &mut state,
                "does not answer: a write has been under way for over a second; look at its disk, jobs are accepted again when the write ends",
            );
        }
    }
}
