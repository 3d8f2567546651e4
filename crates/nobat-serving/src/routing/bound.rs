//! The routes fitted to the models that are live, and resolved per request.

use std::collections::HashMap;

use nobat_core::signature::ModelSignature;
use nobat_core::{Error, ErrorCode, Result};
use smol_str::SmolStr;

use super::plan::Plan;
use super::route::{Route, Rule, Target, Weighted};
use super::scope::EvidenceScope;
use super::signature::{self, MissingTarget, ServedModel};
use super::table::{Table, split_version};
use super::weight;

/// A table fitted to the live models; resolving reads nothing else.
#[derive(Debug, Default)]
pub struct BoundTable {
    table: Table,
    routes: HashMap<SmolStr, BoundRoute>,
}

/// One route as it stands with the live models.
#[derive(Debug)]
pub struct BoundRoute {
    /// What it takes and gives, or why it cannot serve (`model_not_ready`).
    pub signature: Result<ModelSignature>,
    /// The models of a topic, by name.
    pub members: Vec<SmolStr>,
    /// Whether live workers can answer it now.
    pub live: bool,
    /// Targets that it passes over for now.
    pub missing: Vec<MissingTarget>,
    /// What its evidence is of.
    pub(crate) scope: EvidenceScope,
}

impl BoundRoute {
    /// Whether `target` is passed over.
    fn passes_over(&self, target: &Target) -> bool {
        self.missing.iter().any(|missing| missing.target == *target)
    }
}

impl BoundTable {
    /// Fits a table to the models that are live now: finds the members of
    /// topics and each route's signature, or why it has none.
    pub fn bind(table: &Table, models: &[ServedModel<'_>]) -> BoundTable {
        let routes = table.routes().into_iter().map(|route| {
            let members = match route.rule() {
                Ok(Rule::Topic(topic)) => signature::members(topic, models),
                _ => Vec::new(),
            };
            let scope = EvidenceScope::of(table, route, models);
            let bound = match signature::of_route(table, route, models) {
                Ok(fitted) => {
                    let (live, missing) = (fitted.live, fitted.missing);
                    BoundRoute { signature: Ok(fitted.signature), members, live, missing, scope }
                }
                Err(error) => {
                    let signature = Err(Error { code: ErrorCode::ModelNotReady, ..error });
                    BoundRoute { signature, members, live: false, missing: Vec::new(), scope }
                }
            };
            (route.name.clone(), bound)
        });
        BoundTable { routes: routes.collect(), table: table.clone() }
    }

    /// The same, whose evidence goes on where it was before, though a model is not known for now.
    #[must_use]
    pub(super) fn after(mut self, before: &BoundTable) -> BoundTable {
        for (name, route) in &mut self.routes {
            if let Some(before) = before.routes.get(name) {
                route.scope = std::mem::take(&mut route.scope).after(&before.scope);
            }
        }
        self
    }

    /// The table this was made from.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// How a route stands; `None` when there is no such route.
    pub fn get(&self, name: &str) -> Option<&BoundRoute> {
        self.routes.get(name)
    }

    /// What a request to `name` with a request `key` means; `None` when `name`
    /// is no route (and so a model's name). The same key gives the same plan.
    ///
    /// # Errors
    /// `model_not_ready` when the route cannot serve, with the reason.
    pub fn resolve(&self, name: &str, key: &[u8]) -> Option<Result<Plan>> {
        if self.routes.is_empty() {
            return None;
        }
        let bound = self.routes.get(name)?;
        Some(match (&bound.signature, self.table.get(name)) {
            (Err(error), _) => Err(error.clone()),
            (Ok(_), Some(route)) => self.plan_route(route, key),
            (Ok(_), None) => return None,
        })
    }

    fn plan_route(&self, route: &Route, key: &[u8]) -> Result<Plan> {
        let bound = self.routes.get(&route.name);
        let missing = |target: &&Target| bound.is_some_and(|bound| bound.passes_over(target));
        let present = |target: &&Target| !missing(target);
        Ok(match route.rule()? {
            Rule::Direct(target) => self.plan_target(route, target, key)?,
            Rule::Chain(_) => self.plan_target(route, &route.name, key)?,
            Rule::Weighted(shares) => {
                let at = weight::pick(shares.iter().map(Weighted::share), weight::point(&route.name, key));
                let mut target = &shares[at].target;
                if missing(&target) {
                    // Only the missing one's keys move: the others stay where they are.
                    let left: Vec<_> = shares.iter().filter(|other| present(&&other.target)).collect();
                    let whole: u32 = left.iter().map(|other| other.share()).sum();
                    if whole > 0 {
                        let point = weight::point_anew(&route.name, key, whole);
                        target = &left[weight::pick(left.iter().map(|other| other.share()), point)].target;
                    }
                }
                self.plan_target(route, target, key)?
            }
            Rule::FanOut(group) => Plan::Group {
                children: self.plan_all(route, group.targets.iter().filter(present), key)?,
                join: group.join,
                on_failure: group.on_failure,
            },
            Rule::Topic(topic) => {
                let members = bound.map_or(&[][..], |bound| &bound.members);
                let model = |name: &SmolStr| Plan::Model { model: name.clone(), version: SmolStr::default() };
                match members {
                    [only] => model(only),
                    several => Plan::Group {
                        children: several.iter().filter(present).map(|name| (name.clone(), model(name))).collect(),
                        join: topic.join,
                        on_failure: topic.on_failure,
                    },
                }
            }
            Rule::Shadow(shadow) => Plan::Shadow {
                route: route.name.clone(),
                primary: Box::new(self.plan_target(route, &shadow.primary, key)?),
                copies: self.plan_all(route, shadow.copies.iter().filter(present), key)?,
                missing: shadow.copies.iter().filter(missing).cloned().collect(),
                tolerance: shadow.tolerance,
            },
        })
    }

    fn plan_all<'a>(
        &self,
        route: &Route,
        targets: impl Iterator<Item = &'a Target>,
        key: &[u8],
    ) -> Result<Vec<(Target, Plan)>> {
        targets.map(|target| Ok((target.clone(), self.plan_target(route, target, key)?))).collect()
    }

    fn plan_target(&self, within: &Route, target: &Target, key: &[u8]) -> Result<Plan> {
        match self.table.follow(within, target) {
            Some(route) => self.plan_route(route, key),
            None => {
                let (model, version) = split_version(target);
                Ok(Plan::Model { model: model.into(), version: version.into() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::Join;
    use nobat_core::tensor::Datatype;
    use nobat_testkit::signatures::{ready, spec};
    use proptest::prelude::*;

    pub(crate) fn model(name: &str, inputs: &[(&str, Datatype)], outputs: &[(&str, Datatype)]) -> ModelSignature {
        let specs =
            |named: &[(&str, Datatype)]| named.iter().map(|&(name, datatype)| spec(name, datatype, &[-1, 2])).collect();
        ready(name, specs(inputs), specs(outputs))
    }

    fn plain(name: &str) -> ModelSignature {
        model(name, &[("x", Datatype::Fp32)], &[("y", Datatype::Fp32)])
    }

    fn table(routes: serde_json::Value) -> Result<Table> {
        Table::build(serde_json::from_value::<Vec<Route>>(routes).expect("routes"))
    }

    fn leaf(name: &str, version: &str) -> Plan {
        Plan::Model { model: name.into(), version: version.into() }
    }

    fn live(models: &[ModelSignature]) -> Vec<ServedModel<'_>> {
        models.iter().map(|signature| ServedModel { signature, live: true }).collect()
    }

    #[test]
    fn a_missing_share_moves_its_own_keys_and_no_others() {
        let routes = serde_json::json!([
            {"name": "r", "weighted": [{"target": "a", "percent": 60}, {"target": "b", "percent": 30},
                                       {"target": "c", "percent": 10}, {"target": "idle", "percent": 0}]},
            {"name": "chain", "direct": "r"}]);
        let models: Vec<_> = ["a", "b", "c", "idle"].map(plain).into();
        let table = table(routes).expect("valid");
        let whole = BoundTable::bind(&table, &live(&models));
        let known = |signature| ServedModel { signature, live: signature.name != "b" };
        let without = BoundTable::bind(&table, &models.iter().map(known).collect::<Vec<_>>());
        let mut moved = HashMap::new();
        for key in 0..2_000u32 {
            let of = |bound: &BoundTable, route| match bound.resolve(route, &key.to_le_bytes()) {
                Some(Ok(Plan::Model { model, .. })) => model,
                other => panic!("{other:?}"),
            };
            let (before, after) = (of(&whole, "r"), of(&without, "r"));
            assert_eq!(of(&without, "chain"), after);
            if before == "b" {
                *moved.entry(after).or_insert(0) += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        let (to_a, to_c) = (moved["a"], moved["c"]);
        assert_eq!(moved.len(), 2, "{moved:?}");
        assert!((4..9).contains(&(to_a / to_c)), "by their shares, six to one: {moved:?}");
    }

    #[test]
    fn a_cycle_is_refused_and_spelled_out() {
        let routes = serde_json::json!([
            {"name": "a", "direct": "b"}, {"name": "b", "fanout": {"targets": ["m", "c"]}}, {"name": "c", "direct": "a"}]);
        let message = table(routes).expect_err("a cycle").message;
        assert!(message.contains(" -> ") && message.contains("let one of them name a model"), "{message}");
        assert!(table(serde_json::json!([{"name": "a", "direct": "m"}, {"name": "a", "direct": "n"}])).is_err());
    }

    #[test]
    fn a_route_may_take_a_models_place_and_mean_the_model_inside() {
        let routes = serde_json::json!([{"name": "m", "weighted": [
            {"target": "m", "percent": 50}, {"target": "m/2", "percent": 50}]}]);
        let models = [plain("m"), ModelSignature { version: "2".into(), ..plain("m") }];
        let bound = BoundTable::bind(&table(routes).expect("no cycle"), &live(&models));
        let plans: Vec<_> =
            (0..64u8).map(|key| bound.resolve("m", &[key]).expect("a route").expect("serves")).collect();
        assert!(plans.contains(&leaf("m", "")) && plans.contains(&leaf("m", "2")));
        assert!(bound.resolve("other", b"").is_none());
    }

    #[test]
    fn routes_nest_and_topics_find_their_members() {
        let mut vision = plain("resnet");
        vision.settings.insert("routing_key".into(), "vision.resnet.v2".into());
        let models = [vision, plain("text.bert"), plain("text.t5")];
        let routes = serde_json::json!([
            {"name": "texts", "topic": {"pattern": "text.#", "join": "first"}},
            {"name": "one", "topic": {"pattern": "vision.*.v2"}},
            {"name": "both", "fanout": {"targets": ["texts", "one"], "join": "mean"}},
            {"name": "safe", "shadow": {"primary": "one", "copies": ["text.t5"]}},
            {"name": "none", "topic": {"pattern": "audio.#"}}]);
        let bound = BoundTable::bind(&table(routes).expect("valid"), &live(&models));
        let plan = |name: &str| bound.resolve(name, b"k").expect("a route");
        assert_eq!(plan("one").expect("serves"), leaf("resnet", ""));
        let Plan::Group { children, join: Join::Mean, .. } = plan("both").expect("serves") else { panic!("a group") };
        let Plan::Group { children: texts, join: Join::First, .. } = &children[0].1 else { panic!("a group") };
        assert_eq!(texts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["text.bert", "text.t5"]);
        assert_eq!(children[1], ("one".into(), leaf("resnet", "")));
        assert!(matches!(plan("safe").expect("serves"), Plan::Shadow { .. }));
        let error = plan("none").expect_err("matches nothing");
        assert_eq!(error.code, ErrorCode::ModelNotReady);
        assert!(error.message.contains("topic `audio.#` matches no model"), "{}", error.message);
    }

    proptest! {
        #[test]
        fn every_table_resolves_to_models_or_is_refused(edges in prop::collection::vec((0u8..6, 0u8..9, 0u8..9), 1..6)) {
            let routes: Vec<_> = edges.iter().map(|(name, a, b)| {
                let name = format!("n{name}");
                let (a, b) = (format!("n{a}"), format!("n{b}"));
                if a == b {
                    serde_json::json!({"name": name, "direct": a})
                } else {
                    serde_json::json!({"name": name, "fanout": {"targets": [a, b], "join": "first"}})
                }
            }).collect();
            let models: Vec<_> = (0..9).map(|n| plain(&format!("n{n}"))).collect();
            if let Ok(table) = table(routes.into()) {
                let bound = BoundTable::bind(&table, &live(&models));
                for route in table.routes() {
                    prop_assert!(bound.resolve(&route.name, b"k").expect("a route").is_ok());
                }
            }
        }
    }
}
