//! Steps of chains on their way into a model's sessions, without leaving the process.
//!
//! A step looks to a session like any leased job: same batches, same triage, same runs. It
//! differs by its token, which no store gives, and by where its settlement goes: to
//! whoever waits for it, at once.
//!
//! Invariants:
//! - A step that was submitted gets exactly one outcome, or is cancelled.
//! - A session that waits for work is woken by a step; one that runs finds it afterwards.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nobat_core::infer::InferRequest;
use nobat_core::job::{LeaseToken, LeasedJob, Outcome, Settlement};
use nobat_queue::backend::Lease;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::watchdog::Watchdog;

static NEXT: AtomicU64 = AtomicU64::new(LeaseToken::OWN);
/// Cancelled steps that are remembered, for sessions that hold one to let go of it.
const CANCELLED: usize = 1_024;

/// Whether a lease is that of a step, which no store knows.
pub(crate) fn is_step(lease: &Lease) -> bool {
    lease.1.is_own()
}

/// A step to run.
#[derive(Clone)]
pub(crate) struct NewStep {
    /// The chain's job, whose id, priority, retries and trace the step has.
    pub(crate) of: LeasedJob,
    /// When that was leased.
    pub(crate) leased: Instant,
    pub(crate) request: InferRequest,
    pub(crate) rows: u32,
    pub(crate) deadline: Option<Instant>,
}

struct WaitingStep {
    job: LeasedJob,
    step: NewStep,
    since: Instant,
}

/// The steps of one model, for all its sessions.
#[derive(Default)]
pub(crate) struct StepQueue {
    inner: Mutex<Steps>,
}

#[derive(Default)]
struct Steps {
    closed: bool,
    /// The most urgent first; of one priority in their order.
    waiting: VecDeque<WaitingStep>,
    /// Whoever waits, for steps that wait or run.
    answers: BTreeMap<Lease, oneshot::Sender<Outcome>>,
    cancelled: VecDeque<Lease>,
    /// How many were cancelled, ever.
    cancellations: u64,
    seats: Vec<Weak<StepSeat>>,
}

/// One session's end.
#[derive(Debug)]
pub(crate) struct StepSeat {
    /// Told when there may be a step.
    pub(crate) wake: Arc<Notify>,
    idle: AtomicBool,
    /// Cancellations that it has seen.
    seen: AtomicU64,
}

impl std::fmt::Debug for StepQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StepQueue({} waiting)", self.inner.lock().waiting.len())
    }
}

impl StepQueue {
    /// A session's end of it, which is woken by `wake`, until it is dropped.
    pub(crate) fn seat(&self, wake: Arc<Notify>) -> Arc<StepSeat> {
        let mut inner = self.inner.lock();
        let seen = AtomicU64::new(inner.cancellations);
        let seat = Arc::new(StepSeat { wake, idle: AtomicBool::new(false), seen });
        inner.seats.retain(|other| other.strong_count() > 0);
        inner.seats.push(Arc::downgrade(&seat));
        seat
    }

    /// Hands a step to the model's sessions; `None` when it has none any more.
    pub(crate) fn submit(self: &Arc<Self>, step: NewStep, watchdog: &Watchdog) -> Option<PendingStep> {
        let token = LeaseToken(NEXT.fetch_add(1, Ordering::Relaxed));
        let job = LeasedJob { token, payload: Bytes::new(), rows: step.rows, ..step.of.clone() };
        let lease = (job.id, job.token);
        let (answer, outcome) = oneshot::channel();
        let mut inner = self.inner.lock();
        if inner.closed {
            return None;
        }
        inner.answers.insert(lease, answer);
        let at = inner.waiting.partition_point(|other| other.job.priority >= job.priority);
        inner.waiting.insert(at, WaitingStep { job, step, since: Instant::now() });
        inner.wake_one();
        Some(PendingStep { queue: Arc::clone(self), lease, outcome, watchdog: watchdog.clone() })
    }

    /// Takes steps of up to `room` rows, the most urgent first, or one of any size where
    /// `any` holds. The session counts as idle until it says that it runs.
    pub(crate) fn take(&self, seat: &StepSeat, room: u32, any: bool) -> Vec<(LeasedJob, InferRequest)> {
        let mut inner = self.inner.lock();
        seat.idle.store(true, Ordering::Relaxed);
        let (mut taken, mut rows) = (Vec::new(), 0u32);
        while let Some(next) = inner.waiting.front() {
            rows = rows.saturating_add(next.step.rows);
            if rows > room && !(any && taken.is_empty()) {
                break;
            }
            let Some(WaitingStep { mut job, step, since }) = inner.waiting.pop_front() else { break };
            let micros = |duration: Duration| duration.as_micros() as u64;
            // By the store's clock, as far as this process can tell.
            job.queued_at_us = step.of.leased_at_us + micros(since.saturating_duration_since(step.leased));
            job.leased_at_us = job.queued_at_us + micros(since.elapsed());
            job.time_left = step.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            taken.push((job, step.request));
        }
        taken
    }

    /// Notes that a session runs a batch; another one may take what waits.
    pub(crate) fn runs(&self, seat: &StepSeat) {
        let mut inner = self.inner.lock();
        seat.idle.store(false, Ordering::Relaxed);
        if !inner.waiting.is_empty() {
            inner.wake_one();
        }
    }

    /// Steps that wait for a session, and how many sessions there are.
    pub(crate) fn ahead(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.waiting.len(), inner.seats.iter().filter(|seat| seat.strong_count() > 0).count())
    }

    /// Whether steps wait for a session.
    pub(crate) fn is_empty(&self) -> bool {
        self.inner.lock().waiting.is_empty()
    }

    /// Steps that were cancelled since this session asked before.
    pub(crate) fn cancelled(&self, seat: &StepSeat) -> Vec<Lease> {
        let inner = self.inner.lock();
        let seen = seat.seen.swap(inner.cancellations, Ordering::Relaxed);
        let new = (inner.cancellations - seen).min(inner.cancelled.len() as u64) as usize;
        inner.cancelled.range(inner.cancelled.len() - new..).copied().collect()
    }

    /// Hands a step's outcome to whoever waits; gives back what is no step's.
    pub(crate) fn settle(&self, settlement: Settlement) -> Option<Settlement> {
        let lease = (settlement.id, settlement.token);
        if !is_step(&lease) {
            return Some(settlement);
        }
        let answer = self.inner.lock().answers.remove(&lease);
        // Where nobody waits any more, it is of no use.
        let _ = answer.map(|answer| answer.send(settlement.outcome));
        None
    }

    /// Refuses steps from now on and gives back those that wait; the model has no sessions.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        let waiting = std::mem::take(&mut inner.waiting);
        for WaitingStep { job, .. } in waiting {
            let answer = inner.answers.remove(&(job.id, job.token));
            let _ = answer.map(|answer| answer.send(Outcome::Released));
        }
    }

    fn cancel(&self, lease: Lease) {
        let mut inner = self.inner.lock();
        if inner.answers.remove(&lease).is_none() {
            return;
        }
        let before = inner.waiting.len();
        inner.waiting.retain(|other| (other.job.id, other.job.token) != lease);
        if inner.waiting.len() == before {
            // A session has it.
            inner.cancelled.push_back(lease);
            inner.cancellations += 1;
            if inner.cancelled.len() > CANCELLED {
                inner.cancelled.pop_front();
            }
        }
    }
}

impl Steps {
    fn wake_one(&mut self) {
        let idle = self.seats.iter().filter_map(Weak::upgrade).find(|seat| seat.idle.swap(false, Ordering::Relaxed));
        if let Some(seat) = idle {
            seat.wake.notify_one();
        }
    }
}

/// A submitted step; dropping it cancels it, a run of it alone included.
pub(crate) struct PendingStep {
    queue: Arc<StepQueue>,
    lease: Lease,
    outcome: oneshot::Receiver<Outcome>,
    watchdog: Watchdog,
}

impl PendingStep {
    /// Waits for its outcome.
    pub(crate) async fn outcome(mut self) -> Outcome {
        // Without a sender it was lost on the way: another attempt may reach a session.
        (&mut self.outcome).await.unwrap_or(Outcome::Released)
    }
}

impl Drop for PendingStep {
    fn drop(&mut self) {
        if !self.outcome.is_terminated() {
            self.queue.cancel(self.lease);
            self.watchdog.end(&[self.lease]);
        }
    }
}

#[cfg(test)]
mod tests {
    use nobat_core::JobId;
    use nobat_core::retry::RetryPolicy;

    use super::*;

    fn step(priority: u8, rows: u32) -> NewStep {
        let of = LeasedJob {
            id: JobId { random: 1, tombstone_min: 0, mac: 0, locator: 0 },
            token: LeaseToken(5),
            attempt: 1,
            deaths: 0,
            priority,
            rows: 1,
            queued_at_us: 10,
            leased_at_us: 20,
            time_left: None,
            retry: RetryPolicy::default(),
            payload: Bytes::new(),
            trace: Default::default(),
        };
        NewStep { of, leased: Instant::now(), request: InferRequest::default(), rows, deadline: None }
    }

    fn setting() -> (Arc<StepQueue>, Arc<StepSeat>, Watchdog) {
        let queue = Arc::new(StepQueue::default());
        let seat = queue.seat(Arc::default());
        (queue, seat, Watchdog::start().expect("a thread"))
    }

    #[tokio::test]
    async fn urgent_steps_are_taken_first_and_outcomes_reach_who_waits() {
        let (queue, seat, watchdog) = setting();
        let slow = queue.submit(step(0, 2), &watchdog).expect("open");
        let urgent = queue.submit(step(9, 1), &watchdog).expect("open");
        let taken = queue.take(&seat, 2, false);
        assert_eq!(taken.len(), 1, "three rows are over the room of two");
        let job = &taken[0].0;
        assert!(job.priority == 9 && job.leased_at_us >= job.queued_at_us && is_step(&(job.id, job.token)));
        let outcome = Outcome::Succeeded(Bytes::from_static(b"y"));
        assert!(queue.settle(Settlement { id: job.id, token: job.token, outcome }).is_none());
        assert!(matches!(urgent.outcome().await, Outcome::Succeeded(_)));
        assert_eq!(queue.take(&seat, 1, true).len(), 1, "one of any size");
        queue.close();
        assert!(queue.submit(step(0, 1), &watchdog).is_none());
        drop(slow);
        let of_store = Settlement { id: job.id, token: LeaseToken(5), outcome: Outcome::Released };
        assert!(queue.settle(of_store).is_some(), "the store's");
    }

    #[tokio::test]
    async fn what_is_dropped_is_cancelled_wherever_it_is() {
        let (queue, seat, watchdog) = setting();
        let other = queue.seat(Arc::default());
        drop(queue.submit(step(0, 1), &watchdog));
        assert!(queue.is_empty() && queue.cancelled(&seat).is_empty(), "no session had it");
        let held = queue.submit(step(0, 1), &watchdog).expect("open");
        let taken = queue.take(&seat, 1, false);
        drop(held);
        let lease = (taken[0].0.id, taken[0].0.token);
        assert_eq!(queue.cancelled(&seat), [lease]);
        assert_eq!(queue.cancelled(&other), [lease], "every session is told");
        assert!(queue.cancelled(&seat).is_empty(), "once");
    }

    #[tokio::test]
    async fn a_session_that_waits_is_woken_and_one_that_runs_is_not() {
        let (queue, busy, watchdog) = setting();
        let idle = queue.seat(Arc::default());
        queue.take(&busy, 1, false);
        queue.take(&idle, 1, false);
        queue.runs(&busy);
        let _pending = queue.submit(step(0, 1), &watchdog);
        idle.wake.notified().await;
        let told = tokio::time::timeout(Duration::from_millis(1), busy.wake.notified()).await;
        assert!(told.is_err(), "it looks by itself when its run ends");
    }

    #[tokio::test]
    async fn steps_of_a_model_without_sessions_are_given_back() {
        let (queue, _, watchdog) = setting();
        let pending = queue.submit(step(0, 1), &watchdog).expect("open");
        queue.close();
        assert!(matches!(pending.outcome().await, Outcome::Released));
    }
}
