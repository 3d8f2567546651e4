//! The threads that prepare jobs beside the sessions: tokenizing and decoding, so that a
//! session's thread only runs.
//!
//! What waits for them is bounded by what is leased. They end when nobody holds a handle.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Sender, unbounded};

/// A handle on the threads.
#[derive(Clone, Debug)]
pub(crate) struct TransformThreads {
    work: Sender<Work>,
}

type Work = Box<dyn FnOnce() + Send>;

impl TransformThreads {
    /// Starts so many threads, at least one.
    pub(crate) fn start(count: u32) -> std::io::Result<TransformThreads> {
        let (work, inbox) = unbounded::<Work>();
        for number in 0..count.max(1) {
            let inbox = inbox.clone();
            std::thread::Builder::new().name(format!("nobat-prep-{number}")).spawn(move || {
                for work in inbox {
                    // Who hands in work sees to what becomes of it; the thread goes on.
                    if catch_unwind(AssertUnwindSafe(work)).is_err() {
                        log::error!("preparing a job panicked outside its transformation");
                    }
                }
            })?;
        }
        Ok(TransformThreads { work })
    }

    /// Runs `work` on one of the threads.
    pub(crate) fn run(&self, work: impl FnOnce() + Send + 'static) {
        // The threads live as long as this handle.
        let _ = self.work.send(Box::new(work));
    }
}
