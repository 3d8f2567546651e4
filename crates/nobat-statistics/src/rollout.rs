//! Whether a new version may take over, judged while it serves: a share of the requests
//! (a canary) or copies of them (a shadow).
//!
//! The question is asked again and again until it is answered, so every bound here may be
//! looked at after every request ([`share_bounds`]): "safe" is wrong in at most one rollout
//! in twenty, however often it was looked at. All gates must hold, so none pays for the
//! others; "unsafe" may come from any class, so classes share the level. The p-value beside
//! them says whether the versions differ at all, however little.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::anytime::{AnytimeVersions, CONCENTRATION, share_bounds};
use crate::intervals::Interval;
use crate::pairs::{Gate, GateVerdict, overall};

/// What still counts as safe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutMargins {
    /// Share of requests by which the new version may fail more often.
    pub failures: f64,
    /// Share by which any class may be more or less frequent, for a canary.
    pub classes: f64,
    /// Share of requests that may get another class, for a shadow.
    pub disagreement: f64,
}

impl Default for RolloutMargins {
    fn default() -> RolloutMargins {
        RolloutMargins { failures: 0.01, classes: 0.05, disagreement: 0.01 }
    }
}

impl RolloutMargins {
    /// Checks that each margin is one.
    ///
    /// # Errors
    /// Names the margin that is none.
    pub fn check(&self) -> Result<(), String> {
        let all = [("failures", self.failures), ("classes", self.classes), ("disagreement", self.disagreement)];
        match all.into_iter().find(|(_, margin)| !(*margin > 0.0 && *margin < 1.0)) {
            None => Ok(()),
            Some((name, margin)) => Err(format!("the margin `{name}` is {margin}; give more than 0 and less than 1")),
        }
    }
}

/// Chance of a wrong verdict.
const ALPHA: f64 = 0.05;
/// Requests beyond this are not worth naming.
const MOST_NEEDED: f64 = 1e9;

/// What was judged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rollout {
    /// Unsafe when any gate is; safe when all are.
    #[serde(flatten)]
    pub verdict: GateVerdict,
    /// The verdict in words.
    pub words: String,
    /// Requests judged by; of a canary those of both versions.
    pub requests: u64,
    /// Chance of so much difference, at any time, if both versions answer alike.
    pub p: f64,
    /// One question each.
    pub gates: Vec<RolloutGate>,
}

/// A gate and what it asks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RolloutGate {
    /// Which.
    pub name: String,
    /// The gate.
    #[serde(flatten)]
    pub gate: Gate,
    /// In words.
    pub words: String,
}

/// What each version answered of the requests that a coin gave it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CanaryCounts {
    /// Answers by class, of the old version and of the new.
    pub classes: BTreeMap<String, [u64; 2]>,
    /// Answers without a class.
    pub plain: [u64; 2],
    /// Requests that failed.
    pub failed: [u64; 2],
}

impl CanaryCounts {
    fn answered(&self) -> [u64; 2] {
        let sum = |side: usize| self.plain[side] + self.classes.values().map(|counts| counts[side]).sum::<u64>();
        [sum(0), sum(1)]
    }

    /// Requests of the old version and of the new.
    pub fn requests(&self) -> [u64; 2] {
        let answered = self.answered();
        [answered[0] + self.failed[0], answered[1] + self.failed[1]]
    }

    fn scaled(&self, by: f64) -> CanaryCounts {
        let scale = |counts: [u64; 2]| counts.map(|count| (count as f64 * by).round() as u64);
        let classes = self.classes.iter().map(|(class, &counts)| (class.clone(), scale(counts)));
        CanaryCounts { classes: classes.collect(), plain: scale(self.plain), failed: scale(self.failed) }
    }

    fn failures(&self, margin: f64) -> Gate {
        let [old, new] = self.requests();
        let [old, new] = [(self.failed[0], old), (self.failed[1], new)];
        let (old_bounds, new_bounds) = (bounds(old, 1.0), bounds(new, 1.0));
        undecided(share(new) - share(old), (new_bounds.0 - old_bounds.1, new_bounds.1 - old_bounds.0), margin)
    }

    /// The class that moved most, and the gate over all of them.
    fn moved(&self, margin: f64) -> (Option<&str>, Gate) {
        let all = self.answered();
        let mut most = (None, 0.0);
        let (mut low, mut high) = (f64::NEG_INFINITY, 0.0f64);
        for (class, counts) in &self.classes {
            let [old, new] = [(counts[0], all[0]), (counts[1], all[1])];
            let by = (share(new) - share(old)).abs();
            if by >= most.1 {
                most = (Some(class.as_str()), by);
            }
            // Safe: each class by itself. Unsafe: any class, which all of them pay for.
            let (old_bounds, new_bounds) = (bounds(old, 1.0), bounds(new, 1.0));
            high = high.max(new_bounds.1 - old_bounds.0).max(old_bounds.1 - new_bounds.0);
            let (old_bounds, new_bounds) =
                (bounds(old, self.classes.len() as f64), bounds(new, self.classes.len() as f64));
            low = low.max(new_bounds.0 - old_bounds.1).max(old_bounds.0 - new_bounds.1);
        }
        (most.0, undecided(most.1, (low, high), margin))
    }

    /// Judges the new version, which gets a `share` of the requests of both.
    pub fn judge(&self, share: f64, margins: &RolloutMargins) -> Rollout {
        let requests: u64 = self.requests().iter().sum();
        let failures = |counts: &CanaryCounts| counts.failures(margins.failures);
        let mut gates = vec![RolloutGate {
            name: "failures".into(),
            gate: with_need(requests, failures(self), |by| failures(&self.scaled(by))),
            words: format!(
                "{} of {} requests failed with the new version, {} of {} with the old one",
                self.failed[1],
                self.requests()[1],
                self.failed[0],
                self.requests()[0]
            ),
        }];
        if !self.classes.is_empty() {
            let (class, gate) = self.moved(margins.classes);
            let gate = with_need(requests, gate, |by| self.scaled(by).moved(margins.classes).1);
            let words = format!("class `{}` moved most: {}", class.unwrap_or_default(), percent(gate.worse_by));
            gates.push(RolloutGate { name: "classes".into(), gate, words });
        }
        let cells: Vec<[u64; 2]> = self.classes.values().copied().chain([self.plain, self.failed]).collect();
        let p = AnytimeVersions::of_counts(&cells, share, CONCENTRATION).p();
        Rollout::of(gates, requests, p)
    }
}

/// How a copy's answers compare with those that callers got.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShadowEvidence {
    /// Requests that got the same class, or the same answer where there is none.
    pub same: u64,
    /// Requests by the two classes they got, old and new, where these differ.
    pub changes: BTreeMap<(String, String), u64>,
    /// Answers without a class that differ.
    pub different: u64,
    /// Copies that failed where the answer did not.
    pub failed: u64,
}

impl ShadowEvidence {
    fn differ(&self) -> u64 {
        self.different + self.changes.values().sum::<u64>()
    }

    /// Judges the copy.
    pub fn judge(&self, margins: &RolloutMargins) -> Rollout {
        let (differ, answered) = (self.differ(), self.same + self.differ());
        let requests = answered + self.failed;
        let gate = |hits: u64, n: u64, margin: f64| {
            let gate = |by: f64| {
                let scaled = |count: u64| (count as f64 * by).round() as u64;
                let of = (scaled(hits), scaled(n));
                // One share, so it has the level for itself.
                undecided(share(of), share_bounds(of.0, of.1, ALPHA), margin)
            };
            with_need(requests, gate(1.0), gate)
        };
        let gates = vec![
            RolloutGate {
                name: "failures".into(),
                gate: gate(self.failed, requests, margins.failures),
                words: format!("{} of {requests} copies failed where the answer did not", self.failed),
            },
            RolloutGate {
                name: "same answer".into(),
                gate: gate(differ, answered, margins.disagreement),
                words: format!("{differ} of {answered} copies answer differently"),
            },
        ];
        let mut directions: BTreeMap<(&str, &str), [u64; 2]> = BTreeMap::new();
        for ((old, new), &count) in &self.changes {
            let forth = old < new;
            let pair = if forth { (old.as_str(), new.as_str()) } else { (new.as_str(), old.as_str()) };
            directions.entry(pair).or_default()[usize::from(forth)] += count;
        }
        let cells: Vec<[u64; 2]> = directions.into_values().collect();
        let p = AnytimeVersions::of_counts(&cells, 0.5, CONCENTRATION).p();
        Rollout::of(gates, requests, p)
    }
}

impl Rollout {
    fn of(gates: Vec<RolloutGate>, requests: u64, p: f64) -> Rollout {
        let verdict = overall(gates.iter().map(|gate| gate.gate.verdict));
        let listed = |wanted: fn(&GateVerdict) -> bool| {
            let gates = gates.iter().filter(|gate| wanted(&gate.gate.verdict));
            let shown = gates.map(|RolloutGate { name, gate, words }| {
                let (low, high) = gate.bounds;
                let between = format!("between {} and {}", percent(low.max(-1.0)), percent(high.min(1.0)));
                format!("{name}: {words} ({between} at 95 %; {} is accepted)", percent(gate.margin))
            });
            shown.collect::<Vec<_>>().join("; ")
        };
        let words = match verdict {
            GateVerdict::Safe => format!("safe at 95 % over {requests} requests"),
            GateVerdict::Unsafe => format!("unsafe: {}", listed(|verdict| *verdict == GateVerdict::Unsafe)),
            GateVerdict::MoreNeeded(more) => format!(
                "not shown yet over {requests} requests, about {more} would do: {}",
                listed(|verdict| matches!(verdict, GateVerdict::MoreNeeded(_)))
            ),
        };
        Rollout { verdict, words, requests, p, gates }
    }
}

fn share((hits, n): (u64, u64)) -> f64 {
    hits as f64 / n.max(1) as f64
}

/// Bounds of one of two shares that are compared, of which the comparison may be one of `of`.
fn bounds((hits, n): (u64, u64), of: f64) -> Interval {
    share_bounds(hits, n, ALPHA / 2.0 / of)
}

fn undecided(worse_by: f64, bounds: Interval, margin: f64) -> Gate {
    Gate::new(worse_by, bounds, margin, || MOST_NEEDED)
}

/// Says how many `requests` a gate that is undecided would take, if all goes on as it does.
fn with_need(requests: u64, gate: Gate, at: impl Fn(f64) -> Gate) -> Gate {
    if !matches!(gate.verdict, GateVerdict::MoreNeeded(_)) {
        return gate;
    }
    // Nothing seen says nothing of how it will go on; this many would do if nothing differed.
    if requests == 0 {
        return Gate { verdict: GateVerdict::MoreNeeded((10.0 / gate.margin) as u64), ..gate };
    }
    let decided = |by: &f64| !matches!(at(*by).verdict, GateVerdict::MoreNeeded(_));
    let most = MOST_NEEDED / requests as f64;
    let mut steps = std::iter::successors(Some(1.5f64), |by| (*by < most).then_some(by * 1.5));
    let needed = steps.find(decided).map_or(MOST_NEEDED, |by| requests as f64 * by);
    Gate { verdict: GateVerdict::MoreNeeded(needed.ceil() as u64), ..gate }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, multinomial, seeded};
    use rand::RngExt;

    const MARGINS: RolloutMargins = RolloutMargins { failures: 0.01, classes: 0.05, disagreement: 0.01 };

    /// Sends requests until there is a verdict, looking after every 200.
    fn canary(
        random: &mut Random,
        old: &[f64],
        new: &[f64],
        share: f64,
        most: u64,
    ) -> (u64, CanaryCounts, GateVerdict) {
        let mut counts = CanaryCounts::default();
        let mut sent = 0;
        loop {
            for (side, shares, rows) in [(0, old, 200.0 * (1.0 - share)), (1, new, 200.0 * share)] {
                for (class, rows) in multinomial(random, rows as u64, shares).into_iter().enumerate() {
                    counts.classes.entry(class.to_string()).or_default()[side] += rows;
                }
            }
            sent += 200;
            let gates = [counts.failures(MARGINS.failures), counts.moved(MARGINS.classes).1];
            let verdict = overall(gates.into_iter().map(|gate| gate.verdict));
            if sent >= most || !matches!(verdict, GateVerdict::MoreNeeded(_)) {
                return (sent, counts, verdict);
            }
        }
    }

    #[test]
    fn a_canary_that_answers_alike_is_safe_and_one_that_does_not_is_not() {
        let (even, mut bad) = ([0.1; 10], [0.0; 10]);
        bad[0] = 1.0;
        // docs/OPERATIONS.md: about 8,000 requests.
        let (sent, counts, _) = canary(&mut seeded(1), &even, &even, 0.5, 50_000);
        let rollout = counts.judge(0.5, &MARGINS);
        assert_eq!(rollout.verdict, GateVerdict::Safe, "{rollout:#?}");
        assert!(
            (4_000..16_000).contains(&sent) && rollout.words.starts_with("safe at 95 %"),
            "{sent} {}",
            rollout.words
        );
        let (sent, counts, _) = canary(&mut seeded(1), &even, &bad, 0.1, 50_000);
        let rollout = counts.judge(0.1, &MARGINS);
        assert_eq!(rollout.verdict, GateVerdict::Unsafe);
        assert!(sent <= 600 && rollout.p < ALPHA, "{sent} {}", rollout.p);
        assert!(rollout.words.contains("class `0` moved most"), "{}", rollout.words);
    }

    #[test]
    fn safe_is_wrong_in_no_more_than_one_rollout_in_twenty_however_often_it_is_looked_at() {
        // A class that moved by just more than is accepted, watched until a verdict or the end.
        let mut moved = [0.845 / 9.0; 10];
        moved[0] = 0.155;
        let verdict = |run| canary(&mut seeded(run), &[0.1; 10], &moved, 0.5, 8_000).2;
        assert!((0..100).filter(|&run| verdict(run) == GateVerdict::Safe).count() <= 5);
    }

    #[test]
    fn failures_of_the_new_version_count_and_those_of_both_do_not() {
        let counts = |failed: [u64; 2]| CanaryCounts { plain: [2_000, 2_000], failed, ..CanaryCounts::default() };
        assert_eq!(counts([0, 0]).judge(0.5, &MARGINS).verdict, GateVerdict::Safe);
        assert_eq!(counts([0, 150]).judge(0.5, &MARGINS).verdict, GateVerdict::Unsafe);
        assert_eq!(counts([150, 0]).judge(0.5, &MARGINS).verdict, GateVerdict::Safe, "it fails less");
        let both = counts([60, 60]).judge(0.5, &MARGINS);
        assert!(matches!(both.verdict, GateVerdict::MoreNeeded(more) if more > 4_000), "{both:?}");
    }

    #[test]
    fn a_shadow_says_how_many_copies_are_missing() {
        let evidence = |same: u64, changed: u64, failed: u64| ShadowEvidence {
            same,
            changes: BTreeMap::from([(("a".to_owned(), "b".to_owned()), changed)]),
            different: 0,
            failed,
        };
        let few = evidence(200, 0, 0).judge(&MARGINS);
        let GateVerdict::MoreNeeded(more) = few.verdict else { panic!("{few:?}") };
        assert_eq!(evidence(more, 0, 0).judge(&MARGINS).verdict, GateVerdict::Safe, "{more}");
        assert!((400..1_200).contains(&more), "{more}");
        let bad = evidence(100, 100, 0).judge(&MARGINS);
        assert_eq!(bad.verdict, GateVerdict::Unsafe);
        assert!(bad.p < 0.01 && bad.words.contains("100 of 200 copies answer differently"), "{}", bad.words);
        assert_eq!(evidence(500, 0, 60).judge(&MARGINS).verdict, GateVerdict::Unsafe);
        let none = ShadowEvidence::default().judge(&MARGINS);
        assert!(matches!(none.verdict, GateVerdict::MoreNeeded(_)) && none.p == 1.0, "{none:?}");
    }

    #[test]
    fn margins_are_checked() {
        assert_eq!(MARGINS.check(), Ok(()));
        let none = RolloutMargins { classes: 0.0, ..MARGINS };
        assert!(none.check().expect_err("none").contains("`classes` is 0"));
    }

    #[test]
    fn a_share_stays_within_its_bounds_at_every_look() {
        let outside = (0..200u64).filter(|&run| {
            let mut random = seeded(run);
            let (mut hits, mut n) = (0, 0);
            (0..200).any(|_| {
                hits += (0..10).filter(|_| random.random_bool(0.1)).count() as u64;
                n += 10;
                let (low, high) = share_bounds(hits, n, 0.05);
                !(low..=high).contains(&0.1)
            })
        });
        // 5 % of 200 is 10, and 18 come in all but one of a hundred seeds.
        assert!(outside.count() <= 18);
    }
}
