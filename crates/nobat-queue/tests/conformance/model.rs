//! The reference: what a queue does, as plainly as it can be said. Strict
//! priority, and no clock: whatever is delayed is delayed for ever.

use std::collections::BTreeMap;

use nobat_core::job::JobState;

/// A job's number in the order of arrival.
pub(crate) type Number = usize;

#[derive(Clone, Debug)]
pub(crate) struct ModelJob {
    pub(crate) state: JobState,
    pub(crate) attempts: u32,
    priority: u8,
    place: u64,
    pub(crate) purged: bool,
}

/// What a settlement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Succeed,
    FailForGood,
    FailAndRunAgain,
    FailAndWait,
    TooLate,
    Release,
}

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) jobs: Vec<ModelJob>,
    keys: BTreeMap<u8, (u128, Number)>,
    places: u64,
    pub(crate) paused: bool,
    pub(crate) finished: u64,
}

/// What became of an enqueue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    New(Number),
    Duplicate(Number),
    Mismatch,
}

impl Model {
    pub(crate) fn enqueue(&mut self, priority: u8, delayed: bool, key: Option<(u8, u128)>) -> Arrival {
        if let Some((key, fingerprint)) = key {
            match self.keys.get(&key) {
                // A key lives no longer than its job.
                Some(&(_, number)) if self.jobs[number].purged => {}
                Some(&(known, number)) if known == fingerprint => return Arrival::Duplicate(number),
                Some(_) => return Arrival::Mismatch,
                None => {}
            }
            self.keys.insert(key, (fingerprint, self.jobs.len()));
        }
        self.places += 1;
        let state = if delayed { JobState::Scheduled } else { JobState::Queued };
        self.jobs.push(ModelJob { state, attempts: 0, priority, place: self.places, purged: false });
        Arrival::New(self.jobs.len() - 1)
    }

    /// Leases, of nothing but what ranks above a level if one is given.
    pub(crate) fn lease(&mut self, want: usize, above: Option<i16>) -> Vec<Number> {
        if self.paused {
            return Vec::new();
        }
        let mut ready: Vec<_> =
            (0..self.jobs.len()).filter(|&number| self.jobs[number].state == JobState::Queued).collect();
        ready.sort_by_key(|&number| (255 - self.jobs[number].priority, self.jobs[number].place));
        ready.retain(|&number| above.is_none_or(|level| i16::from(self.jobs[number].priority) > level));
        ready.truncate(want);
        for &number in &ready {
            self.jobs[number].state = JobState::Leased;
            self.jobs[number].attempts += 1;
        }
        ready
    }

    /// Settles a job that is leased under the token in question.
    pub(crate) fn settle(&mut self, number: Number, verdict: Verdict) {
        let job = &mut self.jobs[number];
        job.state = match verdict {
            Verdict::Succeed => JobState::Succeeded,
            Verdict::FailForGood => JobState::Dead,
            Verdict::FailAndRunAgain => JobState::Queued,
            Verdict::FailAndWait => JobState::Failed,
            Verdict::TooLate => JobState::Expired,
            Verdict::Release => JobState::Queued,
        };
        if verdict == Verdict::Release {
            job.attempts -= 1;
        }
        if job.state.is_terminal() {
            self.finished += 1;
        }
    }

    /// Whether it was there to cancel.
    pub(crate) fn cancel(&mut self, number: Number) -> bool {
        let live = !self.jobs[number].state.is_terminal();
        if live {
            self.jobs[number].state = JobState::Cancelled;
            self.finished += 1;
        }
        live
    }

    pub(crate) fn redrive(&mut self, numbers: &[Number]) -> u64 {
        let mut sent = 0;
        for &number in numbers {
            if self.is_dead_letter(number) {
                self.places += 1;
                let job = &mut self.jobs[number];
                (job.state, job.attempts, job.place) = (JobState::Queued, 0, self.places);
                self.finished -= 1;
                sent += 1;
            }
        }
        sent
    }

    pub(crate) fn purge(&mut self, numbers: &[Number]) -> u64 {
        let mut gone = 0;
        for &number in numbers {
            if self.is_dead_letter(number) {
                self.jobs[number].purged = true;
                gone += 1;
            }
        }
        gone
    }

    pub(crate) fn is_dead_letter(&self, number: Number) -> bool {
        self.jobs[number].state == JobState::Dead && !self.jobs[number].purged
    }

    pub(crate) fn count(&self, states: &[JobState]) -> u64 {
        self.jobs.iter().filter(|job| !job.purged && states.contains(&job.state)).count() as u64
    }
}
