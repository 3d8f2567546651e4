//! One check's state over time: pure, with hysteresis, so that a value that
//! hovers at its threshold does not ring all night.

use std::time::{Duration, Instant};

use serde::Serialize;

/// Where a check stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// Somebody should look.
    Failing,
}

/// How long a change must last before it counts.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Bad for so long: failing.
    pub fail_after: Duration,
    /// Good for so long: ok again.
    pub recover_after: Duration,
}

/// A check and its memory.
#[derive(Clone, Debug)]
pub struct Check {
    patience: Patience,
    state: State,
    /// When the state was entered; `None` before the first look.
    since: Option<Instant>,
    /// Since when the looks disagree with the state.
    doubted_since: Option<Instant>,
}

impl Check {
    /// A check that is taken for ok until it has been seen to fail.
    pub fn new(patience: Patience) -> Check {
        Check { patience, state: State::Ok, since: None, doubted_since: None }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// How long it has stood there.
    pub fn held(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Takes a look at `now`; the new state when it changed.
    pub fn look(&mut self, good: bool, now: Instant) -> Option<State> {
        self.since.get_or_insert(now);
        let (seen, needed) =
            if good { (State::Ok, self.patience.recover_after) } else { (State::Failing, self.patience.fail_after) };
        if seen == self.state {
            self.doubted_since = None;
            return None;
        }
        let doubted = *self.doubted_since.get_or_insert(now);
        if now.saturating_duration_since(doubted) < needed {
            return None;
        }
        (self.state, self.since, self.doubted_since) = (seen, Some(now), None);
        Some(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATIENCE: Patience = Patience { fail_after: Duration::from_secs(3), recover_after: Duration::from_secs(5) };

    #[test]
    fn a_change_counts_once_it_has_lasted() {
        let (mut check, start) = (Check::new(PATIENCE), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(check.look(false, at(0)), None);
        assert_eq!(check.look(true, at(2)), None, "it was a blip");
        assert_eq!(check.look(false, at(3)), None);
        assert_eq!(check.look(false, at(6)), Some(State::Failing));
        assert_eq!(check.look(false, at(9)), None, "told once");
        assert_eq!(check.look(true, at(10)), None);
        assert_eq!(check.look(true, at(15)), Some(State::Ok));
        assert_eq!(check.held(at(17)), Duration::from_secs(2));
    }

    proptest! {
        #[test]
        fn states_alternate_and_change_no_faster_than_patience_allows(looks in prop::collection::vec((any::<bool>(), 0u64..4), 1..200)) {
            let (mut check, mut now) = (Check::new(PATIENCE), Instant::now());
            let (mut last, mut changed) = (State::Ok, now);
            for (good, gap) in looks {
                now += Duration::from_secs(gap);
                if let Some(state) = check.look(good, now) {
                    prop_assert_ne!(state, last);
                    prop_assert!(now - changed >= PATIENCE.fail_after);
                    (last, changed) = (state, now);
                }
                prop_assert_eq!(check.state(), last);
            }
        }
    }
}
