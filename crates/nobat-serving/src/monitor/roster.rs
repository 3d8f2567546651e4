//! Who is missing: workers that were here and ended without saying so. Pure.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use smol_str::SmolStr;

/// A worker that was never replaced is not waited for any longer.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// The workers of a deployment, look by look.
#[derive(Default)]
pub(super) struct Roster {
    /// Host by id.
    present: BTreeMap<SmolStr, SmolStr>,
    missing: Vec<MissingWorker>,
}

/// A worker that is missing.
pub(super) struct MissingWorker {
    id: SmolStr,
    pub(super) host: SmolStr,
    pub(super) since: Instant,
    /// How many there were with it.
    pub(super) of: usize,
}

impl Roster {
    /// Those who were here at the last look and are not now.
    pub(super) fn has_lost(&self, live: &BTreeMap<SmolStr, SmolStr>) -> bool {
        self.present.keys().any(|id| !live.contains_key(id))
    }

    /// Takes a look: `departed` left on purpose. Who came in a missing one's place
    /// makes up for it.
    pub(super) fn look(
        &mut self,
        live: BTreeMap<SmolStr, SmolStr>,
        departed: &HashSet<String>,
        now: Instant,
    ) -> &[MissingWorker] {
        let of = self.present.len();
        let lost = self.present.iter().filter(|(id, _)| !live.contains_key(*id) && !departed.contains(id.as_str()));
        let lost = lost.map(|(id, host)| MissingWorker { id: id.clone(), host: host.clone(), since: now, of });
        self.missing.extend(lost);
        self.missing.retain(|missing| {
            let made_up_for = live.contains_key(&missing.id) || live.len() >= missing.of;
            !made_up_for && now.saturating_duration_since(missing.since) < FORGOTTEN
        });
        self.present = live;
        &self.missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(ids: &[&str]) -> BTreeMap<SmolStr, SmolStr> {
        ids.iter().map(|id| (SmolStr::new(id), SmolStr::new(format!("host-{id}")))).collect()
    }

    fn missing(roster: &mut Roster, ids: &[&str], departed: &[&str], now: Instant) -> Vec<String> {
        let departed = departed.iter().map(ToString::to_string).collect();
        roster.look(live(ids), &departed, now).iter().map(|missing| missing.host.to_string()).collect()
    }

    #[test]
    fn who_dies_is_missing_until_somebody_makes_up_for_it() {
        let (mut roster, now) = (Roster::default(), Instant::now());
        assert!(missing(&mut roster, &["a", "b"], &[], now).is_empty());
        assert!(roster.has_lost(&live(&["a"])) && !roster.has_lost(&live(&["a", "b", "c"])));
        assert_eq!(missing(&mut roster, &["a"], &[], now), ["host-b"]);
        assert_eq!(missing(&mut roster, &["a"], &[], now), ["host-b"], "it stays missing");
        assert!(missing(&mut roster, &["a", "c"], &[], now).is_empty(), "another one came");
        assert_eq!(missing(&mut roster, &["c"], &[], now), ["host-a"]);
        assert!(missing(&mut roster, &["a", "c"], &[], now).is_empty(), "it came back");
    }

    #[test]
    fn who_leaves_is_not_missing_and_nobody_is_for_ever() {
        let (mut roster, now) = (Roster::default(), Instant::now());
        missing(&mut roster, &["a", "b", "c"], &[], now);
        assert_eq!(missing(&mut roster, &["a"], &["b"], now), ["host-c"], "one left, one died");
        assert_eq!(missing(&mut roster, &["a"], &[], now + FORGOTTEN / 2), ["host-c"]);
        assert!(missing(&mut roster, &["a"], &[], now + FORGOTTEN).is_empty());
    }
}
