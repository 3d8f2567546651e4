//! What the writer cannot notice: a folder that goes while nothing is committed, and
//! a commit that does not end.
//!
//! A thread of its own looks four times a second, two or three file names and one
//! number under the lock. What it finds closes the door for new jobs as a failed
//! commit does; the next commit that succeeds, a trial at the latest, opens it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shared::Shared;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// A commit that takes longer hangs: what arrives behind it would wait for nobody
/// knows how long, and what is answered from memory would pile up before the disk.
const HANGS_AFTER_US: u64 = 1_000_000;

/// Looks until the queue is dropped.
pub(super) fn run(shared: Arc<Shared>) {
    let mut state = shared.state.lock();
    while !state.stop {
        shared.ended.wait_until(&mut state, Instant::now() + LOOK);
        shared.say(&mut state);
        if state.stop || state.down.is_some() {
            continue;
        }
        let lost = parking_lot::MutexGuard::unlocked(&mut state, || shared.folder.lost());
        let now_us = shared.clock.now_us();
        let hangs = state.committing_us.filter(|&since_us| now_us >= since_us + HANGS_AFTER_US);
        if let Some(why) = lost {
            shared.close(&mut state, &why);
            // It tries, and goes on trying.
            shared.work.notify_one();
        } else if hangs.is_some() {
            shared.close(
                &mut state,
                "does not answer: a write has been under way for over a second; look at its disk, jobs are accepted again when the write ends",
            );
        }
    }
}
