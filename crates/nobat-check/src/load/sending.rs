//! A thread that sends: its own runtime, its own connections, one request on each at a time.
//!
//! In an open loop one task watches the schedule and puts what is due in line; as many tasks
//! as there may be connections take from the line. A request that finds all of them busy
//! waits, and its latency counts from the moment at which it was due: a server that stalls
//! does not keep the requests from coming that would have met the stall.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::{Error, Result};
use nobat_statistics::random::seeded;
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};

use super::alarm::Alarm;
use super::plan::{Load, LoadPlan};
use super::schedule::{Arrivals, Pause};
use super::shared::{Course, Ledger};
use super::tally::Answer;

/// How often a long sleep looks whether the test is over.
const LOOK: Duration = Duration::from_millis(50);
/// After a failure a user of a closed loop waits as long, so as not to spin.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// One thread's way to a server.
pub trait Caller: 'static {
    /// Sends request number `n` and waits for the end of its answer.
    fn call(&self, n: u64) -> impl Future<Output = Answer>;
}

/// What a thread needs to know.
pub(super) struct Thread {
    pub(super) plan: Arc<LoadPlan>,
    pub(super) course: Arc<Course>,
    pub(super) ledger: Arc<Ledger>,
    /// Which of the threads it is.
    pub(super) at: usize,
}

impl Thread {
    /// Sends until the test is over and the answers are there, or the grace is used up.
    /// `caller` is called in the thread's runtime, to which its connections belong.
    pub(super) fn run<C: Caller>(self, caller: impl FnOnce() -> Result<C>) -> Result<()> {
        let stopped = |error: io::Error| Error::internal(format!("a thread that sends stopped: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(stopped)?;
        self.ledger.counts().thread = std::fs::read_link("/proc/thread-self")
            .ok()
            .and_then(|thread| Some(thread.file_name()?.to_str()?.to_owned()));
        let local = LocalSet::new();
        local.block_on(&runtime, async {
            let Thread { plan, course, ledger, at } = self;
            let sender = Rc::new(Sender { caller: caller()?, plan, course, ledger, at });
            match &sender.plan.load {
                Load::Open(arrivals) => sender.clone().open(arrivals.clone()).await,
                Load::Closed { users, pause } => sender.clone().closed(*users, *pause).await,
            }
            .map_err(stopped)
        })
    }
}

struct Sender<C> {
    caller: C,
    plan: Arc<LoadPlan>,
    course: Arc<Course>,
    ledger: Arc<Ledger>,
    at: usize,
}

impl<C: Caller> Sender<C> {
    async fn open(self: Rc<Self>, arrivals: Arrivals) -> io::Result<()> {
        let line = Rc::new(Line::default());
        let mut connections = JoinSet::new();
        for _ in 0..self.plan.connections.div_ceil(self.plan.threads) {
            connections.spawn_local(self.clone().take(line.clone()));
        }
        self.watch(arrivals, &line).await?;
        line.close();
        self.finish(connections).await;
        Ok(())
    }

    /// Puts in line what is due, until the test is over.
    async fn watch(&self, arrivals: Arrivals, line: &Line) -> io::Result<()> {
        let alarm = Alarm::new()?;
        let start = self.course.start();
        for due in arrivals.moments(self.plan.seed).skip(self.at).step_by(self.plan.threads) {
            while self.course.now() < due {
                if self.course.is_over(self.course.now()) {
                    return Ok(());
                }
                alarm.wait_until((start + due).min(Instant::now() + LOOK)).await?;
            }
            if self.course.is_over(due) {
                return Ok(());
            }
            self.ledger.counts().due(self.course.place(due));
            line.put(due);
        }
        Ok(())
    }

    /// One connection's requests.
    async fn take(self: Rc<Self>, line: Rc<Line>) {
        while let Some((due, found_free)) = line.next().await {
            {
                let mut counts = self.ledger.counts();
                counts.in_flight += 1;
                match found_free {
                    true => counts.lag.record(self.course.now() - due),
                    false => counts.waited += 1,
                }
            }
            self.send(due, line.number()).await;
        }
    }

    async fn closed(self: Rc<Self>, users: usize, pause: Pause) -> io::Result<()> {
        let mut all = JoinSet::new();
        for user in (self.at..users).step_by(self.plan.threads) {
            all.spawn_local(self.clone().use_it(user, pause));
        }
        while self.course.until().is_none_or(|until| self.course.now() < until) && !all.is_empty() {
            if tokio::time::timeout(LOOK, all.join_next()).await.is_ok_and(|ended| ended.is_none()) {
                break;
            }
            if self.course.is_over(self.course.now()) {
                break;
            }
        }
        self.finish(all).await;
        Ok(())
    }

    /// One user's requests, each after the other's answer.
    async fn use_it(self: Rc<Self>, user: usize, pause: Pause) {
        let mut random = seeded(self.plan.seed ^ ((user as u64 + 1) << 20));
        let mut next = pause.first(&mut random);
        let mut number = user as u64;
        loop {
            // Where there is nothing to wait for, not even a timer is asked.
            while self.course.now() < next {
                if self.course.is_over(self.course.now()) {
                    return;
                }
                tokio::time::sleep_until((self.course.start() + next).min(Instant::now() + LOOK).into()).await;
            }
            let sent = self.course.now();
            if self.course.is_over(sent) {
                return;
            }
            {
                let mut counts = self.ledger.counts();
                counts.in_flight += 1;
                counts.due(self.course.place(sent));
            }
            let right = self.send(sent, number).await;
            number += self.plan.threads as u64;
            let answered = self.course.now() + if right { Duration::ZERO } else { AFTER_FAILURE };
            next = pause.next(&mut random, sent, answered);
        }
    }

    async fn send(&self, due: Duration, number: u64) -> bool {
        let answer = self.caller.call(number).await;
        let right = answer.right;
        self.ledger.counts().ended(&self.course, due, answer, self.plan.goal, self.plan.samples);
        right
    }

    /// Waits for what is under way, no longer than the grace.
    async fn finish(&self, mut tasks: JoinSet<()>) {
        let ended = async { while tasks.join_next().await.is_some() {} };
        drop(tokio::time::timeout(self.plan.grace, ended).await);
    }
}

/// Requests that are due, in their order.
#[derive(Default)]
struct Line {
    due: RefCell<VecDeque<Duration>>,
    ready: Notify,
    closed: Cell<bool>,
    taken: Cell<u64>,
}

impl Line {
    fn put(&self, due: Duration) {
        self.due.borrow_mut().push_back(due);
        // The connection that was busy last: those that are not needed are never made.
        self.ready.notify_last();
    }

    /// No more will come.
    fn close(&self) {
        self.closed.set(true);
        self.ready.notify_waiters();
    }

    /// The next request, and whether it found this connection free; `None` at the end.
    async fn next(&self) -> Option<(Duration, bool)> {
        let mut found_free = false;
        loop {
            let ready = self.ready.notified();
            if let Some(due) = self.due.borrow_mut().pop_front() {
                self.taken.set(self.taken.get() + 1);
                return Some((due, found_free));
            }
            if self.closed.get() {
                return None;
            }
            ready.await;
            found_free = true;
        }
    }

    /// The number of the request that was taken last.
    fn number(&self) -> u64 {
        self.taken.get() - 1
    }
}
