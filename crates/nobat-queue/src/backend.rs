//! The apalis backend over a [`Consumer`]: leases jobs, lets a [`Batcher`] make
//! batches of them, and settles what the worker finished.
//!
//! One apalis task is one batch. The backend owns the consumer and drives it in
//! cycles: settle what is in the [`LeaseTracker`] and lease what the batcher has room for
//! in one round trip, then ask the batcher for a batch, then wait only if it has
//! none. It knows nothing of tensors: what makes a batch is the batcher's matter.
//!
//! Invariants:
//! - `poll_next` never returns `Err`, which would end the worker: while the
//!   store is away it backs off, and settlements stay with the consumer.
//! - A cycle is never dropped in the middle of a store call; a drain lets it
//!   finish, gives back what was leased and not run, and settles the rest.
//! - A lease stays in the tracker, where the renewer finds it, until the store
//!   has taken its settlement.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::task_id::{RandomId, TaskId};
use apalis_core::worker::context::WorkerContext;
use nobat_core::job::{LeasedJob, Outcome, Settlement};
use nobat_core::retry::Backoff;
use tokio::sync::Notify;

use crate::api::{Consumer, LeaseReply};
pub use crate::lease_tracker::{Lease, LeaseTracker, LocalSettlements};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const BACKOFF: Backoff = Backoff::new(FIRST_PAUSE, Duration::from_secs(2));
/// How long a drain tries to settle when the store does not answer; the leases
/// expire by themselves after that.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Makes batches out of leased jobs. Holds the jobs it was given until they are
/// in a batch, settled through the tracker, or released.
pub trait Batcher: Send + 'static {
    /// One task of the worker.
    type Batch: Send + 'static;

    /// Whether it holds no job.
    fn is_empty(&self) -> bool;

    /// How many more jobs to lease now.
    fn room(&self) -> usize;

    /// Where it has no room: how many jobs to lease all the same of those that rank above a
    /// level, the lowest of what it holds.
    fn room_above(&self) -> Option<(usize, i16)> {
        None
    }

    /// Takes newly leased jobs, in the order to run them.
    fn admit(&mut self, jobs: Vec<LeasedJob>, now: Instant);

    /// Told when there may be more to run or to settle than at the last call of
    /// [`Batcher::next`], though no job came; `None` where that never happens.
    fn woken(&self) -> Option<Arc<Notify>> {
        None
    }

    /// The next batch, or how long to wait for a better one.
    fn next(&mut self, now: Instant) -> Next<Self::Batch>;

    /// Gives up every job held, for a drain.
    fn release(&mut self) -> Vec<Lease>;
}

/// What a [`Batcher`] wants.
#[derive(Debug)]
pub enum Next<B> {
    /// Run this now.
    Run(B),
    /// More jobs may make a better batch; ask again after this long at most.
    Wait(Duration),
    /// Nothing is held.
    Empty,
}

/// The backend of one session's apalis worker. Make it anew after a worker
/// ended: it has given everything back by then.
pub struct LeaseBackend<B: Batcher> {
    state: State<B>,
    closing: Arc<Closing>,
    tasks: u64,
}

#[derive(Default)]
struct Closing {
    flag: AtomicBool,
    notify: Notify,
}

impl Closing {
    fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }
}

type Cycle<B> = Pin<Box<dyn Future<Output = (LeaseLoop<B>, Option<<B as Batcher>::Batch>)> + Send>>;

enum State<B: Batcher> {
    Rest(LeaseLoop<B>),
    Cycle(Cycle<B>),
    Closing(Pin<Box<dyn Future<Output = ()> + Send>>),
    Done,
}

/// Everything a cycle needs; travels through its future and back.
struct LeaseLoop<B> {
    consumer: Box<dyn Consumer>,
    batcher: B,
    tracker: Arc<LeaseTracker>,
    /// Leases whose settlement the store has not answered for.
    settling: Vec<Lease>,
    backoff: Backoff,
}

impl<B: Batcher> LeaseBackend<B> {
    /// Makes a backend that leases through `consumer` into `batcher` and settles
    /// what `tracker` holds.
    pub fn new(consumer: Box<dyn Consumer>, batcher: B, tracker: Arc<LeaseTracker>) -> LeaseBackend<B> {
        let lease_loop = LeaseLoop { consumer, batcher, tracker, settling: Vec::new(), backoff: BACKOFF };
        LeaseBackend { state: State::Rest(lease_loop), closing: Arc::default(), tasks: 0 }
    }
}

impl<B: Batcher> LeaseLoop<B> {
    /// Cycles until there is a batch, or the backend closes.
    async fn cycle(mut self, closing: Arc<Closing>) -> (LeaseLoop<B>, Option<B::Batch>) {
        let woken = self.batcher.woken();
        // Whether the batcher woke the cycle: it has something to run already.
        let mut was_woken = false;
        loop {
            let settle = self.tracker.take_outbox();
            // While a woken batcher runs, nobody would see what is pushed to a waiting consumer.
            let withdraws = woken.is_some() && self.consumer.is_waiting() && !closing.is_set();
            let skips = std::mem::take(&mut was_woken) && settle.is_empty() && !withdraws;
            let want = if closing.is_set() || skips { Want::NOTHING } else { Want::of(&self.batcher) };
            let mut reached = true;
            if want.jobs > 0 || !settle.is_empty() || withdraws {
                reached = self.step(settle, want).await;
            }
            if closing.is_set() {
                return (self, None);
            }
            match self.batcher.next(Instant::now()) {
                Next::Run(batch) => return (self, Some(batch)),
                // The batcher may have settled a job itself (a passed deadline).
                _ if self.tracker.has_settlements() => {}
                _ if !reached => {
                    let pause = self.backoff.pause();
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = closing.notify.notified() => {}
                    }
                }
                Next::Wait(wait) => tokio::select! {
                    () = self.consumer.idle(), if self.batcher.room() > 0 => {}
                    () = tokio::time::sleep(wait) => {}
                    () = told(woken.as_deref()) => was_woken = true,
                    () = closing.notify.notified() => {}
                },
                // Without room there is nothing to look for until the batcher says so.
                Next::Empty => tokio::select! {
                    () = self.consumer.idle(), if self.batcher.room() > 0 => {}
                    () = told(woken.as_deref()) => was_woken = true,
                    () = closing.notify.notified() => {}
                },
            }
        }
    }

    /// One round trip; `false` when the store did not answer. The consumer
    /// keeps unanswered settlements and sends them again.
    async fn step(&mut self, settle: Vec<Settlement>, want: Want) -> bool {
        self.settling.extend(settle.iter().map(|settlement| (settlement.id, settlement.token)));
        // An empty batcher waits if nothing comes: then what is enqueued may come by itself.
        let stepped = match want {
            Want { jobs, above: Some(level) } => self.consumer.settle_and_lease_above(settle, jobs, level).await,
            Want { jobs: 1.., above: None } if self.batcher.is_empty() => {
                self.consumer.settle_and_lease_or_wait(settle, want.jobs).await
            }
            Want { jobs, above: None } => self.consumer.settle_and_lease(settle, jobs).await,
        };
        match stepped {
            Ok(LeaseReply { leased, refused, .. }) => {
                self.backoff.reset();
                if !self.settling.is_empty() {
                    self.tracker.settled(&self.settling);
                    self.settling.clear();
                }
                if !refused.is_empty() {
                    log::info!(jobs = refused.len(); "settlements refused: the leases were lost or the jobs cancelled");
                }
                if !leased.is_empty() {
                    self.tracker.add(&leased);
                    self.batcher.admit(leased, Instant::now());
                }
                true
            }
            Err(error) => {
                log::warn!(code = error.code.as_str(), retry_ms = self.backoff.next().as_millis() as u64; "cannot reach the queue: {error}");
                false
            }
        }
    }

    /// What is out, and everything that was not run as given back.
    fn released(&mut self) -> Vec<Settlement> {
        // In this order: a job that is settled while its batcher lets go is in the outbox then.
        let unrun = self.batcher.release();
        let mut settle = self.tracker.take_outbox();
        settle.extend(unrun.into_iter().map(|(id, token)| Settlement { id, token, outcome: Outcome::Released }));
        settle
    }

    /// Settles what is out and gives back what was not run.
    async fn close(mut self) {
        let mut settle = self.released();
        let give_up = tokio::time::sleep(CLOSE_LIMIT);
        tokio::pin!(give_up);
        // The first call hands everything to the consumer; later ones repeat it.
        while !settle.is_empty() || !self.settling.is_empty() || self.consumer.is_waiting() {
            let batch = std::mem::take(&mut settle);
            let reached = tokio::select! {
                reached = self.step(batch, Want::NOTHING) => reached,
                () = &mut give_up => break,
            };
            // What was handed over in the meantime.
            settle = self.released();
            if !reached {
                tokio::time::sleep(FIRST_PAUSE).await;
            }
        }
    }
}

/// What a step leases.
#[derive(Clone, Copy)]
struct Want {
    jobs: usize,
    /// They rank above this level.
    above: Option<i16>,
}

impl Want {
    const NOTHING: Want = Want { jobs: 0, above: None };

    fn of(batcher: &impl Batcher) -> Want {
        match batcher.room() {
            0 => batcher.room_above().map_or(Want::NOTHING, |(jobs, level)| Want { jobs, above: Some(level) }),
            jobs => Want { jobs, above: None },
        }
    }
}

/// Ends when it is told; never where there is nothing to be told.
async fn told(notify: Option<&Notify>) {
    match notify {
        Some(notify) => notify.notified().await,
        None => std::future::pending().await,
    }
}

impl<B: Batcher> Backend for LeaseBackend<B> {
    type Task = Task<B::Batch>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Option<Result<Self::Task, Infallible>>> {
        loop {
            match &mut self.state {
                State::Cycle(cycle) => {
                    let (lease_loop, batch) = ready!(cycle.as_mut().poll(cx));
                    self.state = State::Rest(lease_loop);
                    let Some(batch) = batch else { return Poll::Ready(None) };
                    self.tasks += 1;
                    let task = TaskBuilder::new(batch).task_id(TaskId::from_int(self.tasks)).build();
                    return Poll::Ready(Some(Ok(task)));
                }
                State::Rest(_) => {
                    let State::Rest(lease_loop) = std::mem::replace(&mut self.state, State::Done) else { continue };
                    self.state = State::Cycle(Box::pin(lease_loop.cycle(Arc::clone(&self.closing))));
                }
                State::Closing(_) | State::Done => return Poll::Ready(None),
            }
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        self.closing.flag.store(true, Ordering::Release);
        self.closing.notify.notify_one();
        loop {
            match &mut self.state {
                State::Cycle(cycle) => {
                    let (lease_loop, _) = ready!(cycle.as_mut().poll(cx));
                    self.state = State::Rest(lease_loop);
                }
                State::Rest(_) => {
                    let State::Rest(lease_loop) = std::mem::replace(&mut self.state, State::Done) else { continue };
                    self.state = State::Closing(Box::pin(lease_loop.close()));
                }
                State::Closing(close) => {
                    ready!(close.as_mut().poll(cx));
                    self.state = State::Done;
                }
                State::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<B: Batcher> BackendConfig for LeaseBackend<B> {
    type Args = B::Batch;
    type Id = RandomId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = tower_layer::Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> tower_layer::Identity {
        tower_layer::Identity::new()
    }
}
