//! SIGTERM and SIGINT: when a process is asked to end.
//!
//! What was asked stays asked: a part of the start that hears of it and goes on
//! leaves it to be heard by the next part. A second signal is another question,
//! [`Stop::again`].

use crate::streams::tell;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::notify;

/// The signals that ask a process to drain. Make it before anything that takes
/// time, so that a stop during the start is heard.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
    /// Signals so far.
    asked: u32,
}

impl Stop {
    /// Listens from now on; inside a tokio runtime.
    ///
    /// # Errors
    /// When the system refuses the handlers.
    pub fn listen() -> io::Result<Stop> {
        Ok(Stop { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())?, asked: 0 })
    }

    /// Resolves once the process has been asked to end, at once from then on.
    ///
    /// # Cancel safety
    /// Cancel safe: no signal is lost.
    pub async fn asked(&mut self) {
        self.reach(1).await;
    }

    /// Resolves once the process has been asked again: it ends without finishing
    /// what it drains.
    ///
    /// # Cancel safety
    /// Cancel safe: no signal is lost.
    pub async fn again(&mut self) {
        self.reach(2).await;
    }

    /// Does a part of the start; `None`, and the rest of it is dropped, once the
    /// process has been asked to end.
    pub async fn unless_asked<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.asked() => None,
            done = work => Some(done),
        }
    }

    /// Drains, which the service manager is told; asked again, the process ends at once,
    /// and `program` says so with `what` of it.
    pub async fn drain<T>(&mut self, program: &str, what: &str, work: impl Future<Output = T>) -> T {
        notify::stopping();
        tokio::select! {
            done = work => done,
            () = self.again() => {
                tell(format_args!("{program}: ended by a second signal before the drain was done{what}"));
                exit_now(1)
            }
        }
    }

    async fn reach(&mut self, count: u32) {
        while self.asked < count {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            self.asked += 1;
        }
    }
}

/// Ends the process at once. Threads may be inside native libraries, whose
/// clean-up at a normal exit would take what they use from under them; here none
/// of it runs.
fn exit_now(code: i32) -> ! {
    log::logger().flush();
    signal_hook::low_level::exit(code)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn raise(signal: &str) {
        let own = std::process::id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &own]).status().expect("kill runs").success());
    }

    /// One test: signals are the process's.
    #[tokio::test]
    async fn what_was_asked_during_the_start_is_heard_by_every_later_part_of_it() {
        let mut stop = Stop::listen().expect("handlers");
        assert_eq!(stop.unless_asked(async { 7 }).await, Some(7));
        raise("-TERM");
        assert_eq!(stop.unless_asked(std::future::pending::<()>()).await, None);
        assert_eq!(stop.unless_asked(async { 7 }).await, None, "the next part hears of it too");
        stop.asked().await;
        let again = tokio::time::timeout(Duration::from_millis(50), stop.again()).await;
        assert!(again.is_err(), "one signal is not two");
        raise("-INT");
        stop.again().await;
        stop.again().await;
    }
}
