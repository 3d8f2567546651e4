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

use super::connect::OnPush;
use super::keys::{KEY_LEN, QueueKeys, job_of};

/// Who waits for which job on this client.
#[derive(Default)]
pub(crate) struct Waiters {
    by_job: Mutex<HashMap<u128, Vec<Waiter>>>,
    /// The connection broke: messages may have been missed.
    pub(crate) broke: AtomicBool,
    pub(crate) disturbed: Notify,
}

struct Waiter {
    number: u64,
    queue: Arc<QueueKeys>,
    since: Instant,
    tell: oneshot::Sender<News>,
}

/// What a waiter learns.
pub(crate) enum News {
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
    pub(crate) fn add(&self, id: JobId, queue: &Arc<QueueKeys>) -> (u64, oneshot::Receiver<News>) {
        let (tell, told) = oneshot::channel();
        let mut by_job = self.by_job.lock();
        let list = by_job.entry(id.random).or_default();
        let number = list.last().map_or(0, |last| last.number + 1);
        list.push(Waiter { number, queue: queue.clone(), since: Instant::now(), tell });
        (number, told)
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

    pub(crate) fn tell(&self, job: u128, news: impl Fn() -> News) {
        let told = self.by_job.lock().remove(&job);
        for waiter in told.into_iter().flatten() {
            // A waiter that left needs no news.
            let _ = waiter.tell.send(news());
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
            waiters.broke.store(true, Ordering::Release);
            waiters.disturbed.notify_one();
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
        waiters.tell(job, || News::Ended(record.clone()));
        at = end;
    }
}
