//! Transitions of jobs that have a webhook, until whoever delivers them has
//! taken note.
//!
//! An event is written in the group that carries its transition, and read only
//! after that: nobody is told of what a crash could take back.

use std::collections::{BTreeMap, HashMap};

use nobat_core::job::{JobEvent, JobState};

use super::job::Row;

/// An event's place in the outbox, counted up.
pub(crate) type EventNo = u64;

/// Tells one transition from every other; see [`JobEvent::key`].
type Transition = (Row, JobState, u32);

/// The events.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    next: EventNo,
    /// Not in the journal yet, oldest first.
    new: Vec<(EventNo, JobEvent)>,
    durable: BTreeMap<EventNo, JobEvent>,
    known: HashMap<Transition, EventNo>,
    forgotten: Vec<EventNo>,
}

fn transition(event: &JobEvent) -> Transition {
    (event.id.locator, event.state, event.attempts)
}

impl Outbox {
    /// Restores an event as the journal has it; in order.
    pub(crate) fn restore(&mut self, number: EventNo, event: JobEvent) {
        self.next = self.next.max(number + 1);
        self.known.insert(transition(&event), number);
        self.durable.insert(number, event);
    }

    /// Adds what a transition tells, if anything.
    pub(crate) fn extend(&mut self, event: Option<JobEvent>) {
        if let Some(event) = event {
            self.add(event);
        }
    }

    /// A transition was made. One that is in the outbox already (a redriven job
    /// that failed as before) has the same key and is told once.
    fn add(&mut self, event: JobEvent) {
        let number = self.next;
        if self.known.contains_key(&transition(&event)) {
            return;
        }
        self.next += 1;
        self.known.insert(transition(&event), number);
        self.new.push((number, event));
    }

    /// The oldest durable events.
    pub(crate) fn oldest(&self, limit: usize) -> Vec<JobEvent> {
        self.durable.values().take(limit).cloned().collect()
    }

    /// Takes an event out; whether it was there.
    pub(crate) fn forget(&mut self, event: &JobEvent) -> bool {
        let Some(number) = self.known.get(&transition(event)).copied() else { return false };
        if self.durable.get(&number).is_none_or(|stored| stored.id != event.id) {
            return false;
        }
        self.durable.remove(&number);
        self.known.remove(&transition(event));
        self.forgotten.push(number);
        true
    }

    /// What the next group has to write and to delete.
    pub(crate) fn take(&mut self) -> (Vec<(EventNo, JobEvent)>, Vec<EventNo>) {
        (std::mem::take(&mut self.new), std::mem::take(&mut self.forgotten))
    }

    /// A group with these events was committed.
    pub(crate) fn committed(&mut self, events: Vec<(EventNo, JobEvent)>) {
        self.durable.extend(events);
    }

    /// A group was not committed; events of `refused` jobs never happened.
    pub(crate) fn failed(&mut self, events: Vec<(EventNo, JobEvent)>, forgotten: Vec<EventNo>, refused: &[Row]) {
        let (gone, kept): (Vec<_>, Vec<_>) = events.into_iter().partition(|(_, event)| refused.contains(&event.id.locator));
        for (_, event) in gone {
            self.known.remove(&transition(&event));
        }
        self.new.splice(0..0, kept);
        self.forgotten.extend(forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::{IdIssuer, OwnerId};

    fn event(row: Row, state: JobState) -> JobEvent {
        let id = IdIssuer::new([0; 16]).issue(u128::from(row), 1, row, OwnerId(1));
        JobEvent { id, model: "m".into(), state, attempts: 1, at_ms: 1, webhook: "hook".into() }
    }

    #[test]
    fn an_event_is_read_after_its_commit_until_it_is_forgotten() {
        let mut outbox = Outbox::default();
        outbox.add(event(1, JobState::Failed));
        outbox.add(event(1, JobState::Dead));
        outbox.add(event(1, JobState::Dead));
        assert_eq!(outbox.oldest(9), []);
        let (events, _) = outbox.take();
        assert_eq!(events.len(), 2, "a repetition is one event");
        outbox.committed(events);
        assert_eq!(outbox.oldest(1), [event(1, JobState::Failed)]);
        assert!(outbox.forget(&event(1, JobState::Failed)));
        assert!(!outbox.forget(&event(1, JobState::Failed)));
        assert_eq!(outbox.oldest(9), [event(1, JobState::Dead)]);
        assert_eq!(outbox.take().1, [0]);
    }

    #[test]
    fn a_failed_group_keeps_all_events_but_those_of_refused_jobs() {
        let mut outbox = Outbox::default();
        outbox.add(event(1, JobState::Failed));
        outbox.add(event(2, JobState::Failed));
        let (events, forgotten) = outbox.take();
        outbox.add(event(3, JobState::Failed));
        outbox.failed(events, forgotten, &[1]);
        let rows: Vec<_> = outbox.take().0.iter().map(|(_, event)| event.id.locator).collect();
        assert_eq!(rows, [2, 3]);
    }
}
