//! How many jobs a filter finds, without looking at all there are: a queue's counters where
//! they know, else pages up to a bound. What a count has cost is added up by [`Tally`], which
//! is pure.

use nobat_core::Result;
use nobat_core::job::{JobState, JobView};

use crate::api::{Counts, ListFilter, Queue};

/// Jobs that a page shows.
const PAGE: usize = 500;
/// What a page costs that looked at none, in jobs looked at: a call to the store.
const CALL: u64 = 20;

/// How many jobs there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobCount {
    /// Those that were counted.
    pub count: u64,
    /// Whether there may be more: then they are at least so many.
    pub more: bool,
}

/// How far a count goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountBounds {
    /// Most jobs counted.
    pub counted: u64,
    /// Most jobs looked at, and a page more.
    pub looked: u64,
}

impl Default for CountBounds {
    /// About a second's work of a store.
    fn default() -> CountBounds {
        CountBounds { counted: 10_000, looked: 100_000 }
    }
}

/// Counts the jobs in one of `states` that a filter finds and the caller `sees`; `None` sees
/// every job. Exact where the queue's counters know, whatever the number.
///
/// # Errors
/// As [`Queue::list`].
pub async fn count(
    queue: &dyn Queue,
    filter: &ListFilter,
    states: &[JobState],
    sees: Option<&(dyn Fn(&JobView) -> bool + Sync)>,
    bounds: CountBounds,
) -> Result<JobCount> {
    let states: Vec<JobState> =
        states.iter().copied().filter(|&state| filter.state.is_none_or(|only| only == state)).collect();
    if states.is_empty() {
        return Ok(JobCount { count: 0, more: false });
    }
    if let Some(model) = counted_queue(filter).filter(|_| sees.is_none())
        && let Some(count) = known(&queue.counts(model).await?, &states)
    {
        return Ok(JobCount { count, more: false });
    }
    let takes = |job: &&JobView| states.contains(&job.state) && sees.is_none_or(|sees| sees(job));
    let (mut tally, mut cursor) = (Tally::default(), None::<String>);
    loop {
        let page = queue.list(filter, cursor.as_deref(), PAGE).await?;
        cursor = page.cursor;
        let found = page.jobs.iter().filter(takes).count();
        if let Some(counted) = tally.add(found, page.looked, cursor.is_some(), bounds) {
            return Ok(counted);
        }
    }
}

/// The queue whose counters tell what a filter finds: one that asks for nothing but a model
/// and a state.
fn counted_queue(filter: &ListFilter) -> Option<&str> {
    match filter {
        ListFilter {
            model: Some(model),
            state: _,
            owner: None,
            priority: None,
            error: None,
            tag: None,
            parent: None,
            text: None,
            since_ms: None,
            until_ms: None,
        } => Some(model),
        _ => None,
    }
}

/// How many jobs a queue has in these states; `None` where no counter tells.
fn known(counts: &Counts, states: &[JobState]) -> Option<u64> {
    let has = |state| states.contains(&state);
    if [JobState::Succeeded, JobState::Cancelled, JobState::Expired].into_iter().any(has) {
        return None;
    }
    // One number for both.
    let waiting = match (has(JobState::Scheduled), has(JobState::Failed)) {
        (true, true) => counts.scheduled,
        (false, false) => 0,
        _ => return None,
    };
    let numbers = [(JobState::Queued, counts.queued), (JobState::Leased, counts.leased), (JobState::Dead, counts.dead)];
    Some(waiting + numbers.into_iter().filter(|&(state, _)| has(state)).map(|(_, number)| number).sum::<u64>())
}

/// What was counted so far, and what that cost.
#[derive(Debug, Default)]
struct Tally {
    count: u64,
    looked: u64,
}

impl Tally {
    /// Adds a page of `looked` jobs of which `found` are counted; the count, where that was
    /// the last.
    fn add(&mut self, found: usize, looked: usize, goes_on: bool, bounds: CountBounds) -> Option<JobCount> {
        self.count += found as u64;
        self.looked += (looked as u64).max(CALL);
        let is_over = self.count > bounds.counted;
        let is_last = !goes_on || is_over || self.looked >= bounds.looked;
        is_last.then_some(JobCount { count: self.count.min(bounds.counted), more: goes_on || is_over })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_filter_by_model_and_state_goes_by_the_counters() {
        let plain = ListFilter { model: Some("m".into()), ..ListFilter::default() };
        assert_eq!(counted_queue(&plain), Some("m"));
        assert_eq!(counted_queue(&ListFilter { state: Some(JobState::Dead), ..plain.clone() }), Some("m"));
        for narrower in [
            ListFilter::default(),
            ListFilter { tag: Some("t".into()), ..plain.clone() },
            ListFilter { priority: Some(0), ..plain.clone() },
            ListFilter { until_ms: Some(1), ..plain.clone() },
            ListFilter { owner: Some(nobat_core::OwnerId::ANONYMOUS), ..plain },
        ] {
            assert_eq!(counted_queue(&narrower), None, "{narrower:?}");
        }
    }

    #[test]
    fn counters_tell_of_states_that_have_a_number_of_their_own() {
        use JobState::{Dead, Failed, Leased, Queued, Scheduled, Succeeded};
        let counts = Counts { queued: 1, scheduled: 20, leased: 300, dead: 4_000, ..Counts::default() };
        for (states, count) in [
            (&[Scheduled, Queued, Leased, Failed][..], Some(321)),
            (&[Dead], Some(4_000)),
            (&[Queued], Some(1)),
            (&[Failed], None),
            (&[Scheduled, Queued], None),
            (&[Queued, Succeeded], None),
        ] {
            assert_eq!(known(&counts, states), count, "{states:?}");
        }
    }

    proptest! {
        #[test]
        fn a_count_is_exact_or_says_that_it_is_not_and_ends(
            pages in prop::collection::vec((0usize..50, 0usize..50), 1..200), counted in 0u64..500, looked in 0u64..5_000,
        ) {
            let bounds = CountBounds { counted, looked };
            let (mut tally, mut cost, mut ended) = (Tally::default(), 0, None);
            for (at, &(found, others)) in pages.iter().enumerate() {
                prop_assert!(cost < looked || at == 0, "goes on within its bound");
                cost += ((found + others) as u64).max(CALL);
                ended = tally.add(found, found + others, at + 1 < pages.len(), bounds);
                if ended.is_some() {
                    break;
                }
            }
            let ended = ended.expect("the last page ends it");
            let all: u64 = pages.iter().map(|&(found, _)| found as u64).sum();
            prop_assert!(ended.count <= all && ended.count <= counted);
            prop_assert!(ended.more || ended.count == all, "without more it is all: {ended:?} of {all}");
        }
    }
}
