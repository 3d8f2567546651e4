//! Whether a job can make its deadline: the queue's length and pace, as the
//! monitor last saw them. Pure but for the shared table.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use nobat_core::{Error, ErrorCode, Result};
use smol_str::SmolStr;

/// One queue at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// Jobs waiting.
    pub queued: u64,
    /// Jobs that ended per second while others waited; 0 when not known.
    pub per_s: f64,
}

impl Pace {
    /// When a job enqueued now would have its turn; `None` when not known.
    pub fn wait(self) -> Option<Duration> {
        match self.queued {
            0 => Some(Duration::ZERO),
            queued if self.per_s > 0.0 => Duration::try_from_secs_f64(queued as f64 / self.per_s).ok(),
            _ => None,
        }
    }
}

/// The pace of every queue. A clone-able handle; reading takes no lock.
#[derive(Clone, Default)]
pub struct Backlog {
    paces: Arc<ArcSwap<HashMap<SmolStr, Pace>>>,
}

impl Backlog {
    /// Takes over what was seen last.
    pub fn set(&self, paces: HashMap<SmolStr, Pace>) {
        self.paces.store(Arc::new(paces));
    }

    /// Refuses a job of priority 0 that by the present pace has its turn after
    /// its deadline: it would be dropped then, having cost its waiting.
    /// A higher priority may overtake the line, so it is let in.
    ///
    /// # Errors
    /// `queue_full` with `retry_after`, naming the wait and the deadline.
    pub fn check(&self, model: &str, priority: u8, deadline: Option<Duration>) -> Result<()> {
        let Some(deadline) = deadline else { return Ok(()) };
        let pace = self.paces.load().get(model).copied().unwrap_or_default();
        match pace.wait() {
            Some(wait) if priority == 0 && wait > deadline => Err(Error::new(
                ErrorCode::QueueFull,
                format!(
                    "{} jobs wait for model `{model}` at {:.0} a second: a turn in {:.1} s is after the deadline of \
                     {:.1} s; try later or give more time",
                    pace.queued,
                    pace.per_s,
                    wait.as_secs_f64(),
                    deadline.as_secs_f64()
                ),
            )
            .retry_after((wait - deadline).clamp(Duration::from_secs(1), Duration::from_secs(60)))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_job_that_cannot_make_it_is_refused() {
        let backlog = Backlog::default();
        backlog.set(HashMap::from([
            ("busy".into(), Pace { queued: 1_000, per_s: 100.0 }),
            ("stuck".into(), Pace { queued: 1_000, per_s: 0.0 }),
        ]));
        let seconds = |s| Some(Duration::from_secs(s));
        let error = backlog.check("busy", 0, seconds(4)).expect_err("ten seconds are over four");
        assert_eq!((error.code, error.retry_after), (ErrorCode::QueueFull, seconds(6)));
        assert!(backlog.check("busy", 0, seconds(11)).is_ok());
        assert!(backlog.check("busy", 0, None).is_ok(), "no deadline");
        assert!(backlog.check("busy", 5, seconds(4)).is_ok(), "it may overtake the line");
        assert!(backlog.check("stuck", 0, seconds(4)).is_ok(), "an unknown pace refuses nobody");
        assert!(backlog.check("idle", 0, seconds(0)).is_ok());
    }
}
