//! Leases: giving them, renewing them, settling under them, taking them back.

use bytes::Bytes;
use nobat_core::job::{JobError, JobState, LeaseToken, LeasedJob, Outcome, Settlement};
use nobat_core::{ErrorCode, JobId};
use std::time::Duration;

use super::idle_consumers::ConsumerNo;
use super::job::{Payload, Phase, QueueNo, Row};
use super::state::{Machine, micros};
use crate::api::{LAST_CHANCE, MAX_DEATHS, POSTPONED, SILENCE_MIN, SWEEP_LIMIT};

/// Lapsed leases remembered.
const LAPSED_MAX: usize = 10_000;

impl Machine {
    /// Adds a consumer of a queue.
    pub(crate) fn add_consumer(&mut self, queue: QueueNo) -> ConsumerNo {
        let consumer = self.next_consumer;
        self.next_consumer += 1;
        self.index.queues[queue as usize].idle_consumers.add(consumer);
        consumer
    }

    /// Forgets a consumer; what it was woken for wakes another.
    pub(crate) fn remove_consumer(&mut self, queue: QueueNo, consumer: ConsumerNo) {
        let state = &mut self.index.queues[queue as usize];
        state.idle_consumers.remove(consumer);
        state.last_chance.take_if(|(holder, _)| *holder == consumer);
        self.wake(queue);
    }

    /// Puts a consumer to sleep unless there is work; whether it sleeps.
    pub(crate) fn sleep(&mut self, queue: QueueNo, consumer: ConsumerNo) -> bool {
        let queue = &mut self.index.queues[queue as usize];
        let ready = if queue.paused { 0 } else { queue.ready.len() };
        queue.idle_consumers.sleep(consumer, ready)
    }

    /// A consumer gave up sleeping without stepping; its wake-up goes to another.
    pub(crate) fn give_up_sleep(&mut self, queue: QueueNo, consumer: ConsumerNo) {
        self.index.queues[queue as usize].idle_consumers.awake(consumer);
        self.wake(queue);
    }

    /// Leases up to `want` jobs in order, appending them to `out`, of nothing but what ranks
    /// above the level `above`, if there is one; whether ready jobs are left. A job that outlived a worker comes alone, and one on its last
    /// chance only while no other is. The payload of a job past the byte budget is empty here: see [`Machine::payload_on_disk`].
    pub(crate) fn lease(
        &mut self,
        now_us: u64,
        queue: QueueNo,
        consumer: ConsumerNo,
        (want, above): (usize, Option<i16>),
        out: &mut Vec<LeasedJob>,
    ) -> bool {
        self.index.queues[queue as usize].idle_consumers.step(consumer, want);
        if self.index.queues[queue as usize].paused {
            return false;
        }
        let expires_us = now_us + u64::from(self.settings.lease_ms) * 1_000;
        let busy = self.index.queues[queue as usize].last_chance.is_some();
        let now = self.last_position.max(now_us as i64);
        let highest = above.map(|level| self.aging.highest_above(level, now));
        let (mut passed, first) = (0, out.len());
        while out.len() - first < want && passed < SWEEP_LIMIT {
            let Some(row) = self.index.queues[queue as usize].ready.first(self.aging) else { break };
            let Some(job) = self.jobs.get_mut(&row) else { break };
            if highest.is_some_and(|highest| self.aging.score(job.position, job.rank()) > highest) {
                break;
            }
            if job.deadline_us.is_some_and(|at| at <= now_us) {
                self.expire(now_us, row);
                passed += 1;
                continue;
            }
            if job.deaths > 0 && out.len() > first {
                break;
            }
            if job.deaths >= LAST_CHANCE && busy {
                self.index.leave(row, job);
                job.phase = Phase::Postponed { due_us: now_us + micros(POSTPONED) };
                self.index.enter(row, job);
                passed += 1;
                continue;
            }
            self.next_token += 1;
            let token = LeaseToken(self.next_token);
            self.index.leave(row, job);
            job.attempts += 1;
            job.phase = Phase::Leased { token, expires_us };
            self.index.enter(row, job);
            out.push(LeasedJob {
                id: job.id(row, &self.ids),
                token,
                attempt: job.attempts,
                deaths: job.deaths,
                priority: job.priority,
                rows: job.rows,
                queued_at_us: job.queued_us,
                leased_at_us: now_us,
                time_left: job.deadline_us.map(|at| Duration::from_micros(at - now_us)),
                retry: job.retry,
                payload: match &job.payload {
                    Payload::Memory(bytes) => bytes.clone(),
                    Payload::Disk(_) => Bytes::new(),
                },
                trace: job.trace.as_str().into(),
            });
            if job.deaths >= LAST_CHANCE {
                self.index.queues[queue as usize].last_chance = Some((consumer, token));
            }
            if job.deaths > 0 {
                break;
            }
        }
        self.wake(queue);
        self.index.queues[queue as usize].ready.len() > 0
    }

    /// The lease of a job on its last chance is over, and noted so where it survives
    /// the process: the next such job may run. Not before: a job that this one kills
    /// the process beside would be counted dead with it.
    pub(crate) fn end_last_chance(&mut self, queue: QueueNo, token: LeaseToken) {
        let last_chance = &mut self.index.queues[queue as usize].last_chance;
        last_chance.take_if(|(_, held)| *held == token);
    }

    /// Whether a leased job's payload must be read from the journal.
    pub(crate) fn payload_on_disk(&self, id: JobId) -> bool {
        self.find(id).is_some_and(|job| matches!(job.payload, Payload::Disk(len) if len > 0))
    }

    /// Where the input of a job is that has not ended, or is dead.
    pub(crate) fn input(&self, id: JobId) -> Option<Payload> {
        self.find(id).map(|job| job.payload.clone())
    }

    /// Settles a leased job; `false` when the lease is not (or no longer) this one.
    pub(crate) fn settle(&mut self, now_us: u64, settlement: Settlement) -> bool {
        if !self.holds(settlement.id, settlement.token) {
            self.undo_death(settlement.id, settlement.token);
            return false;
        }
        let row = settlement.id.locator;
        match settlement.outcome {
            Outcome::Succeeded(result) => self.finish(now_us, row, JobState::Succeeded, Some(result), None),
            Outcome::Expired(error) => self.finish(now_us, row, JobState::Expired, None, Some(error)),
            Outcome::Failed { error, retry_in: None } => self.dead_letter(now_us, row, error),
            Outcome::Failed { error, retry_in: Some(after) } => self.retry(now_us, row, error, now_us + micros(after)),
            Outcome::Released => self.put_back(now_us, row, false),
        }
        true
    }

    /// Renews a lease; `false` when it is lost.
    pub(crate) fn renew(&mut self, now_us: u64, id: JobId, token: LeaseToken) -> bool {
        let row = id.locator;
        if !self.holds(id, token) {
            self.undo_death(id, token);
            return false;
        }
        let Some(job) = self.jobs.get_mut(&row) else { return false };
        self.index.leave(row, job);
        job.phase = Phase::Leased { token, expires_us: now_us + u64::from(self.settings.lease_ms) * 1_000 };
        self.index.enter(row, job);
        true
    }

    /// Whether `token` is the present lease of `id`.
    pub(crate) fn holds(&self, id: JobId, token: LeaseToken) -> bool {
        self.find(id).is_some_and(|job| matches!(job.phase, Phase::Leased { token: held, .. } if held == token))
    }

    fn retry(&mut self, now_us: u64, row: Row, error: JobError, due_us: u64) {
        let Some(job) = self.jobs.get_mut(&row) else { return };
        self.index.set_error(row, job, Some(error));
        if job.deadline_us.is_some_and(|at| at <= due_us) {
            return self.expire(now_us, row);
        }
        self.index.leave(row, job);
        job.phase = Phase::Failed { due_us };
        self.index.enter(row, job);
        self.mark(row);
        if due_us <= now_us {
            self.promote(due_us, row);
        }
    }

    /// A leased job goes back to its old place; `died` when its worker did not
    /// say so itself.
    fn put_back(&mut self, now_us: u64, row: Row, died: bool) {
        let Some(job) = self.jobs.get_mut(&row) else { return };
        if died {
            job.deaths += 1;
            if job.deaths >= MAX_DEATHS {
                let deaths = job.deaths;
                return self.dead_letter(now_us, row, quarantined(deaths));
            }
        } else {
            job.attempts -= 1;
        }
        self.index.leave(row, job);
        job.phase = Phase::Queued;
        self.index.enter(row, job);
        let queue = job.queue;
        if died {
            self.mark(row);
        }
        self.wake(queue);
    }

    /// Notes that time is let pass. After a silence of most of a lease the process stood
    /// still (a suspended machine), and with it whoever renews: leases that ran out
    /// meanwhile have as long again.
    pub(super) fn look(&mut self, now_us: u64) {
        let lease_us = u64::from(self.settings.lease_ms) * 1_000;
        let silence_us = now_us.saturating_sub(self.looked_us);
        let long_us = (lease_us / 5 * 4).max(micros(SILENCE_MIN));
        if self.looked_us > 0 && silence_us > long_us && !self.index.leases.is_empty() {
            self.spared_us = now_us + lease_us;
        }
        self.looked_us = now_us;
    }

    /// When leases are to be looked after next: at the first one's end, and now and then
    /// before, so that a silence means something.
    pub(super) fn next_lease_event(&self) -> Option<u64> {
        let end_us = self.index.next_lease_end()?.max(self.spared_us);
        Some(end_us.min(self.looked_us + u64::from(self.settings.lease_ms) * 1_000 / 3))
    }

    /// Whoever held this lease lives: that it ran out was no death.
    fn undo_death(&mut self, id: JobId, token: LeaseToken) {
        if self.lapsed.get(&token) != Some(&id.locator) {
            return;
        }
        self.lapsed.remove(&token);
        let Some(job) = self.jobs.get_mut(&id.locator).filter(|job| job.random == id.random) else { return };
        if job.deaths > 0 && !matches!(job.phase, Phase::Dead { .. } | Phase::Finished(_)) {
            job.deaths -= 1;
            self.mark(id.locator);
        }
    }

    /// Takes back expired leases, at most [`SWEEP_LIMIT`].
    pub(super) fn reap(&mut self, now_us: u64) {
        if now_us < self.spared_us {
            return;
        }
        let mut reaped = 0;
        while let Some(&(expires_us, row, token)) = self.index.leases.front() {
            let held = self.jobs.get(&row).is_some_and(
                |job| matches!(job.phase, Phase::Leased { token: held, expires_us: at } if held == token && at == expires_us),
            );
            if held && (expires_us > now_us || reaped == SWEEP_LIMIT) {
                break;
            }
            self.index.leases.pop_front();
            if held {
                if let Some(queue) = self.jobs.get(&row).map(|job| job.queue) {
                    self.end_last_chance(queue, token);
                }
                self.put_back(now_us, row, true);
                self.lapsed.insert(token, row);
                if self.lapsed.len() > LAPSED_MAX {
                    self.lapsed.pop_first();
                }
                reaped += 1;
            }
        }
    }

    /// The process died while a consumer held this job: counts the attempt and
    /// the death. For jobs just restored.
    pub(crate) fn count_death(&mut self, now_us: u64, row: Row) {
        let Some(job) = self.jobs.get_mut(&row) else { return };
        // That a job became due is not written: it may have run since. One that is not
        // due yet was settled after the consumer noted it, and did not run.
        let may_have_run = match job.phase {
            Phase::Queued => true,
            Phase::Scheduled { due_us } | Phase::Failed { due_us } => due_us <= now_us,
            Phase::Postponed { .. }
            | Phase::Leased { .. }
            | Phase::Dead { .. }
            | Phase::Finished(_)
            | Phase::Purged => false,
        };
        if !may_have_run {
            return;
        }
        job.attempts += 1;
        job.deaths += 1;
        let deaths = job.deaths;
        self.mark(row);
        if deaths >= MAX_DEATHS {
            self.dead_letter(now_us, row, quarantined(deaths));
        }
    }

    /// Dead-letters a leased job whose payload the journal cannot give back.
    pub(crate) fn payload_lost(&mut self, now_us: u64, id: JobId, token: LeaseToken, why: &str) {
        if self.holds(id, token) {
            let message = format!("the job's payload cannot be read: {why}; send the request again");
            self.dead_letter(now_us, id.locator, JobError { code: ErrorCode::Internal, message });
        }
    }
}

fn quarantined(deaths: u32) -> JobError {
    let message =
        format!("{deaths} workers died running this job; it is quarantined: inspect it, then redrive or purge it");
    JobError { code: ErrorCode::InferenceFailed, message }
}
