//! The batch planner: one pure function from waiting jobs to the next batch.
//!
//! Rows are counted, not requests. Jobs of one bucket (version and shape) run
//! together; the bucket of the first job in lease order goes first, so that
//! priority decides and no bucket starves. A job of more rows than the cap runs
//! alone (the runner splits it): it is never stuck.

use std::time::{Duration, Instant};

/// A waiting job as the planner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Jobs of one bucket may share a run.
    pub bucket: u32,
    /// Rows along the batch axis.
    pub rows: u32,
    /// When it was leased.
    pub since: Instant,
    /// When its answer is due.
    pub deadline: Option<Instant>,
}

/// What the controller allows the bucket at the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most rows in the run.
    pub rows: u32,
    /// How long the oldest job may wait for others.
    pub delay: Duration,
    /// How long the run is expected to take, where the delay must leave room
    /// for it before the earliest deadline.
    pub run: Option<Duration>,
}

/// The planner's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Run the slots at these positions, ascending.
    Run(Vec<usize>),
    /// Ask again after this long, or when more jobs came.
    Wait(Duration),
}

/// Share of the time to a deadline that waiting may use up: 8 % stays for what
/// is not the run (transport, splitting).
pub(crate) const BUDGET: f64 = 0.92;

/// Decides the next batch. `slots` is in lease order and not empty; `limits`
/// are those of the first slot's bucket.
pub fn plan(slots: &[Slot], limits: &Limits, now: Instant) -> Plan {
    let Some(first) = slots.first() else { return Plan::Wait(Duration::ZERO) };
    let mut picked = Vec::with_capacity(slots.len());
    let mut rows = 0u32;
    let mut full = false;
    let mut wait_until = None::<Instant>;
    for (at, slot) in slots.iter().enumerate().filter(|(_, slot)| slot.bucket == first.bucket) {
        if !picked.is_empty() && rows.saturating_add(slot.rows) > limits.rows {
            // Later, smaller jobs may still fit, but letting them pass would
            // starve this one.
            full = true;
            break;
        }
        picked.push(at);
        rows = rows.saturating_add(slot.rows);
        let mut until = slot.since + limits.delay;
        if let (Some(deadline), Some(run)) = (slot.deadline, limits.run) {
            let left = deadline.saturating_duration_since(now).mul_f64(BUDGET);
            until = until.min(now + left.saturating_sub(run));
        }
        wait_until = Some(wait_until.map_or(until, |earlier| earlier.min(until)));
    }
    match wait_until {
        Some(until) if !full && rows < limits.rows && until > now => Plan::Wait(until - now),
        _ => Plan::Run(picked),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slots(origin: Instant) -> impl Strategy<Value = Vec<Slot>> {
        let slot =
            (0u32..3, 1u32..40, 0u64..50, prop::option::of(0u64..200)).prop_map(move |(bucket, rows, age, left)| {
                Slot {
                    bucket,
                    rows,
                    since: origin + Duration::from_millis(50 - age),
                    deadline: left.map(|left| origin + Duration::from_millis(50 + left)),
                }
            });
        prop::collection::vec(slot, 1..40)
    }

    proptest! {
        #[test]
        fn a_batch_is_one_bucket_within_the_cap_and_starts_with_the_first_job(
            slots in slots(Instant::now()), rows in 1u32..64, delay in 0u64..20, run in prop::option::of(0u64..30),
        ) {
            let now = slots.iter().map(|slot| slot.since).max().expect("not empty");
            let limits = Limits { rows, delay: Duration::from_millis(delay), run: run.map(Duration::from_millis) };
            if let Plan::Run(picked) = plan(&slots, &limits, now) {
                prop_assert_eq!(picked[0], 0);
                prop_assert!(picked.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert!(picked.iter().all(|&at| slots[at].bucket == slots[0].bucket));
                let total: u32 = picked.iter().map(|&at| slots[at].rows).sum();
                prop_assert!(total <= rows || picked.len() == 1);
            }
        }

        #[test]
        fn without_a_delay_a_free_session_never_waits(slots in slots(Instant::now()), rows in 1u32..64) {
            let now = slots.iter().map(|slot| slot.since).max().expect("not empty");
            let limits = Limits { rows, delay: Duration::ZERO, run: None };
            prop_assert!(matches!(plan(&slots, &limits, now), Plan::Run(_)));
        }

        #[test]
        fn a_wait_ends_within_the_delay_and_before_the_earliest_deadline(
            slots in slots(Instant::now()), rows in 1u32..64, delay in 1u64..50, run in 0u64..30,
        ) {
            let now = slots.iter().map(|slot| slot.since).max().expect("not empty");
            let limits = Limits { rows, delay: Duration::from_millis(delay), run: Some(Duration::from_millis(run)) };
            if let Plan::Wait(wait) = plan(&slots, &limits, now) {
                prop_assert!(wait <= limits.delay && wait > Duration::ZERO);
                let of_bucket: Vec<_> = slots.iter().filter(|slot| slot.bucket == slots[0].bucket).collect();
                for deadline in of_bucket.iter().filter_map(|slot| slot.deadline) {
                    prop_assert!(now + wait + Duration::from_millis(run) <= deadline);
                }
                // It waits only because the batch is not full.
                prop_assert!(of_bucket.iter().map(|slot| slot.rows).sum::<u32>() < rows);
            }
        }

        #[test]
        fn running_what_is_planned_ends_every_job_in_lease_order_of_its_bucket(slots in slots(Instant::now()), rows in 1u32..64) {
            let limits = Limits { rows, delay: Duration::ZERO, run: None };
            let now = Instant::now() + Duration::from_secs(1);
            let mut left = slots.clone();
            let mut turns = 0;
            while !left.is_empty() {
                let Plan::Run(picked) = plan(&left, &limits, now) else { panic!("a free session waited") };
                for at in picked.into_iter().rev() {
                    left.remove(at);
                }
                turns += 1;
                prop_assert!(turns <= slots.len());
            }
        }
    }

    #[test]
    fn a_job_over_the_cap_runs_alone() {
        let now = Instant::now();
        let slot = |rows| Slot { bucket: 0, rows, since: now, deadline: None };
        let limits = Limits { rows: 8, delay: Duration::from_secs(1), run: None };
        assert_eq!(plan(&[slot(20), slot(1)], &limits, now), Plan::Run(vec![0]));
    }
}
