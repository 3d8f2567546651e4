//! What a route takes and gives, worked out from the models it ends at; a group
//! whose models do not fit together has no signature, and the error says why.

use smol_str::{SmolStr, format_smolstr};

use super::route::{Join, Route, Rule, Target, Topic};
use super::table::{Table, split_version};
use crate::error::{Error, ErrorCode, Result};
use crate::signature::{ModelSignature, ModelState, TensorSpec};
use crate::tensor::Datatype;

/// The models whose routing key a topic's pattern matches, by name.
pub(super) fn members(topic: &Topic, models: &[&ModelSignature]) -> Vec<SmolStr> {
    let mut names: Vec<_> = models
        .iter()
        .filter(|model| model.state == ModelState::Ready && topic.pattern.matches(routing_key(model)))
        .map(|model| model.name.clone())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The key topics match: the model's own `routing_key` setting, or its name.
fn routing_key(model: &ModelSignature) -> &str {
    model.settings.get("routing_key").and_then(|key| key.as_str()).unwrap_or(&model.name)
}

/// Works out a route's signature.
///
/// # Errors
/// `invalid_parameter`: an unknown target, a topic that matches nothing, models
/// that differ, outputs that cannot be joined; names the value and the remedy.
pub(super) fn of_route(table: &Table, route: &Route, models: &[&ModelSignature]) -> Result<ModelSignature> {
    let resolve = |target: &Target| of_target(table, route, target, models);
    let resolve_all = |targets: &[Target]| -> Result<Vec<(Target, ModelSignature)>> {
        targets.iter().map(|target| Ok((target.clone(), resolve(target)?))).collect()
    };
    let signature = match route.rule()? {
        Rule::Direct(target) => resolve(target)?,
        Rule::Weighted(shares) => {
            let targets: Vec<_> = shares.iter().map(|weighted| weighted.target.clone()).collect();
            same(route, resolve_all(&targets)?, true)?
        }
        Rule::Shadow(shadow) => {
            let targets: Vec<_> = std::iter::once(&shadow.primary).chain(&shadow.copies).cloned().collect();
            same(route, resolve_all(&targets)?, true)?
        }
        Rule::FanOut(group) => joined(route, resolve_all(&group.targets)?, group.join)?,
        Rule::Topic(topic) => {
            let members = members(topic, models);
            if members.is_empty() {
                let mut keys: Vec<_> = models.iter().map(|model| routing_key(model)).collect();
                keys.sort_unstable();
                keys.dedup();
                return Err(route.invalid(&format!(
                    "has topic `{}` matches no model; routing keys: {}",
                    topic.pattern,
                    keys.join(", ")
                )));
            }
            let members = members.into_iter().map(|name| {
                let signature = of_model(route, &name, models)?;
                Ok((name, signature))
            });
            match members.collect::<Result<Vec<_>>>()? {
                only if only.len() == 1 => same(route, only, true)?,
                several => joined(route, several, topic.join)?,
            }
        }
    };
    Ok(ModelSignature { name: route.name.clone(), version: "1".into(), ..signature })
}

fn of_target(table: &Table, within: &Route, target: &Target, models: &[&ModelSignature]) -> Result<ModelSignature> {
    match table.follow(within, target) {
        Some(route) => of_route(table, route, models),
        None => of_model(within, target, models),
    }
}

fn of_model(route: &Route, target: &str, models: &[&ModelSignature]) -> Result<ModelSignature> {
    let (name, version) = split_version(target);
    let newest = models
        .iter()
        .filter(|model| {
            model.name == name
                && model.state == ModelState::Ready
                && (version.is_empty() || model.version == version || model.labels.iter().any(|label| label == version))
        })
        .max_by_key(|model| model.version.parse::<u64>().unwrap_or(0));
    if let Some(model) = newest {
        return Ok((*model).clone());
    }
    let mut known: Vec<_> = models.iter().map(|model| format!("{}/{}", model.name, model.version)).collect();
    known.sort_unstable();
    known.dedup();
    let known = if known.is_empty() { "none".into() } else { known.join(", ") };
    Err(route.invalid(&format!("names `{target}`, which no worker serves; ready: {known}")))
}

/// One signature for targets that must be interchangeable.
fn same(route: &Route, targets: Vec<(Target, ModelSignature)>, outputs_too: bool) -> Result<ModelSignature> {
    let mut targets = targets.into_iter();
    let Some((first_name, mut first)) = targets.next() else {
        return Err(route.invalid("has no target; name at least one"));
    };
    for (name, other) in targets {
        let differs = |what: &str, a: &[TensorSpec], b: &[TensorSpec]| {
            Err(Error::new(
                ErrorCode::InvalidParameter,
                format!(
                    "route `{}` joins `{first_name}` with {what} {} and `{name}` with {}; group models of one signature",
                    route.name,
                    spell(a),
                    spell(b)
                ),
            ))
        };
        if other.batched != first.batched || !fits(&first.inputs, &other.inputs) {
            return differs("inputs", &first.inputs, &other.inputs);
        }
        if outputs_too && !fits(&first.outputs, &other.outputs) {
            return differs("outputs", &first.outputs, &other.outputs);
        }
        first.max_batch_size = first.max_batch_size.min(other.max_batch_size);
        first.max_rows = first.max_rows.min(other.max_rows);
        first.finite |= other.finite;
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
            return Ok(ModelSignature { outputs, ..same(route, targets, false)? });
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

    fn model(name: &str, inputs: usize, output: Datatype) -> ModelSignature {
        let spec =
            |name: String, datatype| TensorSpec { name: name.into(), datatype, shape: vec![-1], optional: false };
        ModelSignature {
            name: name.into(),
            version: "1".into(),
            digest: String::new(),
            state: ModelState::Ready,
            reason: String::new(),
            inputs: (0..inputs).map(|n| spec(format!("x{n}"), Datatype::Fp32)).collect(),
            outputs: vec![spec("y".into(), output)],
            batched: true,
            max_batch_size: inputs as u32 * 4,
            max_rows: 64,
            finite: false,
            default: false,
            labels: vec![],
            settings: serde_json::Map::new(),
        }
    }

    fn signature(route: serde_json::Value) -> Result<ModelSignature> {
        let models = [
            model("f", 1, Datatype::Fp32),
            model("g", 1, Datatype::Fp32),
            model("i", 1, Datatype::Int64),
            model("two", 2, Datatype::Fp32),
        ];
        let route: Route = serde_json::from_value(route).expect("a route");
        let table = Table::build([route.clone()])?;
        of_route(&table, &route, &models.iter().collect::<Vec<_>>())
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
        assert!(refused(fanout(&["f", "i"], "first")).contains("with outputs (y FP32[-1]) and `i` with (y INT64[-1])"));
        assert!(
            refused(fanout(&["f", "g"], "majority")).contains("output `y` (FP32) by majority, which takes integers")
        );
        assert!(refused(fanout(&["i"], "mean")).contains("output `y` (INT64) by mean, which takes FP32 and FP64"));
        let message = refused(serde_json::json!({"name": "r", "direct": "f/9"}));
        assert!(message.contains("names `f/9`, which no worker serves; ready: f/1, g/1"), "{message}");
        let weighted = serde_json::json!({"name": "r", "weighted": [
            {"target": "f", "percent": 50}, {"target": "i", "percent": 50}]});
        assert!(refused(weighted).contains("group models of one signature"));
    }
}
