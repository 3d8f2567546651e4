//! The order of jobs: one number per job, lower runs first.
//!
//! Under aging the score is `position_us - priority * step_us`: a job that has
//! waited one step ranks as one level higher, so nothing starves, and no timer
//! ever rewrites a score. Under `strict` the priority is the high digits and
//! the position (a counter) the low ones. `position` is strictly increasing per
//! queue and comes from the store, never from a host's clock: FIFO within one
//! priority holds however the hosts' clocks stand. Scores stay below 2^53, so a
//! double (Redis) and an i64 (SQLite) hold them exactly.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How waiting changes a job's rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aging {
    /// A job gains one priority level per this much waiting.
    Step(Duration),
    /// Priority alone decides; a low priority may wait for ever.
    Strict,
}

impl Default for Aging {
    fn default() -> Aging {
        Aging::Step(Duration::from_secs(60))
    }
}

/// Where a job ranks: its priority, or one level below it for one that runs in the
/// background.
pub fn rank(priority: u8, background: bool) -> i16 {
    i16::from(priority) - i16::from(background)
}

/// Counter positions per priority level under [`Aging::Strict`].
pub const STRICT_SPAN: i64 = 1 << 44;

impl Aging {
    /// Step in microseconds; 0 stands for strict on the wire to a store.
    pub fn step_us(self) -> u64 {
        match self {
            Aging::Step(step) => (step.as_micros() as u64).max(1),
            Aging::Strict => 0,
        }
    }

    /// The score of a job of this [`rank`] at `position` (microseconds under aging, a
    /// counter under strict).
    pub fn score(self, position: i64, rank: i16) -> i64 {
        match self {
            Aging::Step(_) => position - i64::from(rank) * self.step_us() as i64,
            Aging::Strict => i64::from(255 - rank) * STRICT_SPAN + position,
        }
    }

    /// The highest score of what ranks above `level` at `now`, the latest position that was
    /// given: of one enqueued this moment a level higher, or one that has waited as long as
    /// makes up for its rank.
    pub fn highest_above(self, level: i16, now: i64) -> i64 {
        match self {
            Aging::Step(_) => self.score(now, level + 1),
            Aging::Strict => self.score(0, level),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn within_a_rank_the_order_is_fifo(a in 0i64..1 << 44, b in 0i64..1 << 44, priority: u8, background: bool) {
            let rank = rank(priority, background);
            for aging in [Aging::default(), Aging::Strict] {
                prop_assert_eq!(aging.score(a, rank) < aging.score(b, rank), a < b);
            }
        }

        #[test]
        fn strict_never_lets_a_lower_priority_pass(a in 0i64..1 << 44, b in 0i64..1 << 44, p in 0i16..256) {
            prop_assert!(Aging::Strict.score(a, p) < Aging::Strict.score(b, p - 1));
        }

        #[test]
        fn what_ranks_above_a_level_is_told_from_what_does_not(now in 0i64..1 << 44, before in 1i64..60_000_000, rank in 0i16..256) {
            for aging in [Aging::default(), Aging::Strict] {
                let highest = aging.highest_above(rank - 1, now);
                prop_assert!(aging.score(now, rank) <= highest && aging.score((now - before).max(0), rank) <= highest);
                prop_assert!(aging.score((now - before + 1).max(1), rank - 1) > highest);
            }
            // A level's worth of waiting lifts a job, where it does.
            prop_assert!(Aging::default().score(now - 60_000_000, rank - 1) <= Aging::default().highest_above(rank - 1, now));
        }

        #[test]
        fn aging_bounds_the_wait(low in 0u8..255, gap in 1u8..) {
            let (low, high) = (i16::from(low), i16::from(low.saturating_add(gap)));
            let step = 60_000_000i64;
            let waited = i64::from(high - low) * step;
            let aging = Aging::default();
            // A job that waited one step per level of difference runs before a fresh one.
            prop_assert!(aging.score(0, low) <= aging.score(waited, high));
        }
    }
}
