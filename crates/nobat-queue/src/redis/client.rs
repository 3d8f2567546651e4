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
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nobat_core::job::{JobView, NewJob};
use nobat_core::{Error, ErrorCode, JobId, Result};
use parking_lot::Mutex;
use redis::Value;
use tokio::sync::{Notify, oneshot};

use super::connect::{self, Hub};
use super::enqueue::{self, Outgoing};
use super::keys::{QueueKeys, key_of, key_of_random};
use super::waiters::{News, Waiters, on_push};
use super::{Inner, patient, pulse, random_name, record, scripts};
use crate::api::{Accepted, QueueClient};
use crate::limits;

/// Most jobs one enqueue call carries: a third of a millisecond of Redis, for which
/// every other caller waits.
const BATCH_MAX: usize = 64;
/// Most payload bytes one enqueue call carries, unless one job alone has more: what
/// a server reads, and a connection holds back, at once.
const BATCH_BYTES: usize = 1 << 20;
/// While a call is under way, what arrives waits for its end and goes together; for
/// so long, so that a slow call holds nobody up.
const GATHER: Duration = Duration::from_millis(2);
/// Waiters older than this are looked up, in case a message was lost.
const RECHECK: Duration = Duration::from_secs(5);
/// Waiters looked up in one go.
const RECHECK_MAX: usize = 500;

pub(crate) struct RedisClient {
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
    /// Rung when such a call has its answer.
    answered: Notify,
}

#[derive(Default)]
struct Outbox {
    jobs: Vec<Outgoing>,
    /// Queued jobs whose caller left.
    abandoned: Vec<(Arc<QueueKeys>, JobId)>,
}

impl RedisClient {
    pub(crate) fn open(inner: Arc<Inner>) -> RedisClient {
        inner.timers.roam();
        let name = random_name();
        let waiters = Arc::new(Waiters::default());
        let channel = format!("{}{}", inner.prefix.client_channel(), String::from_utf8_lossy(&name));
        inner.accepts.store(true, Ordering::Relaxed);
        let hub = Hub::new(inner.target.clone(), None)
            .subscribed(vec![channel], on_push(waiters.clone()))
            .reporting(inner.refusals.clone());
        let shared = Arc::new(Shared {
            inner,
            name,
            hub,
            outbox: Mutex::default(),
            filled: Notify::new(),
            waiters,
            in_flight: Mutex::default(),
            calls: AtomicU64::new(0),
            answered: Notify::new(),
        });
        let mending = shared.clone();
        let tasks = vec![
            tokio::spawn(flush(shared.clone())),
            tokio::spawn(attend(shared.clone())),
            tokio::spawn(async move { pulse::mend(&mending.hub).await }),
        ];
        RedisClient { shared, tasks }
    }

    async fn prepare(&self, job: &NewJob, reply: bool) -> Result<Outgoing> {
        let inner = &self.shared.inner;
        let queue = match inner.known_queue(&job.model) {
            Some(known) => known,
            None => Box::pin(inner.queue(&job.model)).await?,
        };
        limits::check(job, inner.server.value_max(), connect::VALUE_LIMIT)?;
        let id = inner.new_id(&queue, job.owner, &job.options);
        Ok(Outgoing::new(queue, id, job, reply.then_some(self.shared.name)))
    }

    async fn wait_on(&self, queue: Arc<QueueKeys>, id: JobId, timeout: Duration) -> Result<Option<JobView>> {
        let shared = &self.shared;
        let (number, told) = shared.waiters.add(id, &queue);
        let leaving = Leaving { shared, queue: &queue, id, number, watched: true, abandon: false };
        let mut cmd = scripts::WATCH.on(&queue.base);
        cmd.arg(&key_of(id)[..]).arg(&shared.name[..]);
        let watched = match shared.hub.send(&cmd).await {
            Ok(watched) => watched,
            // Where writes are refused, what has ended can still be read.
            Err(_) => match shared.inner.read(id).await? {
                Some(view) if view.state.is_terminal() => return Ok(Some(view)),
                _ => patient(&shared.hub, &cmd).await?,
            },
        };
        match watched {
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
impl QueueClient for RedisClient {
    async fn enqueue(&self, job: NewJob) -> Result<Accepted> {
        let mut outgoing = self.prepare(&job, false).await?;
        let (ack, acked) = oneshot::channel();
        outgoing.ack = Some(ack);
        self.shared.push(outgoing);
        acked.await.unwrap_or_else(|_| Err(Error::new(ErrorCode::QueueUnavailable, "the client is closing")))
    }

    async fn call(&self, job: NewJob, timeout: Duration) -> Result<JobView> {
        let deadline = Instant::now() + timeout;
        let outgoing = self.prepare(&job, true).await?;
        let (queue, id) = (outgoing.queue.clone(), outgoing.id);
        let shared = &self.shared;
        // Whoever has its key may still ask for it.
        let abandon = job.options.idempotency.is_none();
        let (number, mut told) = shared.push_awaited(outgoing);
        let mut leaving = Leaving { shared, queue: &queue, id, number, watched: false, abandon };
        let news = match tokio::time::timeout(timeout, &mut told).await {
            Ok(news) => Some(news.unwrap_or(News::Gone)),
            Err(_) => {
                // A job that is still on its way has no record, and is not gone.
                Box::pin(shared.arrived(id.random)).await;
                told.try_recv().ok()
            }
        };
        match news {
            Some(News::Ended(bytes)) => {
                leaving.told();
                shared.inner.view(&queue, id, bytes).await
            }
            Some(News::Refused(e)) => {
                leaving.told();
                Err(e)
            }
            Some(News::Duplicate(first)) => {
                leaving.told();
                let left = deadline.saturating_duration_since(Instant::now());
                match Box::pin(self.wait_on(queue.clone(), first, left)).await? {
                    Some(view) => Ok(view),
                    // Its record has gone since the key was looked up: the key names
                    // nothing now.
                    None => {
                        let left = deadline.saturating_duration_since(Instant::now());
                        self.call(job, left).await
                    }
                }
            }
            Some(News::Gone) => {
                leaving.told();
                Err(gone(id))
            }
            None => {
                leaving.abandon = false;
                Box::pin(shared.inner.read(id)).await?.ok_or_else(|| gone(id))
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

impl Drop for RedisClient {
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
    /// Registered in the store beside the job's own client.
    watched: bool,
    /// The caller left: a queued job that nobody else waits for is not worth running.
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
        if self.abandon && last {
            self.shared.outbox.lock().abandoned.push((self.queue.clone(), self.id));
            self.shared.filled.notify_one();
        } else if self.watched && last {
            let (shared, queue, id) = (self.shared.clone(), self.queue.clone(), self.id);
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move {
                    let mut cmd = scripts::UNWATCH.on(&queue.base);
                    cmd.arg(&key_of(id)[..]).arg(&shared.name[..]);
                    // Left behind it costs a few bytes until the job ends.
                    let _ = shared.hub.send(&cmd).await;
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

    /// Under one lock: nobody sees the waiter of a job that is not on its way.
    fn push_awaited(&self, outgoing: Outgoing) -> (u64, oneshot::Receiver<News>) {
        let mut outbox = self.outbox.lock();
        let waiter = self.waiters.add(outgoing.id, &outgoing.queue);
        outbox.jobs.push(outgoing);
        self.filled.notify_one();
        waiter
    }

    /// Takes what is to be sent. Its jobs count as travelling, without a gap, until
    /// their guards are dropped.
    fn take_outbox(self: &Arc<Self>) -> (Vec<(Vec<Outgoing>, Travelling)>, Vec<(Arc<QueueKeys>, JobId)>) {
        let mut outbox = self.outbox.lock();
        let Outbox { jobs, abandoned } = std::mem::take(&mut *outbox);
        let batches = by_queue(jobs, |outgoing| &outgoing.queue, Outgoing::bytes);
        let travelling = batches.into_iter().map(|batch| {
            let call = self.calls.fetch_add(1, Ordering::Relaxed);
            self.in_flight.lock().insert(call, batch.iter().map(|outgoing| outgoing.id.random).collect());
            (batch, Travelling { shared: self.clone(), call })
        });
        (travelling.collect(), abandoned)
    }

    /// Whether an enqueue of this job has no answer yet.
    fn on_its_way(&self, job: u128) -> bool {
        let outbox = self.outbox.lock();
        outbox.jobs.iter().any(|outgoing| outgoing.id.random == job)
            || self.in_flight.lock().values().any(|jobs| jobs.contains(&job))
    }

    /// Resolves when the enqueue of this job has its answer.
    async fn arrived(&self, job: u128) {
        loop {
            let answered = self.answered.notified();
            tokio::pin!(answered);
            // From here on no bell is missed.
            answered.as_mut().enable();
            if !self.on_its_way(job) {
                return;
            }
            answered.await;
        }
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
        self.shared.answered.notify_waiters();
    }
}

/// Sends what came together, again and again.
async fn flush(shared: Arc<Shared>) {
    // Calls begin in the order they are added in: jobs that came to this client one
    // after the other reach an undisturbed store so, also in several calls.
    let mut calls = FuturesUnordered::new();
    let mut open_at = tokio::time::Instant::now();
    let mut filled = false;
    loop {
        tokio::select! {
            () = shared.filled.notified() => filled = true,
            Some(()) = calls.next() => {}
            () = tokio::time::sleep_until(open_at), if filled => {}
        }
        if !filled || !calls.is_empty() && tokio::time::Instant::now() < open_at {
            continue;
        }
        filled = false;
        // Let whatever else is ready in this tick come along.
        tokio::task::yield_now().await;
        let (batches, abandoned) = shared.take_outbox();
        open_at = tokio::time::Instant::now() + GATHER;
        for (batch, travelling) in batches {
            calls.push(enqueue::send(shared.clone(), batch, travelling));
        }
        for batch in by_queue(abandoned, |(queue, _)| queue, |_| 0) {
            tokio::spawn(abandon(shared.clone(), batch));
        }
    }
}

/// Splits by queue, keeping the order within each, and bounds a batch.
fn by_queue<T>(items: Vec<T>, queue: impl Fn(&T) -> &Arc<QueueKeys>, bytes: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut batches: Vec<Vec<T>> = Vec::new();
    let mut filled: Vec<usize> = Vec::new();
    for item in items {
        let size = bytes(&item);
        let last = batches.iter().rposition(|batch| Arc::ptr_eq(queue(&batch[0]), queue(&item)));
        match last.filter(|&at| batches[at].len() < BATCH_MAX && filled[at] + size <= BATCH_BYTES) {
            Some(at) => {
                batches[at].push(item);
                filled[at] += size;
            }
            None => {
                batches.push(vec![item]);
                filled.push(size);
            }
        }
    }
    batches
}

async fn abandon(shared: Arc<Shared>, batch: Vec<(Arc<QueueKeys>, JobId)>) {
    let Some((queue, _)) = batch.first() else { return };
    let mut cmd = scripts::CANCEL.on(&queue.base);
    cmd.arg("waiting").arg(shared.inner.prefix.client_channel());
    for (_, id) in &batch {
        cmd.arg(&key_of(*id)[..]);
    }
    if let Err(e) = shared.hub.send(&cmd).await {
        log::debug!(model = queue.model.as_str(), jobs = batch.len(); "jobs whose callers left could not be cancelled and will run: {e}");
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
    // Before it is looked for: a job that arrives while the answer travels back
    // would be taken for one that is gone.
    let arriving: Vec<bool> = jobs.iter().map(|&job| shared.on_its_way(job)).collect();
    let key = |job: u128| queue.job(&key_of_random(job));
    let mut pipeline = redis::Pipeline::new();
    for &job in jobs {
        pipeline.cmd("GETRANGE").arg(key(job)).arg(0).arg(0);
    }
    let states = shared.hub.send_all(&pipeline).await?;
    shared.waiters.touch(jobs);
    for ((&job, arriving), state) in jobs.iter().zip(arriving).zip(states) {
        match state {
            Value::BulkString(first) if first.first() == Some(&record::state::PENDING) => {}
            Value::BulkString(first) if first.is_empty() => {
                if !arriving {
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
