//! What canaries and shadows have shown so far: counts per route in this gateway, for all
//! gateways to add up and judge.
//!
//! A canary's requests are those of a weighted route that names models itself, answered or
//! failed, cache hits too: which version gets a request is thrown by a coin that does not
//! see it, so whatever came, both saw the same. Callers with a route key throw once: only
//! their first request counts. A shadow's are pairs of an answer and its copy, of which
//! neither came from a cache.
//!
//! Invariants:
//! - Evidence is of one rule and of the same model files: a change of either begins anew.
//! - Counts, pairs and keys are bounded. Pairs hold classes, scores and durations, never tensors.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use nobat_core::clip;
use nobat_statistics::rollout::{CanaryCounts, ShadowEvidence};
use parking_lot::Mutex;
use serde::Serialize;
use smol_str::SmolStr;
use xxhash_rust::xxh3::xxh3_64;

use super::route::Route;
use crate::shared_counts::{Cells, Counts};

/// Classes, or changes of class, that are told apart.
const MOST_CELLS: usize = 200;
/// Pairs that are kept of a copy, the newest.
const MOST_PAIRS: usize = 2_000;
/// Route keys that are remembered; requests of further ones are not counted.
const MOST_KEYS: usize = 1 << 16;

const SAME: &str = "same";
const DIFFERENT: &str = "different";
const FAILED: &str = "failed";
const PLAIN: &str = "plain";
/// What stands before a class in the name of its cell.
const CLASS: &str = "=";
const OTHERS: &str = "(others)";

/// Evidence of this gateway's routes.
#[derive(Default)]
pub(crate) struct RouteEvidence {
    // Held for a few additions, by requests to weighted and shadowed routes alone.
    routes: Mutex<HashMap<SmolStr, OfRoute>>,
}

#[derive(Default)]
struct OfRoute {
    rule: u64,
    /// The model file behind each target, as its last answer marked it; 0 is not known.
    marks: BTreeMap<SmolStr, u64>,
    cells: BTreeMap<SmolStr, Cells>,
    pairs: HashMap<SmolStr, VecDeque<ShadowPair>>,
    numbered: u64,
    keys: HashSet<u64>,
}

/// An answer that a caller got, and that of a copy.
#[derive(Clone, Debug, Serialize)]
pub struct ShadowPair {
    /// Its number among the route's pairs in this gateway.
    pub number: u64,
    /// The request's id.
    pub request: SmolStr,
    /// What the caller got.
    pub old: PairSide,
    /// What the copy answered.
    pub new: PairSide,
}

/// One side of a pair.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PairSide {
    /// The class, where an output gives one.
    pub class: Option<String>,
    /// The score, where an output gives one.
    pub score: Option<f64>,
    /// How long it took.
    pub ms: f64,
    /// Why there is no answer.
    pub error: Option<&'static str>,
    /// The model file that answered.
    #[serde(skip)]
    pub mark: u64,
}

impl RouteEvidence {
    /// Counts what a weighted route's `target` made of a request: its class, if it has one, or
    /// that it failed (`None`). `key`: the caller's route key, empty without one.
    pub(crate) fn count_arm(&self, route: &Route, target: &SmolStr, key: &str, answer: Option<(Option<String>, u64)>) {
        let mut routes = self.routes.lock();
        let own = OfRoute::of(&mut routes, route);
        if !key.is_empty() && (own.keys.len() >= MOST_KEYS || !own.keys.insert(xxh3_64(key.as_bytes()))) {
            return;
        }
        if let Some((_, mark)) = answer {
            own.set_mark(target, mark);
        }
        own.count(
            target,
            match answer {
                None => FAILED.into(),
                Some((None, _)) => PLAIN.into(),
                Some((Some(class), _)) => format!("{CLASS}{}", clip(&class)),
            },
        );
    }

    /// Counts a copy's answer beside the caller's; `same`: within the route's tolerance.
    pub(crate) fn count_copy(
        &self,
        route: &Route,
        target: &SmolStr,
        request: &SmolStr,
        (old, new): (PairSide, PairSide),
        same: bool,
    ) {
        let mut routes = self.routes.lock();
        let own = OfRoute::of(&mut routes, route);
        // A failure does not say which file failed.
        for (target, side) in [(&SmolStr::new_static(""), &old), (target, &new)] {
            if side.error.is_none() {
                own.set_mark(target, side.mark);
            }
        }
        own.count(
            target,
            match (&old.class, &new.class) {
                _ if new.error.is_some() => FAILED.into(),
                (Some(old), Some(new)) if old == new => SAME.into(),
                (Some(old), Some(new)) => {
                    format!("{CLASS}{}", serde_json::to_string(&[clip(old), clip(new)]).unwrap_or_default())
                }
                _ if same => SAME.into(),
                _ => DIFFERENT.into(),
            },
        );
        own.numbered += 1;
        // Texts that stand where a class does may be long.
        let short = |side: PairSide| PairSide { class: side.class.map(|class| clip(&class).to_owned()), ..side };
        let (old, new) = (short(old), short(new));
        let pairs = own.pairs.entry(target.clone()).or_default();
        pairs.push_back(ShadowPair { number: own.numbered, request: request.clone(), old, new });
        if pairs.len() > MOST_PAIRS {
            pairs.pop_front();
        }
    }

    /// This gateway's counts, for the others to add theirs.
    pub(crate) fn counts(&self) -> Counts {
        let routes = self.routes.lock();
        let all = routes.iter().flat_map(|(route, own)| {
            own.cells.iter().map(move |(target, cells)| (own.key(route, target), cells.clone()))
        });
        all.collect()
    }

    /// The key and the counts of one target.
    pub(crate) fn of(&self, route: &Route, target: &str) -> (String, Cells) {
        let mut routes = self.routes.lock();
        let own = OfRoute::of(&mut routes, route);
        (own.key(&route.name, target), own.cells.get(target).cloned().unwrap_or_default())
    }

    /// The newest pairs of a copy after `number`, and the newest number.
    pub(crate) fn pairs(&self, route: &str, target: &str, number: u64) -> Vec<ShadowPair> {
        let routes = self.routes.lock();
        let pairs = routes.get(route).and_then(|own| own.pairs.get(target)).into_iter().flatten();
        pairs.filter(|pair| pair.number > number).cloned().collect()
    }

    /// Forgets routes that are not among these.
    pub(crate) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.routes.lock().retain(|route, _| is_there(route));
    }
}

impl OfRoute {
    /// A route's evidence, of the rule that it has now.
    fn of<'a>(routes: &'a mut HashMap<SmolStr, OfRoute>, route: &Route) -> &'a mut OfRoute {
        let rule = xxh3_64(&serde_json::to_vec(route).unwrap_or_default());
        let own = routes.entry(route.name.clone()).or_default();
        if own.rule != rule {
            *own = OfRoute { rule, ..OfRoute::default() };
        }
        own
    }

    /// Begins anew when another file answers for a target.
    fn set_mark(&mut self, target: &SmolStr, mark: u64) {
        // An answer that is joined, or of an earlier release, does not say its file.
        if mark == 0 {
            return;
        }
        let before = self.marks.insert(target.clone(), mark);
        if before.is_some_and(|before| before != mark) {
            let (rule, marks, numbered) = (self.rule, std::mem::take(&mut self.marks), self.numbered);
            *self = OfRoute { rule, marks, numbered, ..OfRoute::default() };
        }
    }

    fn count(&mut self, target: &SmolStr, cell: String) {
        let cells = self.cells.entry(target.clone()).or_default();
        let cell = if cells.len() < MOST_CELLS || cells.contains_key(&cell) {
            cell
        } else if cell.starts_with("=[") {
            format!("{CLASS}[\"{OTHERS}\",\"{OTHERS}\"]")
        } else {
            format!("{CLASS}{OTHERS}")
        };
        *cells.entry(cell).or_default() += 1;
    }

    /// Names what a target's counts are of, alike in every gateway that sees the same.
    fn key(&self, route: &str, target: &str) -> String {
        let marks = serde_json::to_vec(&(self.rule, &self.marks)).unwrap_or_default();
        format!("route/{route}/{:016x}/{target}", xxh3_64(&marks))
    }
}

/// The counts of two targets as a canary's.
pub(crate) fn canary(old: &Cells, new: &Cells) -> CanaryCounts {
    let mut counts = CanaryCounts::default();
    for (side, cells) in [old, new].into_iter().enumerate() {
        for (cell, &count) in cells {
            match (cell.strip_prefix(CLASS), cell.as_str()) {
                (Some(class), _) => counts.classes.entry(class.to_owned()).or_default()[side] += count,
                (None, FAILED) => counts.failed[side] += count,
                (None, _) => counts.plain[side] += count,
            }
        }
    }
    counts
}

/// The counts of a copy.
pub(crate) fn shadow(cells: &Cells) -> ShadowEvidence {
    let mut evidence = ShadowEvidence::default();
    for (cell, &count) in cells {
        match (cell.strip_prefix(CLASS).map(serde_json::from_str::<(String, String)>), cell.as_str()) {
            (Some(Ok(change)), _) => *evidence.changes.entry(change).or_default() += count,
            (None, SAME) => evidence.same += count,
            (None, FAILED) => evidence.failed += count,
            _ => evidence.different += count,
        }
    }
    evidence
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(json: serde_json::Value) -> Route {
        serde_json::from_value(json).expect("a route")
    }

    fn weighted(percent: u32) -> Route {
        let shares =
            serde_json::json!([{"target": "a", "percent": 100 - percent}, {"target": "b", "percent": percent}]);
        route(serde_json::json!({"name": "r", "weighted": shares}))
    }

    fn answer(class: &str, mark: u64) -> Option<(Option<String>, u64)> {
        Some((Some(class.to_owned()), mark))
    }

    #[test]
    fn arms_are_counted_by_class_and_callers_with_a_key_once() {
        let (evidence, route) = (RouteEvidence::default(), weighted(10));
        let (a, b) = (SmolStr::new("a"), SmolStr::new("b"));
        for (target, key, answer) in [
            (&a, "", answer("cat", 1)),
            (&a, "", answer("cat", 1)),
            (&b, "", answer("dog", 2)),
            (&b, "", None),
            (&a, "user-1", answer("dog", 1)),
            (&a, "user-1", answer("dog", 1)),
            (&b, "user-2", Some((None, 2))),
        ] {
            evidence.count_arm(&route, target, key, answer);
        }
        let counts = canary(&evidence.of(&route, "a").1, &evidence.of(&route, "b").1);
        assert_eq!(counts.classes, [("cat".to_owned(), [2, 0]), ("dog".to_owned(), [1, 1])].into());
        assert_eq!((counts.plain, counts.failed), ([0, 1], [0, 1]));
    }

    #[test]
    fn another_rule_and_another_file_begin_anew() {
        let (evidence, target) = (RouteEvidence::default(), SmolStr::new("a"));
        evidence.count_arm(&weighted(10), &target, "", answer("cat", 1));
        let (key, cells) = evidence.of(&weighted(10), "a");
        assert_eq!(cells.values().sum::<u64>(), 1);
        assert_eq!(evidence.of(&weighted(20), "a").1, Cells::new());
        evidence.count_arm(&weighted(20), &target, "", answer("cat", 1));
        evidence.count_arm(&weighted(20), &target, "", answer("cat", 7));
        let (other, cells) = evidence.of(&weighted(20), "a");
        assert_eq!(cells.values().sum::<u64>(), 1, "the new file's alone");
        assert_ne!(key, other);
        evidence.retain(|_| false);
        assert!(evidence.counts().is_empty());
    }

    #[test]
    fn pairs_are_counted_by_what_changed_and_the_newest_kept() {
        let evidence = RouteEvidence::default();
        let route = route(serde_json::json!({"name": "r", "shadow": {"primary": "a", "copies": ["b"]}}));
        let (b, request) = (SmolStr::new("b"), SmolStr::new("id"));
        let side = |class: Option<&str>| PairSide { class: class.map(str::to_owned), ..PairSide::default() };
        let failed = PairSide { error: Some("inference_failed"), ..PairSide::default() };
        for (old, new, same) in [
            (side(Some("x")), side(Some("x")), false),
            (side(Some("x")), side(Some("y\"]")), false),
            (side(None), side(None), true),
            (side(None), side(None), false),
            (side(Some("x")), failed, false),
        ] {
            evidence.count_copy(&route, &b, &request, (old, new), same);
        }
        let found = shadow(&evidence.of(&route, "b").1);
        assert_eq!((found.same, found.different, found.failed), (2, 1, 1));
        assert_eq!(found.changes, [(("x".to_owned(), "y\"]".to_owned()), 1)].into());
        assert_eq!(evidence.pairs("r", "b", 3).iter().map(|pair| pair.number).collect::<Vec<_>>(), [4, 5]);
        for _ in 0..MOST_PAIRS {
            evidence.count_copy(&route, &b, &request, (side(Some("x")), side(Some("x"))), true);
        }
        assert_eq!(evidence.pairs("r", "b", 0).len(), MOST_PAIRS);
    }

    #[test]
    fn classes_are_bounded() {
        let (evidence, route, target) = (RouteEvidence::default(), weighted(10), SmolStr::new("a"));
        for class in 0..1_000 {
            evidence.count_arm(&route, &target, "", answer(&class.to_string(), 1));
        }
        let cells = evidence.of(&route, "a").1;
        assert_eq!((cells.len(), cells["=(others)"], cells.values().sum::<u64>()), (201, 800, 1_000));
    }
}
