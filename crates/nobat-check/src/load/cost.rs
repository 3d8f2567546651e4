//! What a thread of this process costs, as Linux counts it; elsewhere nothing is known.

use std::time::{Duration, Instant};

/// How long a thread has run on a core, and when that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct ThreadCost {
    ran: Duration,
    at: Instant,
}

impl ThreadCost {
    /// Of the thread with this number.
    pub(super) fn of(thread: &str) -> Option<ThreadCost> {
        let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
        let ran = text.split_ascii_whitespace().next()?.parse().ok()?;
        Some(ThreadCost { ran: Duration::from_nanos(ran), at: Instant::now() })
    }

    /// The share of a core since an earlier reading.
    pub(super) fn since(&self, before: &ThreadCost) -> f64 {
        self.ran.saturating_sub(before.ran).as_secs_f64() / (self.at - before.at).as_secs_f64().max(1e-9)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_works_costs_and_one_that_waits_does_not() {
        let own = std::fs::read_link("/proc/thread-self").expect("a link");
        let own = own.file_name().expect("a number").to_str().expect("text");
        let before = ThreadCost::of(own).expect("a reading");
        std::thread::sleep(Duration::from_millis(30));
        let waited = ThreadCost::of(own).expect("a reading");
        assert!(waited.since(&before) < 0.5, "{}", waited.since(&before));
        while ThreadCost::of(own).expect("a reading").ran < waited.ran + Duration::from_millis(30) {}
        let worked = ThreadCost::of(own).expect("a reading");
        assert!(worked.ran - waited.ran >= Duration::from_millis(30));
        assert!(ThreadCost::of("0").is_none());
    }
}
