//! What a route takes and gives, worked out from the models it ends at; a group
//! whose models do not fit together has no signature, and the error says why.

use nobat_core::signature::{ModelSignature, ModelState, TensorSpec};
use nobat_core::tensor::Datatype;
use nobat_core::{Error, Result};
use smol_str::{SmolStr, format_smolstr};

use super::route::{Join, OnFailure, OnMissing, Route, Rule, Target, Topic};
use super::table::{Table, split_version};

/// A model's version as a table is bound to it.
#[derive(Clone, Copy, Debug)]
pub struct ServedModel<'a> {
    /// What it takes and gives.
    pub signature: &'a ModelSignature,
    /// Whether a live worker has it; else it is remembered.
    pub live: bool,
}

/// A target that is passed over for now.
#[derive(Clone, Debug)]
pub struct MissingTarget {
    /// As the route names it.
    pub target: Target,
    /// Why.
    pub error: Error,
    /// Whether it is only that no worker is live: it would fit.
    pub fits: bool,
}

/// What a route comes to with the models there are.
#[derive(Clone, Debug)]
pub(super) struct Fitted {
    pub(super) signature: ModelSignature,
    /// Whether live workers can answer it now.
    pub(super) live: bool,
    pub(super) missing: Vec<MissingTarget>,
}

/// The models whose routing key a topic's pattern matches, by name.
pub(super) fn members(topic: &Topic, models: &[ServedModel<'_>]) -> Vec<SmolStr> {
    let mut names: Vec<_> = models
        .iter()
        .map(|known| known.signature)
        .filter(|model| model.state == ModelState::Ready && topic.pattern.matches(model.routing_key()))
        .map(|model| model.name.clone())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Works out a route's signature, and whom it has to pass over.
///
/// # Errors
/// `invalid_parameter`: an unknown target that it cannot do without, a topic that
/// matches nothing, models that differ, outputs that cannot be joined; names the value
/// and the remedy.
pub(super) fn of_route(table: &Table, route: &Route, models: &[ServedModel<'_>]) -> Result<Fitted> {
    let fit = |target: &Target| of_target(table, route, target, models);
    let mut fitted = match route.rule()? {
        Rule::Direct(target) => Fitted { missing: Vec::new(), ..fit(target)? },
        Rule::Chain(_) => Fitted { missing: Vec::new(), ..fit(&route.name)? },
        Rule::Weighted(shares) => {
            let passes = route.on_missing == OnMissing::Share;
            // The largest share says what the others must be like.
            let mut order: Vec<_> = shares.iter().filter(|weighted| weighted.share() > 0).collect();
            order.sort_by_key(|weighted| std::cmp::Reverse(weighted.share()));
            let targets = order.iter().map(|weighted| (weighted.target.clone(), fit(&weighted.target)));
            let (targets, mut missing, live) = split(route, targets.collect(), passes, true)?;
            for idle in shares.iter().filter(|weighted| weighted.share() == 0) {
                missing
                    .extend(of_copy(route, &targets[0], &idle.target, fit(&idle.target)).err().map(|passed| *passed));
            }
            Fitted { signature: same(route, targets, true)?, live, missing }
        }
        Rule::Shadow(shadow) => {
            let primary = fit(&shadow.primary)?;
            let (live, mut targets) = (primary.live, vec![(shadow.primary.clone(), primary.signature)]);
            let mut missing = Vec::new();
            for copy in &shadow.copies {
                match of_copy(route, &targets[0], copy, fit(copy)) {
                    Ok(signature) => targets.push((copy.clone(), signature)),
                    Err(passed) => missing.push(*passed),
                }
            }
            Fitted { signature: same(route, targets, true)?, live, missing }
        }
        Rule::FanOut(group) => {
            let passes = group.on_failure == OnFailure::Skip || group.join == Join::First;
            let targets = group.targets.iter().map(|target| (target.clone(), fit(target)));
            let (targets, missing, live) = split(route, targets.collect(), passes, group.join != Join::All)?;
            Fitted { signature: joined(route, targets, group.join)?, live, missing }
        }
        Rule::Topic(topic) => {
            let members = members(topic, models);
            if members.is_empty() {
                let mut keys: Vec<_> = models.iter().map(|known| known.signature.routing_key()).collect();
                keys.sort_unstable();
                keys.dedup();
                return Err(route.invalid(&format!(
                    "has topic `{}` matches no model; routing keys: {}",
                    topic.pattern,
                    keys.join(", ")
                )));
            }
            let passes = topic.on_failure == OnFailure::Skip || topic.join == Join::First;
            let targets = members.into_iter().map(|name| {
                let fitted = of_model(route, &name, models);
                (name, fitted)
            });
            let (targets, missing, live) = split(route, targets.collect(), passes, topic.join != Join::All)?;
            let signature = match targets.len() {
                1 if missing.is_empty() => same(route, targets, true)?,
                _ => joined(route, targets, topic.join)?,
            };
            Fitted { signature, live, missing }
        }
    };
    fitted.signature.name = route.name.clone();
    fitted.signature.version = "1".into();
    Ok(fitted)
}

/// A route's targets, and those of them that are passed over; whether live workers can
/// answer with what is left. Where nothing is live, what is known stands in: jobs may
/// wait for it.
type Split = (Vec<(Target, ModelSignature)>, Vec<MissingTarget>, bool);

/// Parts the targets of a route into those that serve and those that are missing. Where
/// it `passes` over none, the first that is unknown is the error.
fn split(route: &Route, targets: Vec<(Target, Result<Fitted>)>, passes: bool, outputs_too: bool) -> Result<Split> {
    if !passes {
        let known: Result<Vec<_>> = targets.into_iter().map(|(target, fitted)| Ok((target, fitted?))).collect();
        let known = known?;
        let live = known.iter().all(|(_, fitted)| fitted.live);
        return Ok((known.into_iter().map(|(target, fitted)| (target, fitted.signature)).collect(), Vec::new(), live));
    }
    let live = targets.iter().any(|(_, fitted)| fitted.as_ref().is_ok_and(|fitted| fitted.live));
    let serves = |fitted: &Fitted| fitted.live || !live;
    let first = targets.iter().find_map(|(target, fitted)| match fitted {
        Ok(fitted) if serves(fitted) => Some((target.clone(), fitted.signature.clone())),
        _ => None,
    });
    let mut missing = Vec::new();
    let mut kept = Vec::new();
    for (target, fitted) in targets {
        match fitted {
            Err(error) => missing.push(MissingTarget { target, error, fits: false }),
            Ok(fitted) => {
                let own = (target, fitted.signature);
                match first.iter().find_map(|first| differs(route, first, &own, outputs_too)) {
                    Some(error) => missing.push(MissingTarget { target: own.0, error, fits: false }),
                    None if fitted.live || !live => kept.push(own),
                    None => missing.push(unserved(route, own.0)),
                }
            }
        }
    }
    match (kept.is_empty(), missing.first()) {
        (true, Some(none)) => Err(none.error.clone()),
        _ => Ok((kept, missing, live)),
    }
}

/// Whether a shadow's copy can be sent; why not, else.
fn of_copy(
    route: &Route,
    primary: &(Target, ModelSignature),
    copy: &Target,
    fitted: Result<Fitted>,
) -> std::result::Result<ModelSignature, Box<MissingTarget>> {
    let passed = |error| Box::new(MissingTarget { target: copy.clone(), error, fits: false });
    let fitted = fitted.map_err(passed)?;
    let own = (copy.clone(), fitted.signature);
    match differs(route, primary, &own, true) {
        Some(error) => Err(passed(error)),
        None if fitted.live => Ok(own.1),
        None => Err(Box::new(unserved(route, own.0))),
    }
}

fn unserved(route: &Route, target: Target) -> MissingTarget {
    let error = route.invalid(&format!("names `{target}`, which no live worker serves now"));
    MissingTarget { target, error, fits: true }
}

fn of_target(table: &Table, within: &Route, target: &Target, models: &[ServedModel<'_>]) -> Result<Fitted> {
    match table.follow(within, target) {
        Some(route) => of_route(table, route, models),
        None => of_model(within, target, models),
    }
}

fn of_model(route: &Route, target: &str, models: &[ServedModel<'_>]) -> Result<Fitted> {
    let (name, version) = split_version(target);
    let newest = models
        .iter()
        .filter(|ServedModel { signature: model, .. }| {
            model.name == name
                && model.state == ModelState::Ready
                && (version.is_empty() || model.version == version || model.labels.iter().any(|label| label == version))
        })
        .max_by_key(|known| (known.live, known.signature.version.parse::<u64>().unwrap_or(0)));
    if let Some(known) = newest {
        return Ok(Fitted { signature: known.signature.clone(), live: known.live, missing: Vec::new() });
    }
    let mut known: Vec<_> = models
        .iter()
        .map(|ServedModel { signature, .. }| format!("{}/{}", signature.name, signature.version))
        .collect();
    known.sort_unstable();
    known.dedup();
    let known = if known.is_empty() { "none".into() } else { known.join(", ") };
    Err(route.invalid(&format!("names `{target}`, which no worker serves; ready: {known}")))
}

/// Why two targets are not interchangeable, if they are not.
fn differs(
    route: &Route,
    (first_name, first): &(Target, ModelSignature),
    (name, other): &(Target, ModelSignature),
    outputs_too: bool,
) -> Option<Error> {
    let told = |what: &str, a: &[TensorSpec], b: &[TensorSpec]| {
        Some(Error::invalid(format!(
            "route `{}` joins `{first_name}` with {what} {} and `{name}` with {}; group models of one signature",
            route.name,
            spell(a),
            spell(b)
        )))
    };
    if other.batched != first.batched || !fits(&first.inputs, &other.inputs) {
        return told("inputs", &first.inputs, &other.inputs);
    }
    if outputs_too && !fits(&first.outputs, &other.outputs) {
        return told("outputs", &first.outputs, &other.outputs);
    }
    None
}

/// One signature for targets that must be interchangeable.
fn same(route: &Route, targets: Vec<(Target, ModelSignature)>, outputs_too: bool) -> Result<ModelSignature> {
    let mut targets = targets.into_iter();
    let Some(leader) = targets.next() else {
        return Err(route.invalid("has no target; name at least one"));
    };
    let mut first = leader.1.clone();
    for own in targets {
        if let Some(error) = differs(route, &leader, &own, outputs_too) {
            return Err(error);
        }
        let other = own.1;
        first.max_batch_size = first.max_batch_size.min(other.max_batch_size);
        first.max_rows = first.max_rows.min(other.max_rows);
        first.finite |= other.finite;
        first.task.take_if(|task| other.task.as_ref() != Some(task));
    }
    // Settings such as a cache ttl belong to a model, not to what stands for several.
    first.settings.clear();
    first.labels.clear();
    Ok(first)
}

fn joined(route: &Route, targets: Vec<(Target, ModelSignature)>, join: Join) -> Result<ModelSignature> {
    let allowed: fn(Datatype) -> bool = match join {
        Join::All => {
            let renamed = |(target, signature): &(Target, ModelSignature)| {
                let name = target.clone();
                signature
                    .outputs
                    .iter()
                    .map(move |spec| TensorSpec { name: format_smolstr!("{name}.{}", spec.name), ..spec.clone() })
                    .collect::<Vec<_>>()
            };
            let outputs = targets.iter().flat_map(renamed).collect();
            // Its outputs are not those of a task.
            return Ok(ModelSignature { outputs, task: None, ..same(route, targets, false)? });
        }
        Join::First => return same(route, targets, true),
        Join::Mean => |datatype| matches!(datatype, Datatype::Fp32 | Datatype::Fp64),
        Join::Majority => {
            |datatype| !matches!(datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64)
        }
    };
    let signature = same(route, targets, true)?;
    match signature.outputs.iter().find(|spec| !allowed(spec.datatype)) {
        None => Ok(signature),
        Some(spec) => {
            let (join, takes) = match join {
                Join::Mean => ("mean", "FP32 and FP64"),
                _ => ("majority", "integers, BOOL and BYTES"),
            };
            Err(route.invalid(&format!(
                "joins output `{}` ({}) by {join}, which takes {takes}; join by `all` or `first`",
                spec.name, spec.datatype
            )))
        }
    }
}

/// Names and datatypes agree, and so does every dimension (-1 only with -1: a
/// request valid for one must be valid for all).
fn fits(a: &[TensorSpec], b: &[TensorSpec]) -> bool {
    a.len() == b.len() && a.iter().all(|spec| b.contains(spec))
}

fn spell(specs: &[TensorSpec]) -> String {
    let one = |spec: &TensorSpec| format!("{} {}{:?}", spec.name, spec.datatype, spec.shape);
    format!("({})", specs.iter().map(one).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_testkit::signatures::{ready, spec};

    fn model(name: &str, inputs: usize, output: Datatype) -> ModelSignature {
        ModelSignature {
            max_batch_size: inputs as u32 * 4,
            ..ready(
                name,
                (0..inputs).map(|n| spec(&format!("x{n}"), Datatype::Fp32, &[-1])).collect(),
                vec![spec("y", output, &[-1])],
            )
        }
    }

    fn signature(route: serde_json::Value) -> Result<ModelSignature> {
        fitted(route, &[]).map(|fitted| fitted.signature)
    }

    /// Fitted to models of which these have no live worker.
    fn fitted(route: serde_json::Value, away: &[&str]) -> Result<Fitted> {
        let models = [
            model("f", 1, Datatype::Fp32),
            model("g", 1, Datatype::Fp32),
            model("i", 1, Datatype::Int64),
            model("two", 2, Datatype::Fp32),
        ];
        let route: Route = serde_json::from_value(route).expect("a route");
        let table = Table::build([route.clone()])?;
        let known = |signature| ServedModel { signature, live: !away.contains(&signature.name.as_str()) };
        of_route(&table, &route, &models.iter().map(known).collect::<Vec<_>>())
    }

    fn missing(fitted: &Fitted) -> Vec<(&str, bool)> {
        fitted.missing.iter().map(|missing| (missing.target.as_str(), missing.fits)).collect()
    }

    #[test]
    fn a_share_a_copy_and_a_skippable_child_that_nobody_serves_are_passed_over() {
        let weighted = |on_missing: &str| {
            serde_json::json!({"name": "r", "on_missing": on_missing, "weighted": [
                {"target": "g", "percent": 5}, {"target": "gone", "percent": 5},
                {"target": "i", "percent": 10}, {"target": "f", "percent": 80}]})
        };
        let shared = fitted(weighted("share"), &["g"]).expect("serves");
        assert_eq!((shared.live, missing(&shared)), (true, vec![("i", false), ("g", true), ("gone", false)]));
        assert!(shared.missing[1].error.message.contains("names `g`, which no live worker serves now"));
        let error = fitted(weighted("fail"), &[]).expect_err("strict");
        assert!(error.message.contains("`i`") || error.message.contains("`gone`"), "{}", error.message);
        let none = fitted(weighted("share"), &["f", "g", "i"]).expect("known from before");
        assert!(!none.live, "jobs may wait for it");

        let shadow = serde_json::json!({"name": "r", "shadow": {"primary": "f", "copies": ["g", "i", "gone"]}});
        let copies = fitted(shadow.clone(), &["g"]).expect("serves");
        assert_eq!((copies.live, missing(&copies)), (true, vec![("g", true), ("i", false), ("gone", false)]));
        assert!(!fitted(shadow, &["f"]).expect("known").live, "its primary is what it lives by");

        for (on_failure, join, serves) in
            [("skip", "all", true), ("fail", "first", true), ("fail", "mean", false), ("skip", "mean", true)]
        {
            let group = serde_json::json!({"name": "r",
                "fanout": {"targets": ["gone", "f", "g"], "join": join, "on_failure": on_failure}});
            match fitted(group, &["g"]) {
                Ok(fitted) => assert_eq!(missing(&fitted), [("gone", false), ("g", true)], "{on_failure} {join}"),
                Err(error) => assert!(!serves && error.message.contains("`gone`"), "{}", error.message),
            }
        }
        let nothing = serde_json::json!({"name": "r", "fanout": {"targets": ["gone"], "join": "first"}});
        assert!(fitted(nothing, &[]).expect_err("nobody").message.contains("names `gone`, which no worker serves"));
    }

    fn fanout(targets: &[&str], join: &str) -> serde_json::Value {
        serde_json::json!({"name": "r", "fanout": {"targets": targets, "join": join}})
    }

    #[test]
    fn a_group_of_one_signature_has_it() {
        let all = signature(fanout(&["f", "g"], "all")).expect("fits");
        assert_eq!(all.outputs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>(), ["f.y", "g.y"]);
        assert_eq!((all.name.as_str(), all.max_batch_size), ("r", 4));
        let mean = signature(fanout(&["f", "g"], "mean")).expect("fits");
        assert_eq!(mean.outputs, model("f", 1, Datatype::Fp32).outputs);
        assert_eq!(signature(fanout(&["f", "i"], "all")).expect("outputs may differ").outputs.len(), 2);
    }

    #[test]
    fn models_that_differ_and_outputs_that_cannot_be_joined_are_named() {
        let refused = |route| signature(route).expect_err("refused").message;
        let message = refused(fanout(&["f", "two"], "all"));
        assert!(message.contains("joins `f` with inputs (x0 FP32[-1]) and `two` with (x0 FP32[-1], x1"), "{message}");
        assert!(refused(fanout(&["f", "i"], "mean")).contains("with outputs (y FP32[-1]) and `i` with (y INT64[-1])"));
        assert!(
            refused(fanout(&["f", "g"], "majority")).contains("output `y` (FP32) by majority, which takes integers")
        );
        assert!(refused(fanout(&["i"], "mean")).contains("output `y` (INT64) by mean, which takes FP32 and FP64"));
        let message = refused(serde_json::json!({"name": "r", "direct": "f/9"}));
        assert!(message.contains("names `f/9`, which no worker serves; ready: f/1, g/1"), "{message}");
        let weighted = serde_json::json!({"name": "r", "on_missing": "fail", "weighted": [
            {"target": "f", "percent": 50}, {"target": "i", "percent": 50}]});
        assert!(refused(weighted).contains("group models of one signature"));
    }
}
