//! A gateway thread's way in: enqueues that arrived in one tick of its runtime
//! go in one call per model, and finished jobs come back as pushed messages on
//! the same connection.
//!
//! Invariants:
//! - A waiter is registered before its job is sent (or looked for): what ends in
//!   between is not missed. After a reconnect every waiter is looked up, and old
//!   ones every few seconds in any case.
//! - `call` waits for the job's end only; an enqueue that fails ends it too.
//! - An enqueue without an answer is sent again under the same id; the script
//!   accepts it once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use nobat_core::job::{JobView, NewJob};
use nobat_core::{Error, ErrorCode, JobId, Result};
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::{Notify, oneshot};

use super::connect::{Hub, OnPush};
use super::enqueue::{self, Outgoing};
use super::keys::{KEY_LEN, QueueKeys, job_of, key_of};
use super::{Inner, patient, random_name, record, scripts};
use crate::queue::{Accepted, Lane};

/// Most jobs one enqueue call carries.
const BATCH_MAX: usize = 256;
/// Waiters older than this are looked up, in case a message was lost.
const RECHECK: Duration = Duration::from_secs(5);
/// Waiters looked up in one go.
const RECHECK_MAX: usize = 500;

pub(crate) struct RedisLane {
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

pub(crate) struct Shared {
    pub(crate) inner: Arc<Inner>,
    pub(crate) name: [u8; 8],
    pub(crate) hub: Hub,
    outbox: Mutex<Outbox>,
    filled: Notify,
    waiters: Arc<Waiters>,
    /// Jobs of enqueue calls without an answer, by call.
    in_flight: Mutex<HashMap<u64, Vec<u128>>>,
    calls: AtomicU64,
}

#[derive(Default)]
struct Outbox {
    jobs: Vec<Outgoing>,
    /// Queued jobs whose caller left.
    abandoned: Vec<(Arc<QueueKeys>, JobId)>,
}

/// Who waits for which job on this lane.
#[derive(Default)]
pub(crate) struct Waiters {
    by_job: Mutex<HashMap<u128, Vec<Waiter>>>,
    /// The connection broke: messages may have been missed.
    broke: AtomicBool,
    disturbed: Notify,
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
    fn add(&self, id: JobId, queue: &Arc<QueueKeys>) -> (u64, oneshot::Receiver<News>) {
        let (tell, told) = oneshot::channel();
        let mut by_job = self.by_job.lock();
        let list = by_job.entry(id.random).or_default();
        let number = list.last().map_or(0, |last| last.number + 1);
        list.push(Waiter { number, queue: queue.clone(), since: Instant::now(), tell });
        (number, told)
    }

    /// Removes one waiter; true when the job has none left on this lane.
    fn remove(&self, job: u128, number: u64) -> bool {
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
    fn older_than(&self, age: Duration, limit: usize) -> HashMap<String, (Arc<QueueKeys>, Vec<u128>)> {
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
    fn touch(&self, jobs: &[u128]) {
        let mut by_job = self.by_job.lock();
        for job in jobs {
            for waiter in by_job.get_mut(job).into_iter().flatten() {
                waiter.since = Instant::now();
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.by_job.lock().is_empty()
    }
}

impl RedisLane {
    pub(crate) fn open(inner: Arc<Inner>) -> RedisLane {
        let name = random_name();
        let waiters = Arc::new(Waiters::default());
        let channel = format!("{}{}", inner.prefix.lane_channel(), String::from_utf8_lossy(&name));
        let hub = Hub::new(inner.target.clone(), None).subscribed(vec![channel], on_push(waiters.clone()));
        let shared = Arc::new(Shared {
            inner,
            name,
            hub,
            outbox: Mutex::default(),
            filled: Notify::new(),
            waiters,
            in_flight: Mutex::default(),
            calls: AtomicU64::new(0),
        });
        let tasks = vec![tokio::spawn(flush(shared.clone())), tokio::spawn(attend(shared.clone()))];
        RedisLane { shared, tasks }
    }

    async fn prepare(&self, job: NewJob, reply: bool) -> Result<Outgoing> {
        let inner = &self.shared.inner;
        let queue = inner.queue(&job.model).await?;
        let id = inner.new_id(&queue, job.owner, &job.options);
        Ok(Outgoing::new(queue, id, &job, reply.then_some(self.shared.name)))
    }

    async fn wait_on(&self, queue: Arc<QueueKeys>, id: JobId, timeout: Duration) -> Result<Option<JobView>> {
        let shared = &self.shared;
        let (number, told) = shared.waiters.add(id, &queue);
        let leaving = Leaving { shared, queue: &queue, id, number, watched: true, abandon: false };
        let mut cmd = scripts::WATCH.on(&queue.base);
        cmd.arg(&key_of(id)[..]).arg(&shared.name[..]);
        match patient(&shared.hub, Some(&scripts::WATCH), &cmd).await? {
            Value::Nil => return Ok(None),
            Value::BulkString(bytes) => return shared.inner.view(&queue, id, bytes.into()).await.map(Some),
            _ => {}
        }
        let news = tokio::time::timeout(timeout, told).await;
        match news {
            Ok(Ok(News::Ended(bytes))) => {
                leaving.told();
                shared.inner.view(&queue, id, bytes).await.map(Some)
            }
            Ok(Ok(News::Gone)) => Ok(None),
            _ => {
                drop(leaving);
                shared.inner.read(id).await
            }
        }
    }
}

#[async_trait]
impl Lane for RedisLane {
    async fn enqueue(&self, job: NewJob) -> Result<Accepted> {
        let mut outgoing = self.prepare(job, false).await?;
        let (ack, acked) = oneshot::channel();
        outgoing.ack = Some(ack);
        self.shared.push(outgoing);
        acked.await.unwrap_or_else(|_| Err(Error::new(ErrorCode::QueueUnavailable, "the lane is closing")))
    }

    async fn call(&self, job: NewJob, timeout: Duration) -> Result<JobView> {
        let deadline = Instant::now() + timeout;
        let outgoing = self.prepare(job, true).await?;
        let (queue, id) = (outgoing.queue.clone(), outgoing.id);
        let shared = &self.shared;
        let (number, told) = shared.waiters.add(id, &queue);
        let mut leaving = Leaving { shared, queue: &queue, id, number, watched: false, abandon: true };
        shared.push(outgoing);
        match tokio::time::timeout(timeout, told).await {
            Ok(Ok(News::Ended(bytes))) => {
                leaving.told();
                shared.inner.view(&queue, id, bytes).await
            }
            Ok(Ok(News::Refused(e))) => {
                leaving.told();
                Err(e)
            }
            Ok(Ok(News::Duplicate(first))) => {
                leaving.told();
                let left = deadline.saturating_duration_since(Instant::now());
                self.wait_on(queue.clone(), first, left).await?.ok_or_else(|| gone(first))
            }
            Ok(_) => {
                leaving.told();
                Err(gone(id))
            }
            Err(_) => {
                leaving.abandon = false;
                shared.inner.read(id).await?.ok_or_else(|| gone(id))
            }
        }
    }

    async fn wait(&self, id: JobId, timeout: Duration) -> Result<Option<JobView>> {
        match self.shared.inner.queue_of(id).await? {
            Some(queue) => self.wait_on(queue, id, timeout).await,
            None => Ok(None),
        }
    }
}

impl Drop for RedisLane {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn gone(id: JobId) -> Error {
    Error::new(
        ErrorCode::ResultExpired,
        format!("job `{id}` ended and its result expired before it was read; give it a longer result_ttl"),
    )
    .for_job(id)
}

/// A wait's end, however it comes.
struct Leaving<'a> {
    shared: &'a Arc<Shared>,
    queue: &'a Arc<QueueKeys>,
    id: JobId,
    number: u64,
    /// Registered in the store beside the job's own lane.
    watched: bool,
    /// The caller left: a queued job is not worth running.
    abandon: bool,
}

impl Leaving<'_> {
    /// The news came: nothing to take back.
    fn told(mut self) {
        self.abandon = false;
        self.watched = false;
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let last = self.shared.waiters.remove(self.id.random, self.number);
        if self.abandon {
            self.shared.outbox.lock().abandoned.push((self.queue.clone(), self.id));
            self.shared.filled.notify_one();
        } else if self.watched && last {
            let (shared, queue, id) = (self.shared.clone(), self.queue.clone(), self.id);
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move {
                    let mut cmd = scripts::UNWATCH.on(&queue.base);
                    cmd.arg(&key_of(id)[..]).arg(&shared.name[..]);
                    // Left behind it costs a few bytes until the job ends.
                    let _ = shared.hub.call(&scripts::UNWATCH, &cmd).await;
                });
            }
        }
    }
}

impl Shared {
    fn push(&self, outgoing: Outgoing) {
        self.outbox.lock().jobs.push(outgoing);
        self.filled.notify_one();
    }

    /// Marks jobs as travelling until the guard is dropped.
    pub(crate) fn travelling(self: &Arc<Self>, jobs: Vec<u128>) -> Travelling {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        self.in_flight.lock().insert(call, jobs);
        Travelling { shared: self.clone(), call }
    }

    /// Whether an enqueue of this job has no answer yet.
    fn on_its_way(&self, job: u128) -> bool {
        self.outbox.lock().jobs.iter().any(|outgoing| outgoing.id.random == job)
            || self.in_flight.lock().values().any(|jobs| jobs.contains(&job))
    }

    /// Tells whoever waits for an enqueue's answer.
    pub(crate) fn answer(&self, outgoing: &mut Outgoing, verdict: Result<Accepted>) {
        match (outgoing.ack.take(), verdict) {
            (Some(ack), verdict) => drop(ack.send(verdict)),
            // A caller waits for the end, not for this.
            (None, Ok(accepted)) if !accepted.duplicate => {}
            (None, Ok(accepted)) => self.waiters.tell(outgoing.id.random, || News::Duplicate(accepted.id)),
            (None, Err(e)) => self.waiters.tell(outgoing.id.random, || News::Refused(e.clone())),
        }
    }
}

/// An enqueue call without an answer.
pub(crate) struct Travelling {
    shared: Arc<Shared>,
    call: u64,
}

impl Drop for Travelling {
    fn drop(&mut self) {
        self.shared.in_flight.lock().remove(&self.call);
    }
}

/// Sends what came together, again and again.
async fn flush(shared: Arc<Shared>) {
    loop {
        shared.filled.notified().await;
        // Let whatever else is ready in this tick come along.
        tokio::task::yield_now().await;
        let Outbox { jobs, abandoned } = std::mem::take(&mut *shared.outbox.lock());
        for batch in by_queue(jobs, |outgoing| &outgoing.queue) {
            tokio::spawn(enqueue::send(shared.clone(), batch));
        }
        for batch in by_queue(abandoned, |(queue, _)| queue) {
            tokio::spawn(abandon(shared.clone(), batch));
        }
    }
}

/// Splits by queue, keeping the order within each, and bounds a batch.
fn by_queue<T>(items: Vec<T>, queue: impl Fn(&T) -> &Arc<QueueKeys>) -> Vec<Vec<T>> {
    let mut batches: Vec<Vec<T>> = Vec::new();
    for item in items {
        let fits = |batch: &Vec<T>| batch.len() < BATCH_MAX && Arc::ptr_eq(queue(&batch[0]), queue(&item));
        match batches.iter().rposition(fits) {
            Some(at) => batches[at].push(item),
            None => batches.push(vec![item]),
        }
    }
    batches
}

async fn abandon(shared: Arc<Shared>, batch: Vec<(Arc<QueueKeys>, JobId)>) {
    let Some((queue, _)) = batch.first() else { return };
    let mut cmd = scripts::CANCEL.on(&queue.base);
    cmd.arg("waiting").arg(shared.inner.prefix.lane_channel());
    for (_, id) in &batch {
        cmd.arg(&key_of(*id)[..]);
    }
    if let Err(e) = shared.hub.call(&scripts::CANCEL, &cmd).await {
        log::debug!(model = queue.model.as_str(), jobs = batch.len(); "jobs whose callers left could not be cancelled and will run: {e}");
    }
}

/// Hands pushed messages to waiters.
fn on_push(waiters: Arc<Waiters>) -> OnPush {
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

/// A message is frames of key (16), length (u32) and record.
fn deliver(waiters: &Waiters, message: Bytes) {
    const HEAD: usize = KEY_LEN + 4;
    let mut at = 0;
    while let Some(head) = message.get(at..at + HEAD) {
        let (key, len) = head.split_at(KEY_LEN);
        let len = len.try_into().map_or(0, u32::from_le_bytes) as usize;
        let end = at + HEAD + len;
        let (Some(job), true) = (job_of(key), end <= message.len()) else {
            log::error!("a message to this lane is malformed; is another program using the prefix?");
            return;
        };
        let record = message.slice(at + HEAD..end);
        waiters.tell(job, || News::Ended(record.clone()));
        at = end;
    }
}

/// Keeps the connection up while somebody waits, and looks up waiters whose
/// message may have been lost.
async fn attend(shared: Arc<Shared>) {
    let waiters = shared.waiters.clone();
    loop {
        let disturbed = tokio::time::timeout(RECHECK, waiters.disturbed.notified()).await.is_ok();
        let broke = waiters.broke.swap(false, Ordering::AcqRel);
        if disturbed && broke {
            shared.hub.broken_now();
        }
        if waiters.is_empty() {
            continue;
        }
        let (age, limit) = if broke { (Duration::ZERO, usize::MAX) } else { (RECHECK, RECHECK_MAX) };
        let mut failed = false;
        for (queue, jobs) in waiters.older_than(age, limit).into_values() {
            for jobs in jobs.chunks(RECHECK_MAX) {
                failed |= recheck(&shared, &queue, jobs).await.is_err();
            }
        }
        if failed {
            // Not before the hub's own pause is over.
            tokio::time::sleep(Duration::from_millis(50)).await;
            if broke {
                waiters.broke.store(true, Ordering::Release);
                waiters.disturbed.notify_one();
            }
        }
    }
}

/// Looks whether awaited jobs have ended.
async fn recheck(shared: &Shared, queue: &Arc<QueueKeys>, jobs: &[u128]) -> redis::RedisResult<()> {
    let key = |job: u128| queue.job(&job.to_be_bytes());
    let mut pipeline = redis::Pipeline::new();
    for &job in jobs {
        pipeline.cmd("GETRANGE").arg(key(job)).arg(0).arg(0);
    }
    let states = shared.hub.send_all(&pipeline).await?;
    shared.waiters.touch(jobs);
    for (&job, state) in jobs.iter().zip(states) {
        match state {
            Value::BulkString(first) if first.first() == Some(&record::state::PENDING) => {}
            Value::BulkString(first) if first.is_empty() => {
                // Not there: gone, unless it is still on its way in.
                if !shared.on_its_way(job) {
                    shared.waiters.tell(job, || News::Gone);
                }
            }
            _ => {
                if let Value::BulkString(bytes) = shared.hub.send(redis::cmd("GET").arg(key(job))).await? {
                    let bytes = Bytes::from(bytes);
                    shared.waiters.tell(job, || News::Ended(bytes.clone()));
                }
            }
        }
    }
    Ok(())
}
