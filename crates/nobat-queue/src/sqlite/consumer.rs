//! A worker session's end: settle and lease in one call, sleep without polling.

use std::sync::Arc;

use async_trait::async_trait;
use nobat_core::job::{LeaseToken, LeasedJob, Settlement};
use nobat_core::{JobId, Result};
use tokio::sync::Notify;

use super::folder::{Running, unavailable};
use super::machine::{ConsumerNo, QueueNo};
use super::shared::{Core, VALUE_LIMIT};
use crate::api::{Consumer, LAST_CHANCE, LeaseReply, Renewal, Renewer};
use crate::limits::bounded;

pub(super) struct SqliteConsumer {
    core: Arc<Core>,
    queue: QueueNo,
    number: ConsumerNo,
    bell: Arc<Notify>,
    /// What this consumer holds, for the next process to know should this one die.
    running: Running,
    held: Vec<(JobId, LeaseToken)>,
    /// The one of those that is on its last chance.
    last_chance: Option<LeaseToken>,
}

impl SqliteConsumer {
    pub(super) fn open(core: Arc<Core>, model: &str) -> Result<SqliteConsumer> {
        let bell = Arc::new(Notify::new());
        let (queue, number) = core.shared.act(|state, _| {
            let queue = state.machine.queue(model);
            let number = state.machine.add_consumer(queue);
            state.bells.insert(number, Arc::clone(&bell));
            (queue, number)
        });
        let folder = &core.shared.folder;
        let running = folder.running(number).map_err(|e| {
            core.shared.act(|state, _| state.machine.remove_consumer(queue, number));
            unavailable(folder.path(), &format!("cannot be written: {e}"))
        })?;
        Ok(SqliteConsumer { core, queue, number, bell, running, held: Vec::new(), last_chance: None })
    }

    /// Reads the payloads that are not in memory; a job whose payload cannot be
    /// read is dead-lettered alone.
    fn read_payloads(&self, leased: &mut Vec<LeasedJob>, on_disk: &[JobId]) {
        let shared = &self.core.shared;
        leased.retain_mut(|job| {
            if !on_disk.contains(&job.id) {
                return true;
            }
            let why = match shared.read(|reader| reader.payload(job.id.locator)) {
                Ok(Some(payload)) => {
                    job.payload = payload;
                    return true;
                }
                Ok(None) => "its record is missing".to_owned(),
                Err(error) => error.message,
            };
            log::error!(job:% = job.id; "a job's payload cannot be read: {why}");
            shared.act(|state, now_us| state.machine.payload_lost(now_us, job.id, job.token, &why));
            false
        });
    }

    /// Notes what is held now, before any of it runs.
    fn note_held(&mut self) {
        if let Err(error) = self.running.note(self.held.iter().map(|(id, _)| id.locator)) {
            log::warn!(
                "cannot note the running jobs in `{}`: {error}; a job that kills the process would not be counted",
                self.core.shared.folder.path().display()
            );
        }
    }
}

#[async_trait]
impl Consumer for SqliteConsumer {
    async fn settle_and_lease(&mut self, settle: Vec<Settlement>, want: usize) -> Result<LeaseReply> {
        let mut step = LeaseReply::default();
        let (mut on_disk, mut answers) = (Vec::new(), Vec::new());
        let (queue, number, held) = (self.queue, self.number, &mut self.held);
        let most = self.core.shared.value_max;
        self.core.shared.act(|state, now_us| {
            for mut settlement in settle {
                settlement.outcome = bounded(settlement.outcome, most, VALUE_LIMIT);
                let (id, token) = (settlement.id, settlement.token);
                match state.machine.settle(now_us, settlement) {
                    true => answers.extend(state.take_caller(id)),
                    false => step.refused.push(id),
                }
                held.retain(|&(_, held)| held != token);
            }
            held.retain(|&(id, token)| state.machine.holds(id, token));
            step.more = state.machine.lease(now_us, queue, number, want, &mut step.leased);
            on_disk.extend(step.leased.iter().map(|job| job.id).filter(|&id| state.machine.payload_on_disk(id)));
        });
        // A caller that is gone has left; that is all a failed send says.
        answers.into_iter().for_each(|(caller, view)| drop(caller.send(Ok(view))));
        if let Some(job) = step.leased.iter().find(|job| job.deaths >= LAST_CHANCE) {
            self.last_chance = Some(job.token);
        }
        if !on_disk.is_empty() {
            self.read_payloads(&mut step.leased, &on_disk);
        }
        self.held.extend(step.leased.iter().map(|job| (job.id, job.token)));
        self.note_held();
        if let Some(token) = self.last_chance.take_if(|token| self.held.iter().all(|(_, held)| held != token)) {
            self.core.shared.act(|state, _| state.machine.end_last_chance(self.queue, token));
        }
        Ok(step)
    }

    async fn idle(&mut self) {
        let (queue, number) = (self.queue, self.number);
        if !self.core.shared.act(|state, _| state.machine.sleep(queue, number)) {
            return;
        }
        let mut sleep = Sleep { core: &self.core, queue, number, woken: false };
        self.bell.notified().await;
        sleep.woken = true;
    }
}

impl Drop for SqliteConsumer {
    fn drop(&mut self) {
        let (queue, number) = (self.queue, self.number);
        self.core.shared.act(|state, _| {
            state.bells.remove(&number);
            state.machine.remove_consumer(queue, number);
        });
    }
}

/// Dropped before `woken` is set, the consumer gave up sleeping: a wake-up that
/// was on its way goes to another.
struct Sleep<'a> {
    core: &'a Core,
    queue: QueueNo,
    number: ConsumerNo,
    woken: bool,
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if !self.woken {
            self.core.shared.act(|state, _| state.machine.give_up_sleep(self.queue, self.number));
        }
    }
}

pub(super) struct SqliteRenewer {
    pub(super) core: Arc<Core>,
}

#[async_trait]
impl Renewer for SqliteRenewer {
    async fn renew(&mut self, _model: &str, leases: &[(JobId, LeaseToken)]) -> Result<Vec<Renewal>> {
        Ok(self.core.shared.act(|state, now_us| {
            let renew = |&(id, token): &(JobId, LeaseToken)| match state.machine.renew(now_us, id, token) {
                true => Renewal::Renewed,
                false => Renewal::Lost,
            };
            leases.iter().map(renew).collect()
        }))
    }
}
