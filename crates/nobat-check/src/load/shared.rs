//! What the threads that send and the one that watches have in common.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::latencies::Latencies;
use super::tally::{Answer, Sample, Tally};

/// Not set yet.
const UNSET: u64 = u64::MAX;
/// Seconds of the warm-up that are told apart: a histogram each, in each thread.
const WARM_UP_SECONDS: usize = super::warm_up::PATIENCE;

/// The clock, and the moments that the watching thread decides.
#[derive(Debug)]
pub(super) struct Course {
    start: Instant,
    /// Nanoseconds from the start to the first run.
    from: AtomicU64,
    /// Length of a run, and how many.
    run: Duration,
    runs: usize,
    stopped: AtomicBool,
    /// Of all threads together: one that is answered shows that the server is there.
    silence: Mutex<Silence>,
    /// Requests of the silence: an answer looks here first, so that it takes the lock only to end one.
    silent: AtomicU64,
}

/// Where a moment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    WarmUp,
    Run(usize),
    After,
}

impl Course {
    pub(super) fn new(start: Instant, run: Duration, runs: usize) -> Course {
        Course {
            start,
            from: AtomicU64::new(UNSET),
            run,
            runs,
            stopped: AtomicBool::new(false),
            silence: Mutex::default(),
            silent: AtomicU64::new(0),
        }
    }

    pub(super) fn start(&self) -> Instant {
        self.start
    }

    /// Time since the start.
    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The first run begins now: what was due before stays of the warm-up.
    pub(super) fn begin(&self) -> Duration {
        let now = self.now();
        self.from.store(now.as_nanos() as u64, Ordering::Release);
        now
    }

    /// When the first run began.
    pub(super) fn from(&self) -> Option<Duration> {
        Some(self.from.load(Ordering::Acquire)).filter(|&from| from != UNSET).map(Duration::from_nanos)
    }

    /// When the last run ends.
    pub(super) fn until(&self) -> Option<Duration> {
        Some(self.from()? + self.run * self.runs as u32)
    }

    pub(super) fn place(&self, moment: Duration) -> Place {
        match self.from() {
            Some(from) if moment >= from => {
                let run = ((moment - from).as_nanos() / self.run.as_nanos().max(1)) as usize;
                if run < self.runs { Place::Run(run) } else { Place::After }
            }
            _ => Place::WarmUp,
        }
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// A request ended at `now`, with an answer or without any.
    fn heard(&self, now: Duration, answer: &Answer) {
        if !answer.silent && self.silent.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut silence = self.silence.lock().unwrap_or_else(PoisonError::into_inner);
        if answer.silent {
            silence.since.get_or_insert(now);
            silence.requests += 1;
            silence.words.clone_from(&answer.code);
        } else {
            *silence = Silence::default();
        }
        self.silent.store(silence.requests, Ordering::Relaxed);
    }

    /// The requests that got no answer at all, since any thread's last that did.
    pub(super) fn silence(&self) -> Silence {
        self.silence.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether nothing that is due at `moment` is sent any more.
    pub(super) fn is_over(&self, moment: Duration) -> bool {
        self.stopped.load(Ordering::Acquire) || self.place(moment) == Place::After
    }
}

/// What one thread counts.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Predictions of the warm-up, by the second in which they came; the last has all later ones.
    pub(super) warm_up: Vec<Latencies>,
    pub(super) runs: Vec<Tally>,
    /// How late the client itself was with requests for which a connection was free.
    pub(super) lag: Latencies,
    /// Requests that found no free connection.
    pub(super) waited: u64,
    /// Requests under way.
    pub(super) in_flight: u64,
    pub(super) samples: Vec<Sample>,
    /// The thread's name in `/proc`, to look up what it costs.
    pub(super) thread: Option<String>,
}

/// Requests that got no answer at all, since the last that did.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Silence {
    pub(super) since: Option<Duration>,
    pub(super) requests: u64,
    pub(super) words: String,
}

impl Counts {
    pub(super) fn new(runs: usize) -> Counts {
        Counts { runs: vec![Tally::default(); runs], ..Counts::default() }
    }

    /// A request is due.
    pub(super) fn due(&mut self, place: Place) {
        if let Place::Run(run) = place {
            self.runs[run].due += 1;
        }
    }

    /// A request that was due at `due` ended now.
    pub(super) fn ended(&mut self, course: &Course, due: Duration, answer: Answer, goal: Option<Duration>, list: bool) {
        let now = course.now();
        let took = now - due;
        self.in_flight -= 1;
        course.heard(now, &answer);
        match course.place(due) {
            Place::Run(run) => {
                self.runs[run].answer(took, &answer, goal);
                if list {
                    let due = due - course.from().unwrap_or_default();
                    self.samples.push(Sample { due, took, code: answer.code });
                }
            }
            Place::WarmUp if answer.right => {
                // What comes after the seconds that are judged counts with the last of them.
                let second = (now.as_secs() as usize).min(WARM_UP_SECONDS);
                if self.warm_up.len() <= second {
                    self.warm_up.resize_with(second + 1, Latencies::default);
                }
                self.warm_up[second].record(took);
            }
            Place::WarmUp | Place::After => {}
        }
    }
}

/// One thread's counts, and the lock that it shares with the one that watches: held for less
/// than a microsecond a request, and twice a second for a millisecond.
#[derive(Debug)]
pub(super) struct Ledger(Mutex<Counts>);

impl Ledger {
    pub(super) fn new(runs: usize) -> Ledger {
        Ledger(Mutex::new(Counts::new(runs)))
    }

    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counts are whole between any two statements: one that panicked left them usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_belongs_to_the_warm_up_until_the_first_run_begins() {
        let course = Course::new(Instant::now(), Duration::from_secs(2), 3);
        assert_eq!((course.place(Duration::from_secs(90)), course.until()), (Place::WarmUp, None));
        let from = course.begin();
        let at = |seconds: f64| course.place(from + Duration::from_secs_f64(seconds));
        assert_eq!(course.place(from - Duration::from_nanos(1)), Place::WarmUp);
        assert_eq!(
            [at(0.0), at(1.999), at(2.0), at(5.999), at(6.0)],
            [Place::Run(0), Place::Run(0), Place::Run(1), Place::Run(2), Place::After]
        );
        assert!(course.is_over(from + Duration::from_secs(6)) && !course.is_over(from));
        course.stop();
        assert!(course.is_over(from));
    }

    #[test]
    fn silence_is_counted_from_the_last_answer() {
        let course = Course::new(Instant::now(), Duration::from_secs(1), 1);
        course.begin();
        let (mut counts, gone) =
            (Counts::new(1), Answer { silent: true, code: "no answer".into(), ..Answer::default() });
        counts.in_flight = 2;
        for answer in [gone.clone(), gone] {
            counts.ended(&course, Duration::ZERO, answer, None, false);
        }
        let silence = course.silence();
        assert_eq!((silence.requests, silence.words.as_str(), counts.in_flight), (2, "no answer", 0));
        // Another thread's answer ends it.
        let mut other = Counts::new(1);
        other.in_flight = 1;
        other.ended(&course, Duration::ZERO, Answer { right: true, ..Answer::default() }, None, false);
        assert_eq!((course.silence(), other.in_flight), (Silence::default(), 0));
    }

    #[test]
    fn a_long_warm_up_keeps_no_histogram_for_every_second() {
        let course = Course::new(Instant::now() - Duration::from_secs(5_000), Duration::from_secs(1), 1);
        let mut counts = Counts::new(1);
        counts.in_flight = 1;
        counts.ended(&course, Duration::ZERO, Answer { right: true, ..Answer::default() }, None, false);
        assert_eq!(counts.warm_up.len(), WARM_UP_SECONDS + 1);
        assert_eq!(counts.warm_up.last().map(Latencies::count), Some(1));
    }
}
