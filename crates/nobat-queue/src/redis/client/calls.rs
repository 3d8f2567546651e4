//! The client's calls: enqueue, call, wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nobat_core::job::{JobView, NewJob};
use nobat_core::{JobId, Result};
use parking_lot::Mutex;
use redis::Value;
use tokio::sync::{Notify, oneshot};

use super::super::connection::ConnectionManager;
use super::super::keys::{QueueKeys, VALUE_LIMIT, key_of};
use super::super::store::{RedisStore, random_name};
use super::super::{readiness, scripts};
use super::outgoing::OutgoingJob;
use super::state::ClientState;
use super::waiters::{Completion, Waiters, on_push};
use super::{enqueue, recheck};
use crate::api::{Accepted, QueueClient};
use crate::errors;

pub(crate) struct RedisClient {
    state: Arc<ClientState>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl RedisClient {
    pub(crate) fn open(store: Arc<RedisStore>) -> RedisClient {
        store.sweeps.sweep_all_queues();
        store.accepts.store(true, Ordering::Relaxed);
        let name = random_name();
        let waiters = Arc::new(Waiters::default());
        let channel = format!("{}{}", store.prefix.client_channel(), String::from_utf8_lossy(&name));
        let manager = ConnectionManager::new(store.endpoint.clone(), None)
            .subscribed(vec![channel], on_push(waiters.clone()))
            .reporting_to(store.refusals.clone());
        let (outbox, filled) = (Mutex::default(), Notify::new());
        let state = Arc::new(ClientState { store, name, manager, outbox, filled, waiters });
        let reconnecting = state.clone();
        let tasks = vec![
            tokio::spawn(enqueue::flush(state.clone())),
            tokio::spawn(recheck::run(state.clone())),
            tokio::spawn(async move { readiness::reconnect(&reconnecting.manager).await }),
        ];
        RedisClient { state, tasks }
    }

    async fn prepare(&self, job: &NewJob, reply: bool) -> Result<OutgoingJob> {
        let store = &self.state.store;
        let queue = match store.known_queue(&job.model) {
            Some(known) => known,
            None => Box::pin(store.queue(&job.model)).await?,
        };
        errors::check_input(job, store.server.value_max(), VALUE_LIMIT)?;
        let id = store.new_id(&queue, job.owner, &job.options);
        Ok(OutgoingJob::new(queue, id, job, reply.then_some(self.state.name)))
    }

    async fn wait_on(&self, queue: Arc<QueueKeys>, id: JobId, timeout: Duration) -> Result<Option<JobView>> {
        let state = &self.state;
        let (number, completed) = state.waiters.add(id, &queue, false);
        let mut guard = WaitGuard { state, queue: &queue, id, number, on_leave: OnLeave::RemoveWaiter };
        let mut cmd = scripts::REGISTER_WAITER.on(&queue.base);
        cmd.arg(&key_of(id)[..]).arg(&state.name[..]);
        let answer = match state.manager.send(&cmd).await {
            Ok(answer) => answer,
            // Where writes are refused, what has ended can still be read.
            Err(_) => match state.store.read(id).await? {
                Some(view) if view.state.is_terminal() => return Ok(Some(view)),
                _ => state.manager.send_patiently(&cmd).await?,
            },
        };
        match answer {
            Value::Nil => return Ok(None),
            Value::BulkString(bytes) => return state.store.view(&queue, id, bytes.into()).await.map(Some),
            _ => {}
        }
        match tokio::time::timeout(timeout, completed).await {
            Ok(Ok(Completion::Ended(bytes))) => {
                guard.on_leave = OnLeave::Nothing;
                state.store.view(&queue, id, bytes).await.map(Some)
            }
            Ok(Ok(Completion::Gone)) => Ok(None),
            _ => {
                drop(guard);
                state.store.read(id).await
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
        self.state.push(outgoing);
        acked.await.unwrap_or_else(|_| Err(errors::closing()))
    }

    async fn call(&self, job: NewJob, timeout: Duration) -> Result<JobView> {
        let deadline = Instant::now() + timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        let outgoing = self.prepare(&job, true).await?;
        let (queue, id) = (outgoing.queue.clone(), outgoing.id);
        let state = &self.state;
        // Whoever has its key may still ask for it.
        let on_leave = if job.options.idempotency.is_none() { OnLeave::Abandon } else { OnLeave::Nothing };
        let (number, mut completed) = state.waiters.add(id, &queue, true);
        let mut guard = WaitGuard { state, queue: &queue, id, number, on_leave };
        state.push(outgoing);
        let completion = match tokio::time::timeout(timeout, &mut completed).await {
            Ok(completion) => Some(completion.unwrap_or(Completion::Gone)),
            Err(_) => {
                // A job that is still on its way has no record, and is not gone.
                Box::pin(state.waiters.until_enqueued(id.random)).await;
                completed.try_recv().ok()
            }
        };
        guard.on_leave = OnLeave::Nothing;
        match completion {
            Some(Completion::Ended(bytes)) => state.store.view(&queue, id, bytes).await,
            Some(Completion::Refused(e)) => Err(e),
            Some(Completion::Duplicate(first)) => match Box::pin(self.wait_on(queue.clone(), first, left())).await? {
                Some(view) => Ok(view),
                // Its record has gone since the key was looked up: the key names nothing now.
                None => self.call(job, left()).await,
            },
            Some(Completion::Gone) => Err(errors::result_expired(id)),
            None => Box::pin(state.store.read(id)).await?.ok_or_else(|| errors::result_expired(id)),
        }
    }

    async fn wait(&self, id: JobId, timeout: Duration) -> Result<Option<JobView>> {
        match self.state.store.queue_of(id).await? {
            Some(queue) => self.wait_on(queue, id, timeout).await,
            None => Ok(None),
        }
    }
}

impl Drop for RedisClient {
    fn drop(&mut self) {
        self.tasks.iter().for_each(|task| task.abort());
    }
}

/// A wait's end, however it comes.
struct WaitGuard<'a> {
    state: &'a Arc<ClientState>,
    queue: &'a Arc<QueueKeys>,
    id: JobId,
    number: u64,
    on_leave: OnLeave,
}

/// What a waiter that was the client's last for its job takes back.
#[derive(Clone, Copy)]
enum OnLeave {
    Nothing,
    /// The store's note that this client waits.
    RemoveWaiter,
    /// The job, if it is still queued: nobody else waits for it.
    Abandon,
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        let last = self.state.waiters.remove(self.id.random, self.number);
        match self.on_leave {
            OnLeave::Abandon if last => {
                self.state.outbox.lock().abandoned.push((self.queue.clone(), self.id));
                self.state.filled.notify_one();
            }
            OnLeave::RemoveWaiter if last => {
                let (state, queue, id) = (self.state.clone(), self.queue.clone(), self.id);
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move {
                        let mut cmd = scripts::REMOVE_WAITER.on(&queue.base);
                        cmd.arg(&key_of(id)[..]).arg(&state.name[..]);
                        // Left behind it costs a few bytes until the job ends.
                        let _ = state.manager.send(&cmd).await;
                    });
                }
            }
            _ => {}
        }
    }
}
