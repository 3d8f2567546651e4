//! A gateway thread's way in: enqueue, call, wait.
//!
//! Nothing is coalesced here, the writer's groups do that: an enqueue is one
//! short lock and the wait for the commit that carries it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nobat_core::job::{JobView, NewJob};
use nobat_core::{Error, JobId, Result};

use super::machine::Commit;
use super::read;
use super::store::{StoreHandle, VALUE_LIMIT, committed};
use crate::api::{Accepted, Durability, QueueClient};
use crate::errors;

/// How long the insert of a call waits for its settlement to join it. Nobody is
/// told of the job before it has ended, so a process killed meanwhile takes back
/// nothing.
pub(super) const CALL_INSERT_WITHIN_US: u64 = 10_000;
/// How long the record of a call that was answered waits for others to go with: a
/// process killed meanwhile takes the record along, not the answer. At 3 ms the
/// commits cost a tenth of the throughput.
pub(super) const CALL_END_WITHIN_US: u64 = 10_000;

pub(super) struct SqliteClient {
    pub(super) store: Arc<StoreHandle>,
}

#[async_trait]
impl QueueClient for SqliteClient {
    async fn enqueue(&self, job: NewJob) -> Result<Accepted> {
        errors::check_input(&job, self.store.value_max, VALUE_LIMIT)?;
        let (enqueued, ack, now_ms) = self.store.act(|state, now_us| {
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
        let store = &self.store;
        errors::check_input(&job, store.value_max, VALUE_LIMIT)?;
        let began = Instant::now();
        let keyed = job.options.idempotency.is_some();
        // A key promises that no second job is made, and fsync that nothing answered is
        // taken back: both hold only once the end is committed.
        let relaxed = !keyed && store.settings.durability == Durability::Memory;
        let again = keyed.then(|| job.clone());
        let (enqueued, end) = store.act(|state, now_us| {
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
                (None, None) => Err(errors::result_expired(id)),
            };
        };
        let mut caller = CallGuard { store: &self.store, id, keyed, present: false };
        let ended = tokio::time::timeout(timeout, end).await;
        caller.present = true;
        drop(caller);
        if let Ok(ended) = ended {
            return ended.unwrap_or_else(|_| Err(errors::closing()));
        }
        // The answer will name the job, so it must be durable first.
        let ack = store.act(|state, _| {
            state.drop_waiters(id.locator);
            state.machine.hurry(id);
            state.ack()
        });
        committed(ack).await?;
        read::get(store, id).await?.ok_or_else(|| errors::result_expired(id))
    }

    async fn wait(&self, id: JobId, timeout: Duration) -> Result<Option<JobView>> {
        let store = &self.store;
        let waiting = store.act(|state, now_us| {
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
            let _left = WaiterGuard { store: &self.store, id };
            match tokio::time::timeout(timeout, end).await {
                Ok(Ok(ended)) => return ended.map(Some),
                Ok(Err(_)) => return Err(errors::closing()),
                Err(_) => {}
            }
        }
        read::get(store, id).await
    }
}

/// Dropped before `present` is set, its caller has left: a job that still waits
/// is not run for nobody. Whoever has its key may still ask for it.
struct CallGuard<'a> {
    store: &'a StoreHandle,
    id: JobId,
    keyed: bool,
    present: bool,
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        if !self.present {
            self.store.act(|state, now_us| {
                let awaited = state.drop_waiters(self.id.locator);
                if !awaited && !self.keyed {
                    state.machine.abandon(now_us, self.id);
                }
            });
        }
    }
}

/// Takes a waiter that has left off the job's list.
struct WaiterGuard<'a> {
    store: &'a StoreHandle,
    id: JobId,
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        self.store.state.lock().drop_waiters(self.id.locator);
    }
}
