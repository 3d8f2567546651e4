//! The writer thread: the only one that commits.
//!
//! While one group is being committed, whatever changes goes into the next:
//! under load a transaction carries hundreds of jobs, alone it carries one. The
//! thread also is the queue's alarm clock: it lets deadlines pass, leases
//! expire and due jobs wake their consumers when nobody else calls.
//!
//! A commit that fails (a full or read-only disk, a folder that is gone) refuses
//! what it would have accepted, keeps everything else for the next attempt, and
//! takes no new jobs until one succeeds. Where nothing is left to commit,
//! as much as failed is written for a trial, so that jobs are taken again without
//! anybody asking. The process lives on. A commit that hangs, and a folder that
//! goes while nothing is committed, is the [`guard`](super::disk_watchdog)'s to notice.

use std::sync::Arc;
use std::time::Duration;

use super::client::CALL_END_WITHIN_US;
use super::journal::Journal;
use super::machine::Group;
use super::store::{EmbeddedStore, WriterState};

/// Most expired results deleted with one group.
const EXPIRE_LIMIT: usize = 1_000;
/// How long an expired result may stay on disk (readers do not see it).
const EXPIRE_EVERY_US: u64 = 1_000_000;
/// How long after a failed commit the next one is tried.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// How long the writer looks by itself for what may be deferred, after it last
/// had work, and how often: an insert that is to wait for its settlement then
/// need not wake it only to say so.
const LINGER_US: u64 = 100_000;
/// Least and most bytes of a trial: it must not succeed where the next job would fail.
const TRIAL_LEAST: u64 = 64 << 10;
const TRIAL_MOST: u64 = 1 << 20;
const LOOK_EVERY_US: u64 = CALL_END_WITHIN_US;

pub(super) struct Writer {
    store: Arc<EmbeddedStore>,
    journal: Journal,
    /// When results are to be deleted next; `None` while there are none.
    expire_at_us: Option<u64>,
    /// No commit before this, after one failed.
    hold_until_us: u64,
    /// Bytes of the last group that failed.
    failed_bytes: u64,
    /// When there last was something to commit.
    worked_us: u64,
}

/// What to do next.
struct Work {
    group: Group,
    expire_before_ms: Option<u64>,
    /// Nothing to commit: only find out whether it can be.
    trial: bool,
    /// No jobs are taken.
    closed: bool,
}

impl Writer {
    pub(super) fn new(store: Arc<EmbeddedStore>, journal: Journal) -> Writer {
        let expire_at_us = journal.next_expiry().ok().flatten().map(|ms| ms * 1_000);
        Writer { store, journal, expire_at_us, hold_until_us: 0, failed_bytes: 0, worked_us: 0 }
    }

    /// Runs until the queue is dropped and everything is committed.
    pub(super) fn run(mut self) {
        while let Some(work) = self.next() {
            match self.commit(&work) {
                Ok(expired) => self.committed(work, expired),
                Err(why) => self.failed(work, &why),
            }
        }
    }

    fn commit(&mut self, work: &Work) -> Result<usize, String> {
        // Otherwise it is looked for after the commit.
        if let Some(lost) = work.closed.then(|| self.store.folder.lost()).flatten() {
            return Err(lost);
        }
        let done = match work.trial {
            true => self.journal.probe(self.failed_bytes.clamp(TRIAL_LEAST, TRIAL_MOST)).map(|()| 0),
            false => self.journal.commit(&work.group, work.expire_before_ms.map(|before| (before, EXPIRE_LIMIT))),
        };
        done.map_err(|error| {
            format!("cannot be written: {error}; free or unlock its disk, it is tried again by itself")
        })
    }

    /// Waits for work; `None` when the queue has been dropped.
    fn next(&mut self) -> Option<Work> {
        let store = Arc::clone(&self.store);
        let mut state = store.state.lock();
        loop {
            let now_us = store.clock.now_us();
            state.machine.advance(now_us);
            state.take_wakers().iter().for_each(|waker| waker.notify_one());
            let held = now_us < self.hold_until_us;
            if !held {
                // At the end nothing may wait any longer.
                let until_us = if state.stop { u64::MAX } else { now_us };
                let group = state.machine.take_group(until_us);
                let expire = self.expire_at_us.is_some_and(|at| at <= now_us);
                let closed = state.down.is_some();
                let trial = closed && group.is_empty() && !expire && !state.stop;
                if !group.is_empty() || expire || trial {
                    state.writer = WriterState::Busy;
                    state.committing_us = Some(now_us);
                    self.worked_us = now_us;
                    return Some(Work { group, expire_before_ms: expire.then_some(now_us / 1_000), trial, closed });
                }
                // Marks without writes: everything they stand for is committed.
                let done = state.acks.take(group.upto, true);
                done.into_iter().for_each(|ack| drop(ack.send(Ok(()))));
            }
            if state.stop {
                return None;
            }
            let hold = held.then_some(self.hold_until_us);
            let linger = (now_us < self.worked_us + LINGER_US).then_some(now_us + LOOK_EVERY_US);
            let events = [state.machine.next_event(), self.expire_at_us, hold, linger];
            // An event that is due already was left over by a bounded sweep.
            let until_us = events.into_iter().flatten().min().unwrap_or(u64::MAX);
            if until_us <= now_us && !held {
                continue;
            }
            let until_us = if held { until_us.max(now_us + 1_000) } else { until_us };
            state.writer = WriterState::Asleep { until_us };
            if until_us == u64::MAX {
                store.work.wait(&mut state);
            } else {
                store.work.wait_until(&mut state, store.clock.instant(until_us));
            }
            state.writer = WriterState::Busy;
        }
    }

    fn committed(&mut self, work: Work, expired: usize) {
        let now_us = self.store.clock.now_us();
        let upto = work.group.upto;
        let mut answers = Vec::new();
        // What went into a folder that went meanwhile is kept by nobody.
        let lost = self.store.folder.lost();
        let mut state = self.store.state.lock();
        state.committing_us = None;
        let settled = state.machine.committed(work.group);
        let mut first_expiry_ms = None;
        for job in settled {
            let mut waiters = state.waiters.remove(&job.row).unwrap_or_default();
            if let Some(expires_ms) = job.expires_ms {
                first_expiry_ms = Some(first_expiry_ms.unwrap_or(u64::MAX).min(expires_ms));
                state.recent.insert(job.view.clone(), expires_ms);
            }
            let last = waiters.pop();
            answers.extend(waiters.into_iter().map(|waiter| (waiter.sender, job.view.clone())));
            answers.extend(last.map(|waiter| (waiter.sender, job.view)));
        }
        let acks = state.acks.take(upto, true);
        let kept = match lost {
            Some(why) => Err(self.store.close(&mut state, &why)),
            None => {
                self.store.reopen(&mut state);
                Ok(())
            }
        };
        drop(state);
        // A receiver that is gone has left; that is all a failed send says.
        answers.into_iter().for_each(|(waiter, view)| drop(waiter.send(Ok(view))));
        acks.into_iter().for_each(|ack| drop(ack.send(kept.clone())));

        if work.expire_before_ms.is_some() {
            self.expire_at_us = match expired {
                EXPIRE_LIMIT => Some(now_us),
                _ => self.journal.next_expiry().ok().flatten().map(|ms| (ms * 1_000).max(now_us + EXPIRE_EVERY_US)),
            };
        }
        if let Some(ms) = first_expiry_ms {
            let at_us = (ms * 1_000).max(now_us + EXPIRE_EVERY_US);
            self.expire_at_us = Some(self.expire_at_us.map_or(at_us, |before| before.min(at_us)));
        }
    }

    fn failed(&mut self, work: Work, why: &str) {
        let now_us = self.store.clock.now_us();
        self.hold_until_us = now_us + RETRY_AFTER.as_micros() as u64;
        self.expire_at_us = self.expire_at_us.map(|at| at.max(self.hold_until_us));
        if !work.trial {
            self.failed_bytes = work.group.bytes();
        }
        let upto = work.group.upto;
        let mut state = self.store.state.lock();
        state.committing_us = None;
        let error = self.store.close(&mut state, why);
        let refused = state.machine.failed(work.group);
        let waiters: Vec<_> = refused.iter().filter_map(|row| state.waiters.remove(row)).flatten().collect();
        let acks = state.acks.take(upto, false);
        // A process that ends does not wait for its disk.
        let give_up = state.stop;
        if give_up {
            self.hold_until_us = u64::MAX;
        }
        drop(state);
        waiters.into_iter().for_each(|waiter| drop(waiter.sender.send(Err(error.clone()))));
        acks.into_iter().for_each(|ack| drop(ack.send(Err(error.clone()))));
    }
}
