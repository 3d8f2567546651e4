//! The machine: enqueueing, the passing of time, and how a job ends.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use nobat_core::job::{JobError, JobState, LeaseToken, NewJob};
use nobat_core::score::{Aging, STRICT_SPAN};
use nobat_core::{Error, ErrorCode, IdIssuer, JobId, Result};
use smol_str::SmolStr;

use super::idempotency::{IdempotencyKeys, KeyScope, KnownKey};
use super::idle_consumers::ConsumerNo;
use super::index::Index;
use super::job::{Dirty, Finished, Job, Payload, Persisted, Phase, QueueNo, Row};
use super::write_behind::{IdempotencyRecord, Lag, QueueRecord};
use crate::api::{QueueSettings, SWEEP_LIMIT};
use crate::errors::idempotency_mismatch;

/// How soon an enqueued job must be in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Commit {
    /// Someone waits for the commit.
    Now,
    /// Nobody is answered before the job is settled: its insert may wait this
    /// long for the settlement to join it, in microseconds.
    Within(u64),
    /// As `Within`, and who called is answered from memory: a success may wait, too,
    /// so long.
    Relaxed { insert_us: u64, end_us: u64 },
}

/// An enqueued job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Enqueued {
    pub(crate) id: JobId,
    /// An idempotency key found it already there.
    pub(crate) duplicate: bool,
}

/// All queues of one process.
pub(crate) struct Machine {
    pub(super) settings: QueueSettings,
    pub(super) aging: Aging,
    pub(super) ids: IdIssuer,
    pub(super) jobs: BTreeMap<Row, Box<Job>>,
    pub(super) index: Index,
    pub(super) names: HashMap<SmolStr, QueueNo>,
    pub(super) keys: IdempotencyKeys,
    pub(super) lag: Lag,
    pub(super) wakes: Vec<ConsumerNo>,
    pub(super) next_row: Row,
    pub(super) next_token: u64,
    pub(super) last_position: i64,
    pub(super) next_consumer: ConsumerNo,
    pub(super) resident_bytes: u64,
    pub(super) resident_limit: u64,
    /// When time was last let pass.
    pub(super) looked_us: u64,
    /// Until when no lease is taken back: the process stood still before.
    pub(super) spared_us: u64,
    /// Leases that ran out and counted a death, by token; the newest of them.
    pub(super) lapsed: BTreeMap<LeaseToken, Row>,
}

impl Machine {
    /// An empty machine. `now_us` makes lease tokens differ from those of an
    /// earlier run; `resident_limit` is how many payload bytes stay in memory.
    pub(crate) fn new(settings: QueueSettings, ids: IdIssuer, now_us: u64, resident_limit: u64) -> Machine {
        let aging = settings.aging();
        Machine {
            settings,
            aging,
            ids,
            jobs: BTreeMap::new(),
            index: Index::default(),
            names: HashMap::new(),
            keys: IdempotencyKeys::default(),
            lag: Lag::default(),
            wakes: Vec::new(),
            next_row: 1,
            next_token: now_us,
            last_position: 0,
            next_consumer: 0,
            resident_bytes: 0,
            resident_limit,
            looked_us: 0,
            spared_us: 0,
            lapsed: BTreeMap::new(),
        }
    }

    /// Restores a queue as the journal has it; in the order of `record.queue`.
    pub(crate) fn restore_queue(&mut self, record: QueueRecord) {
        self.names.insert(record.model.clone(), record.queue);
        let number = self.index.add_queue(record.model, record.paused, record.enqueued, record.finished);
        self.index.queues[number as usize].dropped = record.dropped;
    }

    /// Restores a job as the journal has it.
    pub(crate) fn restore_job(&mut self, row: Row, mut job: Job) {
        if self.aging == Aging::Strict && job.position >= STRICT_SPAN {
            // Written under aging; the order of arrival is near enough.
            job.position = row as i64;
        }
        self.last_position = self.last_position.max(job.position);
        self.restore_row(row);
        self.resident_bytes += job.payload.resident();
        self.index.enter(row, &job);
        let error = job.error.take();
        self.index.set_error(row, &mut job, error.map(|error| *error));
        self.jobs.insert(row, Box::new(job));
    }

    /// Restores an idempotency key as the journal has it; in row order, after the jobs.
    pub(crate) fn restore_key(&mut self, mut record: IdempotencyRecord) {
        self.restore_row(record.known.row);
        match self.jobs.get_mut(&record.known.row) {
            Some(job) => job.keyed = true,
            // Neither the job nor a result of it is left.
            None => record.known.ends_ms = record.known.ends_ms.or(Some(0)),
        }
        self.keys.insert(record.scope, record.known);
    }

    /// New rows come after `row`.
    pub(crate) fn restore_row(&mut self, row: Row) {
        self.next_row = self.next_row.max(row + 1);
    }

    /// The number of `model`'s queue, which is created when it is new.
    pub(crate) fn queue(&mut self, model: &str) -> QueueNo {
        if let Some(&queue) = self.names.get(model) {
            return queue;
        }
        let queue = self.index.add_queue(model.into(), false, 0, 0);
        self.names.insert(model.into(), queue);
        self.lag.mark_queue(queue);
        queue
    }

    /// The number of `model`'s queue, if anybody has used it.
    pub(crate) fn find_queue(&self, model: &str) -> Option<QueueNo> {
        self.names.get(model).copied()
    }

    /// The model of a queue.
    pub(crate) fn model(&self, queue: QueueNo) -> SmolStr {
        self.index.queues[queue as usize].model.clone()
    }

    /// Accepts a job. `random` is 128 fresh random bits.
    ///
    /// # Errors
    /// `queue_full`, `idempotency_mismatch`.
    pub(crate) fn enqueue(&mut self, now_us: u64, new: NewJob, random: u128, commit: Commit) -> Result<Enqueued> {
        let queue = self.queue(&new.model);
        let options = new.options;
        let scope = options.idempotency.as_ref().map(|idempotency| KeyScope {
            owner: new.owner,
            queue,
            key: idempotency.key.clone(),
        });
        if let (Some(scope), Some(idempotency)) = (&scope, &options.idempotency)
            && let Some(known) = self.keys.find(scope, now_us)
        {
            let id = self.ids.issue(known.random, known.tombstone_min, known.row, new.owner);
            if known.fingerprint != idempotency.fingerprint {
                return Err(idempotency_mismatch().for_job(id));
            }
            return Ok(Enqueued { id, duplicate: true });
        }
        self.check_room(now_us, queue, new.payload.len() as u64)?;

        let row = self.next_row;
        self.next_row += 1;
        let due_us = options.delay.filter(|delay| !delay.is_zero()).map(|delay| now_us + micros(delay));
        let lives_us = micros(options.result_ttl)
            + options.delay.map_or(0, micros)
            + u64::from(self.settings.tombstone_s) * 1_000_000;
        let job = Job {
            random,
            owner: new.owner,
            tombstone_min: ((now_us + lives_us) / 60_000_000 + 1) as u32,
            queue,
            priority: options.priority,
            background: options.background,
            retry: options.retry,
            rows: new.rows,
            position: self.next_position(now_us),
            created_us: now_us,
            queued_us: now_us,
            deadline_us: options.deadline.map(|deadline| now_us + micros(deadline)),
            result_ttl_ms: options.result_ttl.as_millis() as u64,
            attempts: 0,
            deaths: 0,
            trace: new.trace.stored(),
            tags: options.tags,
            payload: Payload::Memory(new.payload),
            error: None,
            phase: due_us.map_or(Phase::Queued, |due_us| Phase::Scheduled { due_us }),
            stored: Persisted::No,
            dirty: Dirty::No,
            keyed: scope.is_some(),
            relaxed_us: match commit {
                Commit::Relaxed { end_us, .. } => end_us,
                Commit::Now | Commit::Within(_) => 0,
            },
        };
        let id = job.id(row, &self.ids);
        if let (Some(scope), Some(idempotency)) = (scope, options.idempotency) {
            let expires_us = now_us + u64::from(self.settings.idempotency_ttl_s) * 1_000_000;
            let known = KnownKey {
                row,
                random,
                tombstone_min: job.tombstone_min,
                fingerprint: idempotency.fingerprint,
                expires_us,
                ends_ms: None,
            };
            self.keys.insert(scope, known);
        }
        self.resident_bytes += job.payload.resident();
        self.index.enter(row, &job);
        self.index.queues[queue as usize].enqueued += 1;
        self.jobs.insert(row, Box::new(job));
        self.lag.mark_queue(queue);
        match commit {
            Commit::Now => self.mark(row),
            Commit::Within(us) | Commit::Relaxed { insert_us: us, .. } => self.defer(row, now_us + us),
        }
        self.wake(queue);
        Ok(Enqueued { id, duplicate: false })
    }

    fn check_room(&self, now_us: u64, queue: QueueNo, bytes: u64) -> Result<()> {
        let state = &self.index.queues[queue as usize];
        let (jobs, held) = (state.waiting(), state.waiting_bytes);
        let (max_jobs, max_bytes) = (self.settings.max_jobs, self.settings.max_bytes);
        let message = if max_jobs > 0 && jobs >= max_jobs {
            format!("the queue of model `{}` holds {jobs} jobs, its limit; try again later", state.model)
        } else if max_bytes > 0 && held + bytes > max_bytes {
            format!(
                "the queue of model `{}` holds {held} of {max_bytes} bytes, {bytes} more do not fit; try again later",
                state.model
            )
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorCode::QueueFull, message).retry_after(state.drain.time_for(now_us, jobs / 20 + 1)))
    }

    /// A place behind every job that is there: time under aging (made unique), a
    /// counter under strict priority.
    pub(super) fn next_position(&mut self, now_us: u64) -> i64 {
        let next = self.last_position + 1;
        self.last_position = match self.aging {
            Aging::Strict => next,
            Aging::Step(_) => next.max(now_us as i64),
        };
        self.last_position
    }

    /// Lets time pass: what is due becomes ready, what is late expires, what was
    /// leased too long goes back. Bounded; call again while [`Machine::next_event`]
    /// is past.
    pub(crate) fn advance(&mut self, now_us: u64) {
        for _ in 0..SWEEP_LIMIT {
            match self.index.deadlines.first() {
                Some(&(at, row)) if at <= now_us => self.expire(now_us, row),
                _ => break,
            }
        }
        for _ in 0..SWEEP_LIMIT {
            match self.index.scheduled.first() {
                Some(&(at, row)) if at <= now_us => self.promote(at, row),
                _ => break,
            }
        }
        self.look(now_us);
        self.reap(now_us);
        self.sweep_dead(now_us);
        if let Some(row) = self.keys.expire(now_us, SWEEP_LIMIT) {
            self.lag.forget_keys(row);
        }
    }

    /// When [`Machine::advance`] or [`Machine::take_group`] has something to do next.
    pub(crate) fn next_event(&self) -> Option<u64> {
        let firsts = [self.index.deadlines.first(), self.index.scheduled.first()];
        let firsts = firsts.into_iter().filter_map(|first| first.map(|&(at, _)| at));
        let rest = [self.next_lease_event(), self.lag.next_flush(), self.next_dead_end(), self.keys.next_expiry()];
        firsts.chain(rest.into_iter().flatten()).min()
    }

    /// A scheduled or failed job is due: it joins the ready order as of `due_us`
    /// under aging, and at its old place under strict priority. A postponed one is
    /// back at its place.
    pub(super) fn promote(&mut self, due_us: u64, row: Row) {
        let Some(job) = self.jobs.get_mut(&row) else { return };
        self.index.leave(row, job);
        let postponed = matches!(job.phase, Phase::Postponed { .. });
        job.phase = Phase::Queued;
        if !postponed {
            job.queued_us = due_us;
            if self.aging != Aging::Strict {
                job.position = due_us as i64;
            }
        }
        let queue = job.queue;
        self.index.enter(row, job);
        self.wake(queue);
    }

    /// A job's deadline passed while it waited.
    pub(super) fn expire(&mut self, now_us: u64, row: Row) {
        let last = self.jobs.get(&row).and_then(|job| job.error.as_deref());
        let last = last.map_or(String::new(), |last| format!("; its last attempt failed: {}", last.message));
        let message = format!("the deadline passed before the job finished{last}");
        self.finish(
            now_us,
            row,
            JobState::Expired,
            None,
            Some(JobError { code: ErrorCode::DeadlineExceeded, message }),
        );
    }

    /// Ends a job for good; readers see it with the commit that holds it.
    pub(super) fn finish(
        &mut self,
        now_us: u64,
        row: Row,
        state: JobState,
        result: Option<Bytes>,
        error: Option<JobError>,
    ) {
        let Some(job) = self.jobs.get_mut(&row) else { return };
        self.index.leave(row, job);
        self.resident_bytes -= job.payload.resident();
        job.payload = Payload::Disk(0);
        self.index.set_error(row, job, error);
        job.phase = Phase::Finished(Box::new(Finished { state, at_us: now_us, result }));
        if job.keyed {
            self.keys.end(row, now_us / 1_000 + job.result_ttl_ms);
        }
        let queue = &mut self.index.queues[job.queue as usize];
        queue.finished += 1;
        queue.dropped += u64::from(matches!(state, JobState::Cancelled | JobState::Expired));
        queue.drain.count(now_us);
        self.lag.mark_queue(job.queue);
        match (job.relaxed_us, job.dirty) {
            (within @ 1.., Dirty::No | Dirty::Deferred) if state == JobState::Succeeded => {
                self.defer_end(row, now_us + within);
            }
            _ => self.mark(row),
        }
    }

    /// Lets go of a job that the journal alone is to know.
    pub(super) fn forget(&mut self, row: Row) {
        if let Some(job) = self.jobs.remove(&row)
            && let Some(error) = job.error
        {
            self.index.errors.remove(&(error.code, row));
        }
    }

    /// Wakes consumers of `queue` for what nobody was woken for yet.
    pub(super) fn wake(&mut self, queue: QueueNo) {
        let queue = &mut self.index.queues[queue as usize];
        if !queue.paused {
            while let Some(consumer) = queue.idle_consumers.wake(queue.ready.len()) {
                self.wakes.push(consumer);
            }
        }
    }

    /// The consumers to wake for what has happened since the last call.
    pub(crate) fn take_wakes(&mut self) -> Vec<ConsumerNo> {
        std::mem::take(&mut self.wakes)
    }

    /// The live or dead job of `id`, if it is one.
    pub(super) fn find(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id.locator).map(|job| &**job).filter(|job| job.random == id.random)
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    // A century is as good as for ever, and sums of it cannot overflow.
    (duration.as_micros() as u64).min(100 * 365 * 86_400 * 1_000_000)
}
