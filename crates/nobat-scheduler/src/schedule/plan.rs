//! Which ticks to run, given when we last looked and what time it is now.

use super::crontab::Crontab;
use super::task::Misfire;

/// Most ticks one look gives; a beat that comes once a second never sees more
/// than one or two of a crontab.
const MOST: usize = 64;
/// Shortest stretch searched for a missed tick, in seconds; grows fourfold.
const FIRST_STRETCH: i64 = 3600;

/// What one look at the clock found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    /// Ticks to run now, oldest first; a misfired one, if it is to run, leads.
    pub run: Vec<i64>,
    /// The newest tick that came too late and is skipped.
    pub skipped: Option<i64>,
    /// Pass as `after` of the next look.
    pub seen: i64,
}

/// Finds the ticks in `(after, now]`.
///
/// A tick noticed at most `grace_s` late runs. One noticed later has misfired
/// (every scheduler was down, the machine was suspended, the clock was set
/// forward): under [`Misfire::Skip`] it is dropped, under [`Misfire::RunOnce`]
/// the newest misfired tick runs, once for any number of them. A clock set back
/// runs nothing twice: until `after` is passed again there are no ticks.
///
/// # Complexity
/// By the ticks of the grace period and of one stretch that has a misfired tick,
/// not by how long nobody looked.
pub fn due(crontab: &Crontab, after: i64, now: i64, grace_s: u32, misfire: Misfire) -> Ticks {
    let mut ticks = Ticks { seen: after.max(now), ..Ticks::default() };
    if now <= after {
        return ticks;
    }
    let on_time = after.max(now - i64::from(grace_s) - 1);
    if let Some(missed) = newest_in(crontab, after, on_time) {
        match misfire {
            Misfire::Skip => ticks.skipped = Some(missed),
            Misfire::RunOnce => ticks.run.push(missed),
        }
    }
    let mut at = on_time;
    while let Some(next) = crontab.next_after(at).filter(|&next| next <= now) {
        if ticks.run.len() == MOST {
            // The rest is seen by the next look.
            ticks.seen = at;
            break;
        }
        ticks.run.push(next);
        at = next;
    }
    ticks
}

/// The newest tick in `(after, until]`.
fn newest_in(crontab: &Crontab, after: i64, until: i64) -> Option<i64> {
    let mut stretch = FIRST_STRETCH;
    loop {
        let start = after.max(until - stretch);
        let mut newest = None;
        let mut at = start;
        while let Some(next) = crontab.next_after(at).filter(|&next| next <= until) {
            newest = Some(next);
            at = next;
        }
        if newest.is_some() || start == after {
            return newest;
        }
        stretch *= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: i64 = 60;
    const HOUR: i64 = 3600;

    fn every_minute() -> Crontab {
        Crontab::parse("* * * * *", "UTC").expect("a crontab")
    }

    #[test]
    fn an_hour_of_suspend_skips_or_runs_once() {
        let (before, after) = (1_000 * HOUR + 30, 1_001 * HOUR + 30);
        let skip = due(&every_minute(), before, after, 5, Misfire::Skip);
        assert_eq!(skip.run, Vec::<i64>::new());
        assert_eq!(skip.skipped, Some(1_001 * HOUR));
        let once = due(&every_minute(), before, after, 5, Misfire::RunOnce);
        assert_eq!((once.run, once.skipped), (vec![1_001 * HOUR], None));
    }

    #[test]
    fn a_tick_within_its_grace_is_no_misfire() {
        let ticks = due(&every_minute(), HOUR - 1, HOUR + 59, 60, Misfire::Skip);
        assert_eq!((ticks.run, ticks.skipped), (vec![HOUR], None));
    }

    #[test]
    fn a_clock_set_back_runs_nothing_twice() {
        let first = due(&every_minute(), 10 * HOUR, 10 * HOUR + 60, 60, Misfire::RunOnce);
        assert_eq!(first.run.len(), 1);
        let back = due(&every_minute(), first.seen, 9 * HOUR, 60, Misfire::RunOnce);
        assert_eq!((back.run.len(), back.seen), (0, first.seen));
    }

    #[test]
    fn ten_years_without_a_look_cost_one_tick() {
        let yearly = Crontab::parse("0 0 29 2 *", "UTC").expect("a crontab");
        let ticks = due(&yearly, 0, 10 * 365 * 24 * HOUR, 60, Misfire::RunOnce);
        assert_eq!(ticks.run.len(), 1);
    }

    proptest! {
        #[test]
        fn looks_of_any_rhythm_find_each_tick_once(steps in prop::collection::vec(1i64..90, 1..200), every in 1u32..20) {
            let crontab = Crontab::parse(&format!("*/{every} * * * *"), "UTC").expect("a crontab");
            let start = 1_700_000_000;
            let mut seen = start;
            let mut now = start;
            let mut found = Vec::new();
            for step in steps {
                now += step;
                let ticks = due(&crontab, seen, now, 120, Misfire::Skip);
                prop_assert_eq!(ticks.skipped, None);
                found.extend(ticks.run);
                seen = ticks.seen;
            }
            let mut expected = Vec::new();
            let mut at = start;
            while let Some(next) = crontab.next_after(at).filter(|&next| next <= now) {
                expected.push(next);
                at = next;
            }
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn after_any_gap_run_once_runs_the_newest_missed_tick(gap in MINUTE..400 * 24 * HOUR, minute in 0u32..60, hour in 0u32..24) {
            let crontab = Crontab::parse(&format!("{minute} {hour} * * *"), "UTC").expect("a crontab");
            let (after, now) = (1_700_000_000, 1_700_000_000 + gap);
            let ticks = due(&crontab, after, now, 0, Misfire::RunOnce);
            let mut newest = None;
            let mut at = after;
            while let Some(next) = crontab.next_after(at).filter(|&next| next <= now) {
                newest = Some(next);
                at = next;
            }
            prop_assert_eq!(ticks.run.last().copied(), newest);
            prop_assert!(ticks.run.len() <= 1);
        }
    }
}
