//! What people do to queues: cancel, redrive, purge, pause, count, look.

use std::collections::HashSet;

use nobat_core::job::{JobError, JobState, JobView};
use nobat_core::{ErrorCode, JobId, Result};

use super::idempotency::KeyScope;
use super::job::{Job, Payload, Phase, QueueNo, Row};
use super::state::Machine;
use crate::api::{Counts, SWEEP_LIMIT};
use crate::errors::{already_finished, not_found};

/// Jobs of a page, the row looked at last, and how many were looked at.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    pub(crate) jobs: Vec<JobView>,
    pub(crate) last: Option<Row>,
    pub(crate) looked: usize,
}

impl Machine {
    /// Cancels a job that is not terminal.
    ///
    /// # Errors
    /// `job_not_found` (the journal may still know it), `job_already_finished`.
    pub(crate) fn cancel(&mut self, now_us: u64, id: JobId) -> Result<()> {
        let Some(job) = self.find(id) else {
            return Err(not_found(id));
        };
        let state = job.state();
        if state.is_terminal() {
            return Err(already_finished(id, state));
        }
        let error = JobError { code: ErrorCode::JobCancelled, message: "the job was cancelled".into() };
        self.finish(now_us, id.locator, JobState::Cancelled, None, Some(error));
        Ok(())
    }

    /// Cancels a job whose caller has left and for whom nobody else waits, if no
    /// consumer holds it.
    pub(crate) fn abandon(&mut self, now_us: u64, id: JobId) {
        let waits = |job: &Job| {
            matches!(
                job.phase,
                Phase::Queued | Phase::Postponed { .. } | Phase::Scheduled { .. } | Phase::Failed { .. }
            )
        };
        if self.find(id).is_some_and(waits) {
            let error =
                JobError { code: ErrorCode::JobCancelled, message: "the caller left before the job ran".into() };
            self.finish(now_us, id.locator, JobState::Cancelled, None, Some(error));
        }
    }

    /// Makes a job a dead letter, and keeps their number under the cap.
    pub(super) fn dead_letter(&mut self, now_us: u64, row: Row, error: JobError) {
        let Some(job) = self.jobs.get_mut(&row) else { return };
        self.index.leave(row, job);
        self.index.set_error(row, job, Some(error));
        job.phase = Phase::Dead { at_us: now_us };
        self.index.enter(row, job);
        let queue = &mut self.index.queues[job.queue as usize];
        queue.finished += 1;
        queue.drain.count(now_us);
        let over = queue.dead.len().saturating_sub(self.settings.max_dead as usize);
        let oldest: Vec<Row> = queue.dead.iter().take(over).map(|&(_, row)| row).collect();
        self.lag.mark_queue(job.queue);
        self.mark(row);
        for row in oldest {
            self.purge_row(row);
        }
    }

    fn purge_row(&mut self, row: Row) {
        let Some(job) = self.jobs.get_mut(&row) else { return };
        self.index.leave(row, job);
        self.resident_bytes -= job.payload.resident();
        job.payload = Payload::Disk(0);
        job.phase = Phase::Purged;
        if job.keyed {
            self.keys.remove(row);
        }
        self.mark(row);
    }

    /// Forgets dead letters past their ttl, bounded.
    pub(super) fn sweep_dead(&mut self, now_us: u64) {
        for _ in 0..SWEEP_LIMIT {
            match self.index.dead.first() {
                Some(&(_, row)) if self.next_dead_end().is_some_and(|at| at <= now_us) => self.purge_row(row),
                _ => break,
            }
        }
    }

    /// When the oldest dead letter's ttl ends.
    pub(super) fn next_dead_end(&self) -> Option<u64> {
        self.index.dead.first().map(|&(at_us, _)| at_us + u64::from(self.settings.dead_ttl_s) * 1_000_000)
    }

    /// Dead letters among `ids`, or up to `limit` of the oldest when none are named.
    fn dead_letters(&self, queue: QueueNo, ids: &[JobId], limit: usize) -> Vec<Row> {
        if ids.is_empty() {
            return self.index.queues[queue as usize].dead.iter().take(limit).map(|&(_, row)| row).collect();
        }
        let is_dead = |job: &Job| job.queue == queue && matches!(job.phase, Phase::Dead { .. });
        let named = ids.iter().filter(|&&id| self.find(id).is_some_and(is_dead)).map(|id| id.locator);
        // One that is named twice goes once, in the order of the names.
        let mut seen = HashSet::new();
        named.filter(|&row| seen.insert(row)).collect()
    }

    /// Sends dead letters to the end of their queue, their attempts forgotten and
    /// their whole deadline before them; how many.
    pub(crate) fn redrive(&mut self, now_us: u64, queue: QueueNo, ids: &[JobId], limit: usize) -> u64 {
        let rows = self.dead_letters(queue, ids, limit);
        let mut sent = 0;
        for row in rows {
            let position = self.next_position(now_us);
            let Some(job) = self.jobs.get_mut(&row) else { continue };
            if !matches!(job.phase, Phase::Dead { .. }) {
                continue;
            }
            self.index.leave(row, job);
            job.phase = Phase::Queued;
            (job.attempts, job.deaths) = (0, 0);
            self.index.set_error(row, job, None);
            job.deadline_us = job.deadline_us.map(|at| now_us + at.saturating_sub(job.created_us));
            (job.queued_us, job.position) = (now_us, position);
            self.index.enter(row, job);
            let queue = &mut self.index.queues[queue as usize];
            queue.finished = queue.finished.saturating_sub(1);
            self.mark(row);
            sent += 1;
        }
        self.lag.mark_queue(queue);
        self.wake(queue);
        sent
    }

    /// Deletes dead letters for good; how many.
    pub(crate) fn purge(&mut self, queue: QueueNo, ids: &[JobId], limit: usize) -> u64 {
        let rows = self.dead_letters(queue, ids, limit);
        rows.iter().for_each(|&row| self.purge_row(row));
        rows.len() as u64
    }

    /// Stops or resumes leasing.
    pub(crate) fn set_paused(&mut self, queue: QueueNo, paused: bool) {
        self.index.queues[queue as usize].paused = paused;
        self.lag.mark_queue_now(queue);
        self.wake(queue);
    }

    /// A queue's contents.
    pub(crate) fn counts(&self, now_us: u64, queue: QueueNo) -> Counts {
        let state = &self.index.queues[queue as usize];
        let oldest_us = state.ready.heads().filter_map(|row| self.jobs.get(&row)).map(|job| job.queued_us).min();
        Counts {
            queued: state.ready.len() as u64,
            scheduled: state.scheduled,
            leased: state.leased,
            dead: state.dead.len() as u64,
            queued_bytes: state.waiting_bytes,
            oldest_ms: oldest_us.map_or(0, |at| now_us.saturating_sub(at) / 1_000),
            paused: state.paused,
            enqueued_total: state.enqueued,
            finished_total: state.finished,
            dropped_total: state.dropped,
        }
    }

    /// How a reader sees the live or dead job `id`; `None` when it is neither,
    /// or purged.
    pub(crate) fn view(&self, id: JobId) -> Option<JobView> {
        let job = self.find(id).filter(|job| !matches!(job.phase, Phase::Purged))?;
        Some(self.view_of(id.locator, job))
    }

    /// Whether `id` has ended but its end is not in the journal yet.
    pub(crate) fn is_settling(&self, id: JobId) -> bool {
        self.find(id).is_some_and(Job::is_settling)
    }

    /// The live or dead job of a row, as a list shows it.
    pub(crate) fn listed(&self, row: Row) -> Option<JobView> {
        let job = self.jobs.get(&row).filter(|job| !matches!(job.phase, Phase::Purged))?;
        let mut view = self.view_of(row, job);
        if job.is_settling() {
            // No reader sees an end before its commit: it is still under way.
            (view.state, view.finished_at_ms, view.error, view.result) = (JobState::Leased, None, None, None);
        }
        Some(view)
    }

    /// The first row from `row` on that has a job, and when that was enqueued, us.
    pub(crate) fn next_created(&self, row: Row) -> Option<(Row, u64)> {
        self.jobs.range(row..).next().map(|(&row, job)| (row, job.created_us))
    }

    /// The job of an idempotency key.
    pub(crate) fn job_of_key(&self, now_us: u64, scope: &KeyScope) -> Option<JobId> {
        let known = self.keys.find(scope, now_us)?;
        Some(self.ids.issue(known.random, known.tombstone_min, known.row, scope.owner))
    }

    /// Up to `limit` live and dead jobs below `before` that `wanted` takes,
    /// newest first, after looking at no more than `look`.
    pub(crate) fn list(&self, before: Row, limit: usize, look: usize, wanted: impl Fn(&JobView) -> bool) -> Looked {
        let rows = self.jobs.range(..before).rev().map(|(&row, _)| row);
        self.page(rows, limit, look, wanted)
    }

    /// The same of the jobs whose last error has this code.
    pub(crate) fn list_errors(
        &self,
        code: ErrorCode,
        before: Row,
        limit: usize,
        look: usize,
        wanted: impl Fn(&JobView) -> bool,
    ) -> Looked {
        let rows = self.index.errors.range((code, 0)..(code, before)).rev().map(|&(_, row)| row);
        self.page(rows, limit, look, wanted)
    }

    /// The same of dead letters, of one queue or of all: these are few, and live jobs may be many.
    pub(crate) fn list_dead(
        &self,
        model: Option<&str>,
        before: Row,
        limit: usize,
        look: usize,
        wanted: impl Fn(&JobView) -> bool,
    ) -> Looked {
        let dead = match model.map(|model| self.find_queue(model)) {
            None => &self.index.dead,
            Some(Some(queue)) => &self.index.queues[queue as usize].dead,
            Some(None) => return Looked::default(),
        };
        let mut rows: Vec<Row> = dead.iter().map(|&(_, row)| row).filter(|&row| row < before).collect();
        rows.sort_unstable_by(|a, b| b.cmp(a));
        self.page(rows.into_iter(), limit, look, wanted)
    }

    fn page(
        &self,
        rows: impl Iterator<Item = Row>,
        limit: usize,
        look: usize,
        wanted: impl Fn(&JobView) -> bool,
    ) -> Looked {
        let mut found = Looked::default();
        for row in rows.take(look) {
            found.last = Some(row);
            found.looked += 1;
            let Some(view) = self.listed(row).filter(&wanted) else { continue };
            found.jobs.push(view);
            if found.jobs.len() == limit {
                break;
            }
        }
        found
    }

    pub(super) fn view_of(&self, row: Row, job: &Job) -> JobView {
        let (finished_at_us, result) = match &job.phase {
            Phase::Finished(finished) => (Some(finished.at_us), finished.result.clone()),
            Phase::Dead { at_us } => (Some(*at_us), None),
            _ => (None, None),
        };
        JobView {
            id: job.id(row, &self.ids),
            model: self.model(job.queue),
            owner: job.owner,
            state: job.state(),
            priority: job.priority,
            attempts: job.attempts,
            created_at_ms: job.created_us / 1_000,
            finished_at_ms: finished_at_us.map(|at| at / 1_000),
            error: job.error.as_deref().cloned(),
            result: result.and_then(nobat_core::job::JobResult::decode),
            tags: job.tags.clone(),
        }
    }
}
