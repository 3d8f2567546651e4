//! A gateway thread's way in: enqueue, call, wait.
//!
//! Nothing is coalesced here, the writer's groups do that: an enqueue is one
//! short lock and the wait for the commit that carries it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nobat_core::job::{JobView, NewJob};
use nobat_core::{Error, ErrorCode, JobId, Result};
use tokio::sync::oneshot;

use super::machine::Commit;
use super::read;
use super::shared::{Core, VALUE_LIMIT};
use crate::api::{Accepted, Durability, QueueClient};
use crate::limits;

/// How long the insert of a call waits for its settlement to join it. Nobody is
/// told of the job before it has ended, so a process killed meanwhile takes back
/// nothing.
pub(super) const CALL_INSERT_WITHIN_US: u64 = 10_000;
/// How long the record of a call that was answered waits for others to go with: a
/// process killed meanwhile takes the record along, not the answer. At 3 ms the
/// commits cost a tenth of the throughput.
pub(super) const CALL_END_WITHIN_US: u64 = 10_000;

pub(super) struct SqliteClient {
    pub(super) core: Arc<Core>,
}

#[async_trait]
impl QueueClient for SqliteClient {
    async fn enqueue(&self, job: NewJob) -> Result<Accepted> {
        limits::check(&job, self.core.shared.value_max, VALUE_LIMIT)?;
        let (enqueued, ack, now_ms) = self.core.shared.act(|state, now_us| {
            let enqueued = state.enqueue(now_us, job, Commit::Now)?;
            if enqueued.duplicate {
                state.machine.hurry(enqueued.id);
            }
            Ok::<_, Error>((enqueued, state.ack(), now_us / 1_000))
        })?;
        committed(ack).await?;
        let created_at_ms = (!enqueued.duplicate).then_some(now_ms);
        Ok(Accepted { id: enqueued.id, duplicate: enqueued.duplicate, created_at_ms })
    }

    async fn call(&self, job: NewJob, timeout: Duration) -> Result<JobView> {
        let shared = &self.core.shared;
        limits::check(&job, shared.value_max, VALUE_LIMIT)?;
        let began = Instant::now();
        let keyed = job.options.idempotency.is_some();
        // A key promises that no second job is made, and fsync that nothing answered is
        // taken back: both hold only once the end is committed.
        let relaxed = !keyed && shared.settings.durability == Durability::Memory;
        let again = keyed.then(|| job.clone());
        let (enqueued, end) = shared.act(|state, now_us| {
            let commit = match relaxed {
                true => Commit::Relaxed { insert_us: CALL_INSERT_WITHIN_US, end_us: CALL_END_WITHIN_US },
                false => Commit::Within(CALL_INSERT_WITHIN_US),
            };
            let enqueued = state.enqueue(now_us, job, commit)?;
            let end = (!enqueued.duplicate).then(|| state.wait_for(enqueued.id, relaxed));
            Ok::<_, Error>((enqueued, end))
        })?;
        let id = enqueued.id;
        let Some(end) = end else {
            // Somebody else's job: wait for it, but leave it alone.
            return match (self.wait(id, timeout).await?, again) {
                (Some(view), _) => Ok(view),
                // Its record has gone since the key was looked up: the key names nothing now.
                (None, Some(job)) => self.call(job, timeout.saturating_sub(began.elapsed())).await,
                (None, None) => Err(gone(id)),
            };
        };
        let mut caller = Caller { core: &self.core, id, keyed, present: false };
        let ended = tokio::time::timeout(timeout, end).await;
        caller.present = true;
        drop(caller);
        if let Ok(ended) = ended {
            return ended.unwrap_or_else(|_| Err(closed()));
        }
        // The answer will name the job, so it must be durable first.
        let ack = shared.act(|state, _| {
            state.drop_waiters(id.locator);
            state.machine.hurry(id);
            state.ack()
        });
        committed(ack).await?;
        read::get(shared, id).await?.ok_or_else(|| gone(id))
    }

    async fn wait(&self, id: JobId, timeout: Duration) -> Result<Option<JobView>> {
        let shared = &self.core.shared;
        let waiting = shared.act(|state, now_us| {
            if state.recent.get(id, now_us / 1_000).is_some() {
                return None;
            }
            let lives =
                state.machine.is_settling(id) || state.machine.view(id).is_some_and(|view| !view.state.is_terminal());
            if lives {
                state.machine.hurry(id);
            }
            lives.then(|| state.wait_for(id, false))
        });
        if let Some(end) = waiting {
            let _left = Waiting { core: &self.core, id };
            match tokio::time::timeout(timeout, end).await {
                Ok(Ok(ended)) => return ended.map(Some),
                Ok(Err(_)) => return Err(closed()),
                Err(_) => {}
            }
        }
        read::get(shared, id).await
    }
}

/// Waits for a commit.
pub(super) async fn committed(ack: oneshot::Receiver<Result<()>>) -> Result<()> {
    ack.await.unwrap_or_else(|_| Err(closed()))
}

fn closed() -> Error {
    Error::new(ErrorCode::QueueUnavailable, "the queue is closed: the process is shutting down")
}

fn gone(id: JobId) -> Error {
    Error::new(ErrorCode::ResultExpired, format!("job `{id}` ended and its result has expired")).for_job(id)
}

/// Dropped before `present` is set, its caller has left: a job that still waits
/// is not run for nobody. Whoever has its key may still ask for it.
struct Caller<'a> {
    core: &'a Core,
    id: JobId,
    keyed: bool,
    present: bool,
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        if !self.present {
            self.core.shared.act(|state, now_us| {
                let awaited = state.drop_waiters(self.id.locator);
                if !awaited && !self.keyed {
                    state.machine.abandon(now_us, self.id);
                }
            });
        }
    }
}

/// Takes a waiter that has left off the job's list.
struct Waiting<'a> {
    core: &'a Core,
    id: JobId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.core.shared.state.lock().drop_waiters(self.id.locator);
    }
}
