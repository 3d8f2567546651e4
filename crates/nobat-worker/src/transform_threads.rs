//! The threads that prepare jobs beside the sessions: tokenizing and decoding, so that a
//! session's thread only runs.
//!
//! What waits for them is bounded by what is leased; what somebody waits for goes before what runs in the
//! background. They end when nobody holds a handle.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Sender, select_biased, unbounded};

/// A handle on the threads.
#[derive(Clone, Debug)]
pub(crate) struct TransformThreads {
    waited_for: Sender<Work>,
    background: Sender<Work>,
}

type Work = Box<dyn FnOnce() + Send>;

impl TransformThreads {
    /// Starts so many threads, at least one.
    pub(crate) fn start(count: u32) -> std::io::Result<TransformThreads> {
        let (waited_for, first) = unbounded::<Work>();
        let (background, second) = unbounded::<Work>();
        for number in 0..count.max(1) {
            let (first, second) = (first.clone(), second.clone());
            std::thread::Builder::new().name(format!("nobat-prep-{number}")).spawn(move || {
                // Both end together.
                while let Ok(work) = select_biased! { recv(first) -> work => work, recv(second) -> work => work } {
                    // Who hands in work sees to what becomes of it; the thread goes on.
                    if catch_unwind(AssertUnwindSafe(work)).is_err() {
                        log::error!("preparing a job panicked outside its transformation");
                    }
                }
            })?;
        }
        Ok(TransformThreads { waited_for, background })
    }

    /// Runs `work` on one of the threads, after that which somebody waits for where it is in
    /// the `background`.
    pub(crate) fn run(&self, background: bool, work: impl FnOnce() + Send + 'static) {
        let inbox = if background { &self.background } else { &self.waited_for };
        // The threads live as long as this handle.
        let _ = inbox.send(Box::new(work));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_waits_for_is_prepared_before_what_runs_in_the_background() {
        let threads = TransformThreads::start(1).expect("a thread");
        let (go, gate) = unbounded::<()>();
        let (done, order) = unbounded::<u32>();
        threads.run(true, move || gate.recv().expect("it is opened"));
        for (number, background) in [(1, true), (2, false), (3, true), (4, false)] {
            let done = done.clone();
            threads.run(background, move || done.send(number).expect("it is looked at"));
        }
        go.send(()).expect("the thread waits");
        assert_eq!(order.iter().take(4).collect::<Vec<_>>(), [2, 4, 1, 3]);
    }
}
