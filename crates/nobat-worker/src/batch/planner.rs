//! The batch planner: one pure function from waiting jobs to the next batch.
//!
//! Rows are counted, not requests, and bytes beside them. Jobs of one bucket
//! (version and shape) run together; the bucket of the first job in lease order
//! goes first, so that priority decides and no bucket starves. While that bucket
//! waits for more jobs, another that is full may run. A job of more rows than the cap runs
//! alone (the executor splits it): it is never stuck.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

/// A waiting job as the planner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Jobs of one bucket may share a run.
    pub(crate) bucket: u32,
    pub(crate) rows: u32,
    pub(crate) bytes: u64,
    pub(crate) since: Instant,
    pub(crate) deadline: Option<Instant>,
}

/// What the controller allows one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) rows: u32,
    pub(crate) bytes: u64,
    /// How long the oldest job may wait for others.
    pub(crate) delay: Duration,
    /// How long the run is expected to take, for which a wait leaves room before
    /// a deadline; where nothing is known, a job with a deadline does not wait.
    pub(crate) run: Option<Duration>,
}

/// The planner's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Run(PlannedBatch),
    /// Ask again after this long, or when more jobs came.
    Wait(Duration),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedBatch {
    /// Positions of its slots, ascending; at least one.
    pub(crate) slots: Vec<usize>,
    /// The cap that it fills, because the rows of the bucket's next job are over
    /// it; 0 where nothing shows that more rows would come.
    pub(crate) fills: u32,
}

/// Share of the time to a deadline that waiting may use up: 8 % stays for what
/// is not the run (transport, splitting).
pub(crate) const BUDGET: f64 = 0.92;

/// A wait ends this much early, because timers wake up late by a millisecond or more.
const TIMER: Duration = Duration::from_millis(2);

/// Decides the next batch. `slots` is in lease order and not empty; `limits` are
/// those of a bucket; `room` says whether more jobs could come.
pub(crate) fn plan(slots: &[Slot], limits: impl Fn(u32) -> Limits, room: bool, now: Instant) -> Plan {
    let mut seen: SmallVec<[u32; 4]> = SmallVec::new();
    let mut wait_until = None::<Instant>;
    for slot in slots {
        if seen.contains(&slot.bucket) {
            continue;
        }
        seen.push(slot.bucket);
        let (picked, until) = gather(slots, slot.bucket, &limits(slot.bucket), now);
        match until {
            Some(until) if room && until > now => {
                wait_until = Some(wait_until.map_or(until, |earlier| earlier.min(until)));
            }
            _ => return Plan::Run(picked),
        }
    }
    Plan::Wait(wait_until.map_or(Duration::ZERO, |until| until - now))
}

/// The next batch of a bucket, and until when it may wait for more; `None` when
/// it is full.
fn gather(slots: &[Slot], bucket: u32, limits: &Limits, now: Instant) -> (PlannedBatch, Option<Instant>) {
    let mut picked = PlannedBatch { slots: Vec::new(), fills: 0 };
    let (mut rows, mut bytes) = (0u32, 0u64);
    let mut wait_until = None::<Instant>;
    for (at, slot) in slots.iter().enumerate().filter(|(_, slot)| slot.bucket == bucket) {
        let (with_rows, with_bytes) = (rows.saturating_add(slot.rows), bytes.saturating_add(slot.bytes));
        if !picked.slots.is_empty() && (with_rows > limits.rows || with_bytes > limits.bytes) {
            // Later, smaller jobs may still fit, but letting them pass would
            // starve this one.
            picked.fills = if with_rows > limits.rows { limits.rows } else { 0 };
            return (picked, None);
        }
        picked.slots.push(at);
        (rows, bytes) = (with_rows, with_bytes);
        let until = latest_start(slot, limits, now);
        wait_until = Some(wait_until.map_or(until, |earlier| earlier.min(until)));
    }
    (picked, wait_until.filter(|_| rows < limits.rows && bytes < limits.bytes))
}

/// Until when a slot may wait.
pub(super) fn latest_start(slot: &Slot, limits: &Limits, now: Instant) -> Instant {
    let until = slot.since + limits.delay;
    let Some(deadline) = slot.deadline else { return until };
    let Some(run) = limits.run else { return now };
    // The last moment at which the run still fits into the budget.
    let left = deadline.saturating_duration_since(now);
    until.min(now + left.saturating_sub(run.div_f64(BUDGET) + TIMER))
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
                    bytes: 10 * u64::from(rows),
                    since: origin + Duration::from_millis(50 - age),
                    deadline: left.map(|left| origin + Duration::from_millis(50 + left)),
                }
            });
        prop::collection::vec(slot, 1..40)
    }

    fn limits(rows: u32, delay_ms: u64, run_ms: Option<u64>) -> Limits {
        let ms = Duration::from_millis;
        Limits { rows, bytes: u64::MAX, delay: ms(delay_ms), run: run_ms.map(ms) }
    }

    fn last(slots: &[Slot]) -> Instant {
        slots.iter().map(|slot| slot.since).max().expect("not empty")
    }

    fn rows_of(slots: &[Slot], bucket: u32) -> u32 {
        slots.iter().filter(|slot| slot.bucket == bucket).map(|slot| slot.rows).sum()
    }

    proptest! {
        #[test]
        fn a_batch_is_one_bucket_within_the_cap_from_its_first_job_on(
            slots in slots(Instant::now()), rows in 1u32..64, bytes in 1u64..640, delay in 0u64..20,
            run in prop::option::of(0u64..30), room: bool,
        ) {
            let limits = Limits { bytes, ..limits(rows, delay, run) };
            if let Plan::Run(picked) = plan(&slots, |_| limits, room, last(&slots)) {
                let bucket = slots[picked.slots[0]].bucket;
                prop_assert_eq!(slots.iter().position(|slot| slot.bucket == bucket), Some(picked.slots[0]));
                prop_assert!(picked.slots.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert!(picked.slots.iter().all(|&at| slots[at].bucket == bucket));
                let total: u32 = picked.slots.iter().map(|&at| slots[at].rows).sum();
                let size: u64 = picked.slots.iter().map(|&at| slots[at].bytes).sum();
                prop_assert!((total <= rows && size <= bytes) || picked.slots.len() == 1);
                prop_assert!(picked.fills == 0 || (picked.fills == rows && rows_of(&slots, bucket) > rows));
            }
        }

        #[test]
        fn a_free_session_waits_only_where_waiting_can_help(
            slots in slots(Instant::now()), rows in 1u32..64, delay in 0u64..50, run in prop::option::of(0u64..30),
            room: bool,
        ) {
            if let Plan::Wait(wait) = plan(&slots, |_| limits(rows, delay, run), room, last(&slots)) {
                prop_assert!(room && delay > 0 && wait > Duration::ZERO);
                // No bucket is full.
                prop_assert!((0..3).all(|bucket| rows_of(&slots, bucket) < rows));
            }
        }

        #[test]
        fn a_wait_ends_within_the_delay_and_before_any_deadline_with_room_for_the_run(
            slots in slots(Instant::now()), rows in 1u32..64, delay in 1u64..50, run in prop::option::of(0u64..30),
        ) {
            let now = last(&slots);
            if let Plan::Wait(wait) = plan(&slots, |_| limits(rows, delay, run), true, now) {
                prop_assert!(slots.iter().all(|slot| now + wait <= slot.since + Duration::from_millis(delay)));
                for deadline in slots.iter().filter_map(|slot| slot.deadline) {
                    let run = run.expect("without samples no deadline waits");
                    prop_assert!(now + wait + Duration::from_millis(run) < deadline);
                }
            }
        }

        #[test]
        fn running_what_is_planned_ends_every_job_in_lease_order_of_its_bucket(slots in slots(Instant::now()), rows in 1u32..64) {
            let now = Instant::now() + Duration::from_secs(1);
            let mut left = slots.clone();
            let mut turns = 0;
            while !left.is_empty() {
                let Plan::Run(picked) = plan(&left, |_| limits(rows, 0, None), true, now) else {
                    panic!("a free session waited")
                };
                prop_assert_eq!(picked.slots[0], 0, "without a wait the first job goes first");
                for at in picked.slots.into_iter().rev() {
                    left.remove(at);
                }
                turns += 1;
                prop_assert!(turns <= slots.len());
            }
        }
    }

    fn slot(bucket: u32, rows: u32, left_ms: Option<u64>, now: Instant) -> Slot {
        let deadline = left_ms.map(|left| now + Duration::from_millis(left));
        Slot { bucket, rows, bytes: 0, since: now, deadline }
    }

    fn run(slots: &[usize], fills: u32) -> Plan {
        Plan::Run(PlannedBatch { slots: slots.to_vec(), fills })
    }

    #[test]
    fn a_job_over_the_cap_runs_alone() {
        let now = Instant::now();
        let slots = [slot(0, 20, None, now), slot(0, 1, None, now)];
        assert_eq!(plan(&slots, |_| limits(8, 1_000, None), true, now), run(&[0], 8));
    }

    #[test]
    fn a_wait_never_outlasts_the_deadline_of_another_buckets_job() {
        let now = Instant::now();
        let slots = [slot(0, 1, None, now), slot(1, 1, Some(100), now)];
        let Plan::Wait(wait) = plan(&slots, |_| limits(8, 1_000, Some(20)), true, now) else { panic!("no wait") };
        assert!(wait < Duration::from_millis(80), "{wait:?}");
        // Then it is the pressed one that goes.
        assert_eq!(plan(&slots, |_| limits(8, 1_000, Some(20)), true, now + wait), run(&[1], 0));
    }

    #[test]
    fn a_job_with_a_deadline_does_not_wait_before_runs_are_known() {
        let now = Instant::now();
        let of_known_run = |run| plan(&[slot(0, 1, Some(500), now)], |_| limits(8, 1_000, run), true, now);
        assert_eq!(of_known_run(None), run(&[0], 0));
        assert!(matches!(of_known_run(Some(5)), Plan::Wait(_)));
    }

    #[test]
    fn a_full_bucket_goes_while_the_first_one_waits_and_nothing_waits_without_room() {
        let now = Instant::now();
        let slots = [slot(0, 1, None, now), slot(1, 4, None, now)];
        assert_eq!(plan(&slots, |_| limits(4, 1_000, None), true, now), run(&[1], 0));
        let slots = [slot(0, 1, None, now), slot(1, 3, None, now)];
        assert!(matches!(plan(&slots, |_| limits(4, 1_000, None), true, now), Plan::Wait(_)));
        assert_eq!(plan(&slots, |_| limits(4, 1_000, None), false, now), run(&[0], 0));
    }

    #[test]
    fn bytes_cut_a_batch_as_rows_do_but_are_no_sign_of_a_small_cap() {
        let now = Instant::now();
        let slots = [slot(0, 1, None, now); 4].map(|slot| Slot { bytes: 30, ..slot });
        let bytes = |bytes| plan(&slots, |_| Limits { bytes, ..limits(8, 0, None) }, true, now);
        assert_eq!(bytes(100), run(&[0, 1, 2], 0));
        assert_eq!(bytes(10), run(&[0], 0));
    }
}
