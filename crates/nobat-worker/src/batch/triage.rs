//! Which waiting jobs are worth running when not all can make their deadlines.
//!
//! Under overload every job in the line is about to expire. Running the largest
//! batch ends them all too late; running the most urgent alone ends one in time
//! while the rest expire. Triage picks the size of run that answers most rows in
//! time per second, gives up those it cannot answer, and so keeps the machine
//! working on answers that somebody still wants. Pure.

use std::time::{Duration, Instant};

use super::planner::{BUDGET, Slot};

/// Triage's verdict on the jobs of one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Triage {
    /// Most rows in the next run, so that those who are kept make it.
    pub(crate) rows: u32,
    /// Positions of jobs that cannot make it, ascending.
    pub(crate) hopeless: Vec<usize>,
}

/// Judges the slots of `bucket`. `predict` says how long a run of so many rows is
/// expected to take, `None` before there are samples; `fastest` is a lower bound of what a
/// run of one job takes. Jobs without a deadline are never given up.
pub(crate) fn triage(
    slots: &[Slot],
    bucket: u32,
    cap: u32,
    predict: impl Fn(u32) -> Option<Duration>,
    fastest: Option<Duration>,
    now: Instant,
) -> Triage {
    let left = |slot: &Slot| {
        let deadline = slot.deadline.filter(|_| slot.bucket == bucket)?;
        Some(deadline.saturating_duration_since(now).mul_f64(BUDGET))
    };
    let urgent = || slots.iter().filter_map(|slot| Some((slot.rows, left(slot)?)));
    // A job of more rows than the run takes several runs.
    let run = |rows: u32, most: u32| predict(rows.max(most));
    let in_time = |most: u32| {
        let made = urgent().filter(|&(rows, left)| run(rows, most).is_none_or(|run| left >= run));
        made.map(|(rows, _)| rows).fold(0, u32::saturating_add)
    };
    let wanted: u32 = urgent().map(|(rows, _)| rows).fold(0, u32::saturating_add);
    let mut sizes: Vec<u32> = (0..31).map(|power| 1 << power).take_while(|&rows| rows < cap).collect();
    sizes.push(cap.max(1));

    // Rows in time per second; the larger of two equals costs the others less.
    let pace = |&most: &u32| {
        let seconds = predict(most).map_or(0.0, |run| run.as_secs_f64()).max(1e-6);
        f64::from(in_time(most).min(most)) / seconds
    };
    // Of sizes over the rows there are, only the smallest is useful.
    let useful = sizes.iter().filter(|&&most| most <= wanted.max(1)).chain(sizes.iter().find(|&&most| most > wanted));
    let best = useful.copied().max_by(|a, b| pace(a).total_cmp(&pace(b)).then(a.cmp(b))).unwrap_or(1);
    let nobody = in_time(best) == 0;
    let kept = |slot: &Slot| match left(slot) {
        None => true,
        Some(left) if left.is_zero() => false,
        // No job is sure to make it: those that might, alone, get the chance.
        Some(left) if nobody => fastest.is_none_or(|fastest| left > fastest),
        Some(left) => run(slot.rows, best).is_none_or(|run| left >= run),
    };
    let hopeless = (0..slots.len()).filter(|&at| !kept(&slots[at])).collect();
    // Others may ride along as far as the most urgent allows.
    let tightest = slots.iter().filter(|slot| kept(slot)).filter_map(left).min();
    let rows = match tightest {
        None => cap.max(1),
        Some(left) => {
            let fits = |most: &&u32| predict(**most).is_none_or(|run| left >= run);
            sizes.iter().rev().find(fits).copied().unwrap_or(1)
        }
    };
    Triage { rows, hopeless }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slots(now: Instant, left_ms: &[Option<u64>]) -> Vec<Slot> {
        let deadline = |left: &Option<u64>| left.map(|left| now + Duration::from_millis(left));
        left_ms.iter().map(|left| Slot { bucket: 0, rows: 1, bytes: 0, since: now, deadline: deadline(left) }).collect()
    }

    /// 5 ms and half a millisecond a row.
    fn predict(rows: u32) -> Option<Duration> {
        Some(Duration::from_micros(5_000 + 500 * u64::from(rows)))
    }

    fn judge(slots: &[Slot], now: Instant) -> Triage {
        triage(slots, 0, 32, predict, Some(Duration::from_millis(5)), now)
    }

    #[test]
    fn with_time_for_all_nobody_is_given_up_and_the_run_is_as_large_as_it_may_be() {
        let now = Instant::now();
        assert_eq!(judge(&slots(now, &[Some(100); 20]), now), Triage { rows: 32, hopeless: vec![] });
        assert_eq!(judge(&slots(now, &[None; 20]), now), Triage { rows: 32, hopeless: vec![] });
    }

    #[test]
    fn under_overload_those_about_to_expire_are_given_up_for_the_many() {
        let now = Instant::now();
        // One has time for a run of its own only, the rest for a large one.
        let left: Vec<_> = std::iter::once(Some(7)).chain([Some(30); 31]).collect();
        assert_eq!(judge(&slots(now, &left), now), Triage { rows: 32, hopeless: vec![0] });
    }

    #[test]
    fn one_urgent_job_makes_the_run_smaller_when_the_others_can_wait() {
        let now = Instant::now();
        let left: Vec<_> = std::iter::once(Some(11)).chain([None; 31]).collect();
        // 10.1 ms are left: 8 rows take 9 ms, 16 take 13.
        assert_eq!(judge(&slots(now, &left), now), Triage { rows: 8, hopeless: vec![] });
    }

    #[test]
    fn when_none_is_sure_to_make_it_whoever_might_is_tried_alone() {
        let now = Instant::now();
        // By the prediction one row takes 5.5 ms, luck makes it 5.
        assert_eq!(judge(&slots(now, &[Some(3), Some(0), Some(5)]), now), Triage { rows: 32, hopeless: vec![0, 1, 2] });
        let tried = triage(&slots(now, &[Some(3)]), 0, 32, predict, Some(Duration::from_millis(2)), now);
        assert_eq!(tried, Triage { rows: 1, hopeless: vec![] });
        let unknown = triage(&slots(now, &[Some(3), Some(0)]), 0, 32, |_| None, None, now);
        assert_eq!(unknown, Triage { rows: 32, hopeless: vec![1] }, "without samples only what has expired");
    }

    #[test]
    fn a_job_of_many_rows_is_judged_by_all_of_them() {
        let now = Instant::now();
        let deadline = Some(now + Duration::from_millis(40));
        let large = Slot { bucket: 0, rows: 100, bytes: 0, since: now, deadline };
        let small = Slot { rows: 1, ..large };
        assert_eq!(judge(&[large, small], now).hopeless, vec![0], "55 ms for a hundred rows");
    }

    proptest! {
        #[test]
        fn whoever_is_kept_makes_it_in_a_run_of_the_size_allowed(
            left in prop::collection::vec(prop::option::of(0u64..60), 1..64), cap in 1u32..64,
            base_us in 100u64..20_000, row_us in 1u64..2_000,
        ) {
            let now = Instant::now();
            let predict = |rows: u32| Some(Duration::from_micros(base_us + row_us * u64::from(rows)));
            let slots = slots(now, &left);
            let verdict = triage(&slots, 0, cap, predict, predict(1), now);
            prop_assert!(verdict.rows >= 1 && verdict.rows <= cap);
            for (at, left) in left.iter().enumerate() {
                let Some(left) = left else {
                    prop_assert!(!verdict.hopeless.contains(&at), "no deadline");
                    continue;
                };
                let run = predict(verdict.rows).expect("known");
                let left = Duration::from_millis(*left);
                prop_assert!(verdict.hopeless.contains(&at) || run <= left, "{run:?} for {left:?}");
                // Nobody is given up who could not be saved at all, or with time for the largest run.
                prop_assert!(!verdict.hopeless.contains(&at) || left.mul_f64(BUDGET) < predict(cap).expect("known"));
            }
        }
    }
}
