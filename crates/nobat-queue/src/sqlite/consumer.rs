//! A worker session's end: settle and lease in one call, sleep without polling.

use std::sync::Arc;

use async_trait::async_trait;
use nobat_core::job::{LeaseToken, LeasedJob, Settlement};
use nobat_core::{JobId, Result};
use tokio::sync::Notify;

use super::folder::{RunningNotes, unavailable};
use super::machine::{ConsumerNo, QueueNo};
use super::store::{StoreHandle, VALUE_LIMIT};
use crate::api::{Consumer, LAST_CHANCE, LeaseReply, Renewal, Renewer};
use crate::errors::bounded;

pub(super) struct SqliteConsumer {
    store: Arc<StoreHandle>,
    queue: QueueNo,
    number: ConsumerNo,
    waker: Arc<Notify>,
    /// What this consumer holds, for the next process to know should this one die.
    running: RunningNotes,
    held: Vec<(JobId, LeaseToken)>,
    /// The one of those that is on its last chance.
    last_chance: Option<LeaseToken>,
}

impl SqliteConsumer {
    pub(super) fn open(store: Arc<StoreHandle>, model: &str) -> Result<SqliteConsumer> {
        let waker = Arc::new(Notify::new());
        let (queue, number) = store.act(|state, _| {
            let queue = state.machine.queue(model);
            let number = state.machine.add_consumer(queue);
            state.wakers.insert(number, Arc::clone(&waker));
            (queue, number)
        });
        let folder = &store.folder;
        let running = folder.running(number).map_err(|e| {
            store.act(|state, _| state.machine.remove_consumer(queue, number));
            unavailable(folder.path(), &format!("cannot be written: {e}"))
        })?;
        Ok(SqliteConsumer { store, queue, number, waker, running, held: Vec::new(), last_chance: None })
    }

    /// Reads the payloads that are not in memory; a job whose payload cannot be
    /// read is dead-lettered alone.
    fn read_payloads(&self, leased: &mut Vec<LeasedJob>, on_disk: &[JobId]) {
        let store = &self.store;
        leased.retain_mut(|job| {
            if !on_disk.contains(&job.id) {
                return true;
            }
            let why = match store.read(|reader| reader.payload(job.id.locator)) {
                Ok(Some(payload)) => {
                    job.payload = payload;
                    return true;
                }
                Ok(None) => "its record is missing".to_owned(),
                Err(error) => error.message,
            };
            log::error!(job:% = job.id; "a job's payload cannot be read: {why}");
            store.act(|state, now_us| state.machine.payload_lost(now_us, job.id, job.token, &why));
            false
        });
    }

    /// Notes what is held now, before any of it runs.
    fn note_held(&mut self) {
        if let Err(error) = self.running.note(self.held.iter().map(|(id, _)| id.locator)) {
            log::warn!(
                "cannot note the running jobs in `{}`: {error}; a job that kills the process would not be counted",
                self.store.folder.path().display()
            );
        }
    }
}

impl SqliteConsumer {
    /// Settles, and leases of what ranks above a level if one is given.
    fn step(&mut self, settle: Vec<Settlement>, want: (usize, Option<i16>)) -> LeaseReply {
        let mut reply = LeaseReply::default();
        let (mut on_disk, mut answers) = (Vec::new(), Vec::new());
        let (queue, number, held) = (self.queue, self.number, &mut self.held);
        let most = self.store.value_max;
        self.store.act(|state, now_us| {
            for mut settlement in settle {
                settlement.outcome = bounded(settlement.outcome, most, VALUE_LIMIT);
                let (id, token) = (settlement.id, settlement.token);
                match state.machine.settle(now_us, settlement) {
                    true => answers.extend(state.take_caller(id)),
                    false => reply.refused.push(id),
                }
                held.retain(|&(_, held)| held != token);
            }
            held.retain(|&(id, token)| state.machine.holds(id, token));
            reply.more = state.machine.lease(now_us, queue, number, want, &mut reply.leased);
            on_disk.extend(reply.leased.iter().map(|job| job.id).filter(|&id| state.machine.payload_on_disk(id)));
        });
        // A caller that is gone has left; that is all a failed send says.
        answers.into_iter().for_each(|(caller, view)| drop(caller.send(Ok(view))));
        if let Some(job) = reply.leased.iter().find(|job| job.deaths >= LAST_CHANCE) {
            self.last_chance = Some(job.token);
        }
        if !on_disk.is_empty() {
            self.read_payloads(&mut reply.leased, &on_disk);
        }
        self.held.extend(reply.leased.iter().map(|job| (job.id, job.token)));
        self.note_held();
        if let Some(token) = self.last_chance.take_if(|token| self.held.iter().all(|(_, held)| held != token)) {
            self.store.act(|state, _| state.machine.end_last_chance(self.queue, token));
        }
        reply
    }
}

#[async_trait]
impl Consumer for SqliteConsumer {
    async fn settle_and_lease(&mut self, settle: Vec<Settlement>, want: usize) -> Result<LeaseReply> {
        Ok(self.step(settle, (want, None)))
    }

    async fn settle_and_lease_above(&mut self, settle: Vec<Settlement>, want: usize, level: i16) -> Result<LeaseReply> {
        Ok(self.step(settle, (want, Some(level))))
    }

    async fn idle(&mut self) {
        let (queue, number) = (self.queue, self.number);
        if !self.store.act(|state, _| state.machine.sleep(queue, number)) {
            return;
        }
        let mut sleep = Sleep { store: &self.store, queue, number, woken: false };
        self.waker.notified().await;
        sleep.woken = true;
    }
}

impl Drop for SqliteConsumer {
    fn drop(&mut self) {
        let (queue, number) = (self.queue, self.number);
        self.store.act(|state, _| {
            state.wakers.remove(&number);
            state.machine.remove_consumer(queue, number);
        });
    }
}

/// Dropped before `woken` is set, the consumer gave up sleeping: a wake-up that
/// was on its way goes to another.
struct Sleep<'a> {
    store: &'a StoreHandle,
    queue: QueueNo,
    number: ConsumerNo,
    woken: bool,
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if !self.woken {
            self.store.act(|state, _| state.machine.give_up_sleep(self.queue, self.number));
        }
    }
}

pub(super) struct SqliteRenewer {
    pub(super) store: Arc<StoreHandle>,
}

#[async_trait]
impl Renewer for SqliteRenewer {
    async fn renew(&mut self, _model: &str, leases: &[(JobId, LeaseToken)]) -> Result<Vec<Renewal>> {
        Ok(self.store.act(|state, now_us| {
            let renew = |&(id, token): &(JobId, LeaseToken)| match state.machine.renew(now_us, id, token) {
                true => Renewal::Renewed,
                false => Renewal::Lost,
            };
            leases.iter().map(renew).collect()
        }))
    }
}
