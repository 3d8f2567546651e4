//! Who waits on a client for which job, and the pushed messages that tell them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nobat_core::{Error, JobId};
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::{Notify, oneshot};

use super::super::connection::OnPush;
use super::super::keys::{KEY_LEN, QueueKeys, job_of};

/// Who waits for which job on this client.
#[derive(Default)]
pub(crate) struct Waiters {
    by_job: Mutex<HashMap<u128, Vec<JobWaiter>>>,
    /// Rung when an enqueue that somebody waits for has its answer.
    answered: Notify,
    /// The connection broke: messages may have been missed.
    pub(crate) connection_lost: AtomicBool,
    pub(crate) recheck_due: Notify,
}

struct JobWaiter {
    number: u64,
    queue: Arc<QueueKeys>,
    since: Instant,
    /// The job's own enqueue has no answer yet: without a record it is not gone.
    enqueuing: bool,
    sender: oneshot::Sender<Completion>,
}

/// What a waiter learns.
pub(crate) enum Completion {
    /// The job's final record.
    Ended(Bytes),
    /// There is no record of it.
    Gone,
    /// It was not accepted.
    Refused(Error),
    /// Its idempotency key names this job.
    Duplicate(JobId),
}

impl Waiters {
    /// Adds a waiter; `enqueuing`: of a job that is about to be sent.
    pub(crate) fn add(
        &self,
        id: JobId,
        queue: &Arc<QueueKeys>,
        enqueuing: bool,
    ) -> (u64, oneshot::Receiver<Completion>) {
        let (sender, completed) = oneshot::channel();
        let mut by_job = self.by_job.lock();
        let list = by_job.entry(id.random).or_default();
        let number = list.last().map_or(0, |last| last.number + 1);
        list.push(JobWaiter { number, queue: queue.clone(), since: Instant::now(), enqueuing, sender });
        (number, completed)
    }

    /// Removes one waiter; true when the job has none left on this client.
    pub(crate) fn remove(&self, job: u128, number: u64) -> bool {
        let mut by_job = self.by_job.lock();
        let Some(list) = by_job.get_mut(&job) else { return true };
        list.retain(|waiter| waiter.number != number);
        let empty = list.is_empty();
        if empty {
            by_job.remove(&job);
        }
        empty
    }

    /// Tells everybody who waits for a job.
    pub(crate) fn notify(&self, job: u128, completion: impl Fn() -> Completion) {
        let waiters = self.by_job.lock().remove(&job);
        for waiter in waiters.into_iter().flatten() {
            // That it has left is all that a failed send says.
            let _ = waiter.sender.send(completion());
        }
    }

    /// Whether an enqueue of this job has no answer yet.
    pub(crate) fn is_enqueuing(&self, job: u128) -> bool {
        self.by_job.lock().get(&job).is_some_and(|list| list.iter().any(|waiter| waiter.enqueuing))
    }

    /// The enqueues of these jobs have their answers.
    pub(crate) fn enqueued(&self, jobs: impl Iterator<Item = u128>) {
        let mut by_job = self.by_job.lock();
        for job in jobs {
            by_job.get_mut(&job).into_iter().flatten().for_each(|waiter| waiter.enqueuing = false);
        }
        drop(by_job);
        self.answered.notify_waiters();
    }

    /// Resolves when the enqueue of this job has its answer.
    pub(crate) async fn until_enqueued(&self, job: u128) {
        loop {
            let answered = self.answered.notified();
            tokio::pin!(answered);
            // From here on no answer is missed.
            answered.as_mut().enable();
            if !self.is_enqueuing(job) {
                return;
            }
            answered.await;
        }
    }

    /// Jobs awaited for longer than `age`, oldest first, by queue.
    pub(crate) fn older_than(&self, age: Duration, limit: usize) -> HashMap<String, (Arc<QueueKeys>, Vec<u128>)> {
        let by_job = self.by_job.lock();
        let mut old: Vec<_> = by_job
            .iter()
            .filter_map(|(job, list)| {
                list.iter()
                    .map(|w| (w.since, &w.queue))
                    .min_by_key(|(since, _)| *since)
                    .map(|(since, queue)| (since, *job, queue))
            })
            .filter(|(since, ..)| since.elapsed() >= age)
            .collect();
        old.sort_unstable_by_key(|(since, job, _)| (*since, *job));
        let mut by_queue = HashMap::new();
        for (_, job, queue) in old.into_iter().take(limit) {
            let (_, jobs) = by_queue.entry(queue.base.clone()).or_insert_with(|| (queue.clone(), Vec::new()));
            jobs.push(job);
        }
        by_queue
    }

    /// Looked up just now: not again before others had their turn.
    pub(crate) fn touch(&self, jobs: &[u128]) {
        let mut by_job = self.by_job.lock();
        for job in jobs {
            for waiter in by_job.get_mut(job).into_iter().flatten() {
                waiter.since = Instant::now();
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_job.lock().is_empty()
    }
}

/// Hands pushed messages to waiters.
pub(crate) fn on_push(waiters: Arc<Waiters>) -> OnPush {
    Arc::new(move |info: PushInfo| match info.kind {
        PushKind::Message => {
            if let Some(Value::BulkString(message)) = info.data.into_iter().nth(1) {
                deliver(&waiters, message.into());
            }
        }
        PushKind::Disconnection => {
            waiters.connection_lost.store(true, Ordering::Release);
            waiters.recheck_due.notify_one();
        }
        _ => {}
    })
}

/// A message is frames of key (12), length (u32) and record.
fn deliver(waiters: &Waiters, message: Bytes) {
    const HEAD: usize = KEY_LEN + 4;
    let mut at = 0;
    while let Some(head) = message.get(at..at + HEAD) {
        let (key, len) = head.split_at(KEY_LEN);
        let len = len.try_into().map_or(0, u32::from_le_bytes) as usize;
        let end = at + HEAD + len;
        let (Some(job), true) = (job_of(key), end <= message.len()) else {
            log::error!("a message to this client is malformed; is another program using the prefix?");
            return;
        };
        let record = message.slice(at + HEAD..end);
        waiters.notify(job, || Completion::Ended(record.clone()));
        at = end;
    }
}
