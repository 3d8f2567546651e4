//! Whether a job can make its deadline: how many jobs are before it, and the
//! pace at which they are answered.
//!
//! A queue's length changes within milliseconds and the monitor looks every few
//! seconds, so the length is carried on in between: calls that wait here are
//! counted exactly, from admission to answer; what others sent is taken from
//! the last look, drained since at the pace seen then.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use nobat_core::{Error, ErrorCode, Result};
use smol_str::SmolStr;

/// Share of a deadline that is kept for the run and for the estimate's error ...
const RESERVE: f64 = 0.15;
/// ... and the most of it: neither grows with the deadline.
const RESERVE_MAX: Duration = Duration::from_millis(250);

/// One queue as a look found it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// Jobs waiting or running.
    pub jobs: u64,
    /// Jobs answered per second while others waited; 0 when not known.
    pub per_s: f64,
}

/// The jobs before a new one, by queue. A clone-able handle; admission takes no lock.
#[derive(Clone)]
pub struct Backlog {
    started: Instant,
    lines: Arc<ArcSwap<HashMap<SmolStr, Arc<Line>>>>,
}

/// One queue's line.
#[derive(Default)]
struct Line {
    /// Jobs whose callers wait here.
    waited: AtomicU64,
    /// Other jobs at the last look, and those sent since without a wait.
    others: AtomicU64,
    /// The pace at the last look, as the bits of an `f64`.
    per_s: AtomicU64,
    /// When that was, microseconds since `started`.
    seen_us: AtomicU64,
}

/// A waited-for job, counted until it is dropped.
pub struct BacklogPermit(Arc<Line>);

/// What becomes of the caller of an admitted job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// It waits for the answer.
    Waits,
    /// It comes back later.
    Leaves,
}

impl Default for Backlog {
    fn default() -> Backlog {
        Backlog { started: Instant::now(), lines: Arc::default() }
    }
}

impl Backlog {
    /// Takes over what a look at `now` found.
    pub fn set(&self, paces: impl IntoIterator<Item = (SmolStr, Pace)>, now: Instant) {
        let known = self.lines.load_full();
        let lines = paces.into_iter().map(|(model, pace)| {
            let line = known.get(&model).cloned().unwrap_or_default();
            line.others.store(pace.jobs.saturating_sub(line.waited.load(Relaxed)), Relaxed);
            line.per_s.store(pace.per_s.to_bits(), Relaxed);
            line.seen_us.store(self.micros(now), Relaxed);
            (model, line)
        });
        self.lines.store(Arc::new(lines.collect()));
    }

    /// Lets a job in, and counts it. Refuses one of priority 0 that by the present
    /// length and pace is answered after its deadline: it would be dropped then,
    /// having cost its waiting. A higher priority may overtake the line.
    ///
    /// Returns the job's permit, to be held while it is waited for; `None` where
    /// nobody waits or the queue has not been looked at yet.
    ///
    /// # Errors
    /// `queue_full` with `retry_after`, naming the wait and the deadline.
    pub fn admit(
        &self,
        model: &str,
        priority: u8,
        deadline: Option<Duration>,
        caller: Caller,
        now: Instant,
    ) -> Result<Option<BacklogPermit>> {
        let lines = self.lines.load();
        let Some(line) = lines.get(model) else { return Ok(None) };
        if let (0, Some(deadline)) = (priority, deadline) {
            line.judge(model, deadline, self.micros(now))?;
        }
        match caller {
            Caller::Leaves => {
                line.others.fetch_add(1, Relaxed);
                Ok(None)
            }
            Caller::Waits => {
                line.waited.fetch_add(1, Relaxed);
                Ok(Some(BacklogPermit(line.clone())))
            }
        }
    }

    fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_micros()).unwrap_or(u64::MAX)
    }
}

impl Line {
    fn judge(&self, model: &str, deadline: Duration, now_us: u64) -> Result<()> {
        let per_s = f64::from_bits(self.per_s.load(Relaxed));
        if per_s <= 0.0 {
            return Ok(());
        }
        let since_s = now_us.saturating_sub(self.seen_us.load(Relaxed)) as f64 / 1e6;
        let others = (self.others.load(Relaxed) as f64 - per_s * since_s).max(0.0);
        let jobs = others + self.waited.load(Relaxed) as f64;
        let wait = Duration::try_from_secs_f64(jobs / per_s).unwrap_or(Duration::MAX);
        let reserve = deadline.mul_f64(RESERVE).min(RESERVE_MAX);
        if wait <= deadline - reserve {
            return Ok(());
        }
        let again = wait.saturating_sub(deadline).clamp(Duration::from_secs(1), Duration::from_secs(60));
        Err(Error::new(
            ErrorCode::QueueFull,
            format!(
                "{jobs:.0} jobs are before this one at model `{model}` and {per_s:.0} a second are answered: it would \
                 have to wait {:.3} s, with a deadline of {:.3} s; try later or give more time",
                wait.as_secs_f64(),
                deadline.as_secs_f64()
            ),
        )
        .retry_after(again))
    }
}

impl Drop for BacklogPermit {
    fn drop(&mut self) {
        self.0.waited.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(s: u64) -> Option<Duration> {
        Some(Duration::from_secs(s))
    }

    fn backlog(now: Instant) -> Backlog {
        let backlog = Backlog::default();
        let paces = [
            ("busy".into(), Pace { jobs: 1_000, per_s: 100.0 }),
            ("stuck".into(), Pace { jobs: 1_000, per_s: 0.0 }),
            ("fast".into(), Pace { jobs: 0, per_s: 100.0 }),
        ];
        backlog.set(paces, now);
        backlog
    }

    #[test]
    fn only_a_job_that_cannot_make_it_is_refused() {
        let now = Instant::now();
        let backlog = backlog(now);
        let admit = |model, priority, deadline| backlog.admit(model, priority, deadline, Caller::Leaves, now);
        let error = admit("busy", 0, seconds(4)).err().expect("ten seconds are over four");
        assert_eq!((error.code, error.retry_after), (ErrorCode::QueueFull, seconds(6)));
        assert!(admit("busy", 0, seconds(10)).is_err(), "nothing would be left for the run");
        assert!(admit("busy", 0, seconds(11)).is_ok());
        assert!(admit("busy", 0, None).is_ok(), "no deadline");
        assert!(admit("busy", 5, seconds(4)).is_ok(), "it may overtake the line");
        assert!(admit("stuck", 0, seconds(4)).is_ok(), "an unknown pace refuses nobody");
        assert!(admit("new", 0, seconds(0)).is_ok(), "never looked at");
    }

    #[test]
    fn jobs_sent_since_the_look_count_until_they_would_have_drained() {
        let now = Instant::now();
        let backlog = backlog(now);
        let admit = |caller, at| backlog.admit("fast", 0, seconds(1), caller, at);
        // 85 in the 0.85 s that a deadline of a second leaves.
        let let_in = (0..200).filter(|_| admit(Caller::Leaves, now).is_ok()).count();
        assert_eq!(let_in, 86);
        let later = now + Duration::from_millis(505);
        let let_in = (0..200).filter(|_| admit(Caller::Leaves, later).is_ok()).count();
        assert_eq!(let_in, 50, "as many as have drained");
    }

    #[test]
    fn a_waited_job_counts_until_its_answer_whatever_the_pace_says() {
        let now = Instant::now();
        let backlog = backlog(now);
        let later = now + Duration::from_secs(60);
        let admit = |at| backlog.admit("fast", 0, seconds(1), Caller::Waits, at);
        let mut places: Vec<BacklogPermit> = (0..200).filter_map(|_| admit(now).ok().flatten()).collect();
        assert_eq!(places.len(), 86);
        assert!(admit(later).is_err(), "none was answered");
        // A look counts the same jobs: they are not others' as well.
        backlog.set([("fast".into(), Pace { jobs: 86, per_s: 100.0 })], later);
        places.pop();
        assert!(admit(later).is_ok(), "one was");
        drop(places);
        assert_eq!((0..200).filter_map(|_| admit(later).ok().flatten()).collect::<Vec<_>>().len(), 86);
    }
}
