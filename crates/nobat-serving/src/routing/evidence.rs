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
//! - Evidence is of one [`EvidenceScope`]: a change of the rule or of a model file begins anew.
//! - Counts, pairs and keys are bounded. Pairs hold classes, scores and durations, never tensors.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use nobat_core::clip;
use nobat_statistics::rollout::{CanaryCounts, ShadowEvidence};
use parking_lot::Mutex;
use serde::Serialize;
use smol_str::SmolStr;
use xxhash_rust::xxh3::xxh3_64;

use super::scope::EvidenceScope;
use crate::shared_counts::Cells;

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
    /// Of the scope that it is of.
    hash: u64,
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
    pub(crate) fn count_arm(
        &self,
        scope: &EvidenceScope,
        target: &SmolStr,
        key: &str,
        answer: Option<(Option<String>, u64)>,
    ) {
        // A failure does not say which file failed.
        if answer.as_ref().is_some_and(|(_, mark)| !scope.admits(target, *mark)) {
            return;
        }
        let mut routes = self.routes.lock();
        let own = OfRoute::of(&mut routes, scope);
        if !key.is_empty() && (own.keys.len() >= MOST_KEYS || !own.keys.insert(xxh3_64(key.as_bytes()))) {
            return;
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

    /// Counts a copy's answer beside the caller's, which `primary` gave; `same`: within the route's
    /// tolerance.
    pub(crate) fn count_copy(
        &self,
        scope: &EvidenceScope,
        primary: &str,
        target: &SmolStr,
        request: &SmolStr,
        (old, new): (PairSide, PairSide),
        same: bool,
    ) {
        // A failure does not say which file failed.
        let admits = |target: &str, side: &PairSide| side.error.is_some() || scope.admits(target, side.mark);
        if !admits(primary, &old) || !admits(target, &new) {
            return;
        }
        let mut routes = self.routes.lock();
        let own = OfRoute::of(&mut routes, scope);
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

    /// This gateway's counts of a target.
    pub(crate) fn of(&self, scope: &EvidenceScope, target: &str) -> Cells {
        let routes = self.routes.lock();
        let own = routes.get(&scope.route).filter(|own| own.hash == scope.hash);
        own.and_then(|own| own.cells.get(target)).cloned().unwrap_or_default()
    }

    /// The newest pairs of a copy after `number`, and the newest number.
    pub(crate) fn pairs(&self, route: &str, target: &str, number: u64) -> Vec<ShadowPair> {
        let routes = self.routes.lock();
        let pairs = routes.get(route).and_then(|own| own.pairs.get(target)).into_iter().flatten();
        pairs.filter(|pair| pair.number > number).cloned().collect()
    }

    /// Forgets what is of another scope than a route has now.
    pub(crate) fn retain<'a>(&self, scope: impl Fn(&str) -> Option<&'a EvidenceScope>) {
        self.routes.lock().retain(|route, own| scope(route).is_some_and(|scope| scope.hash == own.hash));
    }
}

impl OfRoute {
    /// A route's evidence, of the scope that it has now.
    fn of<'a>(routes: &'a mut HashMap<SmolStr, OfRoute>, scope: &EvidenceScope) -> &'a mut OfRoute {
        let own = routes.entry(scope.route.clone()).or_default();
        if own.hash != scope.hash {
            // Readers of pairs go on by their numbers.
            *own = OfRoute { hash: scope.hash, numbered: own.numbered, ..OfRoute::default() };
        }
        own
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
    use super::super::route::Route;
    use super::super::signature::ServedModel;
    use super::super::table::Table;
    use super::*;
    use nobat_core::signature::{ModelSignature, digest_mark};
    use nobat_testkit::signatures::ready;

    /// The scope of a route's rule with the models `a` and `b`, of these files.
    fn scope(rule: serde_json::Value, files: [&str; 2]) -> EvidenceScope {
        let mut rule = rule;
        rule["name"] = "r".into();
        let table = Table::build([serde_json::from_value::<Route>(rule).expect("a route")]).expect("a table");
        let signatures = ["a", "b"].iter().zip(files).map(|(name, digest)| ModelSignature {
            digest: digest.into(),
            default: true,
            ..ready(name, vec![], vec![])
        });
        let signatures: Vec<ModelSignature> = signatures.collect();
        let models: Vec<_> = signatures.iter().map(|signature| ServedModel { signature, live: true }).collect();
        EvidenceScope::of(&table, table.get("r").expect("there"), &models)
    }

    fn weighted(percent: u32) -> EvidenceScope {
        let shares =
            serde_json::json!([{"target": "a", "percent": 100 - percent}, {"target": "b", "percent": percent}]);
        scope(serde_json::json!({"weighted": shares}), ["d1", "d2"])
    }

    fn answer(class: &str, mark: u64) -> Option<(Option<String>, u64)> {
        Some((Some(class.to_owned()), mark))
    }

    #[test]
    fn arms_are_counted_by_class_and_callers_with_a_key_once() {
        let (evidence, route) = (RouteEvidence::default(), weighted(10));
        let (a, b) = (SmolStr::new("a"), SmolStr::new("b"));
        for (target, key, answer) in [
            (&a, "", answer("cat", 0)),
            (&a, "", answer("cat", digest_mark("d1"))),
            (&b, "", answer("dog", digest_mark("d2"))),
            // Of another file than is served.
            (&b, "", answer("cat", digest_mark("d3"))),
            (&b, "", None),
            (&a, "user-1", answer("dog", 0)),
            (&a, "user-1", answer("dog", 0)),
            (&b, "user-2", Some((None, 0))),
        ] {
            evidence.count_arm(&route, target, key, answer);
        }
        let counts = canary(&evidence.of(&route, "a"), &evidence.of(&route, "b"));
        assert_eq!(counts.classes, [("cat".to_owned(), [2, 0]), ("dog".to_owned(), [1, 1])].into());
        assert_eq!((counts.plain, counts.failed), ([0, 1], [0, 1]));
    }

    #[test]
    fn another_rule_and_another_file_begin_anew() {
        let (evidence, target) = (RouteEvidence::default(), SmolStr::new("a"));
        let total = |scope: &EvidenceScope| evidence.of(scope, "a").values().sum::<u64>();
        evidence.count_arm(&weighted(10), &target, "", answer("cat", 0));
        assert_eq!((total(&weighted(10)), total(&weighted(20))), (1, 0));
        evidence.count_arm(&weighted(20), &target, "", answer("cat", 0));
        let shares = serde_json::json!([{"target": "a", "percent": 80}, {"target": "b", "percent": 20}]);
        let replaced = scope(serde_json::json!({"weighted": shares}), ["d1", "d7"]);
        assert_eq!((total(&weighted(20)), total(&replaced)), (1, 0), "of another file of `b`");
        evidence.count_arm(&replaced, &target, "", answer("cat", 0));
        assert_eq!((total(&weighted(20)), total(&replaced)), (0, 1));
        let (one, other) = (weighted(20).key("a"), replaced.key("a"));
        assert_ne!(one, other);
        // While a worker starts its file is not known, and what is known is no other.
        let starting = scope(serde_json::json!({"weighted": shares}), ["d1", ""]);
        assert_ne!(starting.hash, replaced.hash);
        assert_eq!(starting.clone().after(&replaced), replaced);
        assert_eq!(starting.clone().after(&weighted(10)), starting, "of another rule");
        // A gateway without a request of its own names them alike.
        assert_eq!(scope(serde_json::json!({"weighted": shares}), ["d1", "d7"]).key("a"), other);
        evidence.retain(|_| Some(&replaced));
        assert_eq!(total(&replaced), 1);
        evidence.retain(|_| None);
        assert_eq!(total(&replaced), 0);
    }

    #[test]
    fn answers_of_several_files_behind_one_target_do_not_begin_anew() {
        let inner = serde_json::from_value::<Route>(
            serde_json::json!({"name": "inner", "fanout": {"targets": ["a", "b"], "join": "first"}}),
        );
        let outer = serde_json::from_value::<Route>(
            serde_json::json!({"name": "r", "shadow": {"primary": "a", "copies": ["inner"]}}),
        );
        let table = Table::build([inner.expect("a route"), outer.expect("a route")]).expect("a table");
        let (evidence, copy) = (RouteEvidence::default(), SmolStr::new("inner"));
        let scope = EvidenceScope::of(&table, table.get("r").expect("there"), &[]);
        for mark in [1, 2, 1, 2] {
            let side = |mark| PairSide { class: Some("x".into()), mark, ..PairSide::default() };
            evidence.count_copy(&scope, "a", &copy, &SmolStr::new("id"), (side(0), side(mark)), true);
        }
        assert_eq!(shadow(&evidence.of(&scope, "inner")).same, 4);
    }

    #[test]
    fn pairs_are_counted_by_what_changed_and_the_newest_kept() {
        let evidence = RouteEvidence::default();
        let route = scope(serde_json::json!({"shadow": {"primary": "a", "copies": ["b"]}}), ["d1", "d2"]);
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
            evidence.count_copy(&route, "a", &b, &request, (old, new), same);
        }
        let found = shadow(&evidence.of(&route, "b"));
        assert_eq!((found.same, found.different, found.failed), (2, 1, 1));
        assert_eq!(found.changes, [(("x".to_owned(), "y\"]".to_owned()), 1)].into());
        assert_eq!(evidence.pairs("r", "b", 3).iter().map(|pair| pair.number).collect::<Vec<_>>(), [4, 5]);
        for _ in 0..MOST_PAIRS {
            evidence.count_copy(&route, "a", &b, &request, (side(Some("x")), side(Some("x"))), true);
        }
        assert_eq!(evidence.pairs("r", "b", 0).len(), MOST_PAIRS);
    }

    #[test]
    fn classes_are_bounded() {
        let (evidence, route, target) = (RouteEvidence::default(), weighted(10), SmolStr::new("a"));
        for class in 0..1_000 {
            evidence.count_arm(&route, &target, "", answer(&class.to_string(), 0));
        }
        let cells = evidence.of(&route, "a");
        assert_eq!((cells.len(), cells["=(others)"], cells.values().sum::<u64>()), (201, 800, 1_000));
    }
}
