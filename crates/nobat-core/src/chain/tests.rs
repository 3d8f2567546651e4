use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use smol_str::SmolStr;

use super::*;
use crate::signature::{ModelSignature, TensorSpec};
use crate::tensor::Datatype;

/// Models by name.
#[derive(Default)]
struct Models(BTreeMap<SmolStr, ModelSignature>);

fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: shape.to_vec(), optional: false }
}

fn signature(name: &str, inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> ModelSignature {
    let signature = json!({
        "name": name, "version": "1", "digest": "d", "inputs": inputs, "outputs": outputs, "batched": true,
        "max_batch_size": 8, "max_rows": 64,
    });
    serde_json::from_value(signature).expect("a signature")
}

impl Models {
    /// Models that take `x` and give `y`, four numbers a row.
    fn of(names: &[&str]) -> Models {
        let mut models = Models::default();
        names.iter().for_each(|name| models.add(name, Datatype::Fp32, &[-1, 4]));
        models
    }

    fn add(&mut self, name: &str, datatype: Datatype, shape: &[i64]) {
        let own = signature(name, vec![spec("x", datatype, shape)], vec![spec("y", datatype, shape)]);
        self.0.insert(name.into(), own);
    }
}

impl Known for Models {
    fn model(&self, name: &str, version: &str) -> Option<ModelSignature> {
        self.0.get(name).filter(|own| version.is_empty() || own.version == version).cloned()
    }
}

fn definition(text: serde_json::Value) -> ChainDefinition {
    serde_json::from_value(text).expect("a definition")
}

fn step(model: &str, from: &str, to: &str) -> serde_json::Value {
    json!({ "model": model, "inputs": { "x": from }, "outputs": { "y": to } })
}

fn planned(steps: Vec<serde_json::Value>) -> Result<Chain, PlanError> {
    plan("chain", &definition(json!({ "steps": steps })), &Models::of(&["a", "b", "c"]))
}

fn refusal(steps: Vec<serde_json::Value>) -> String {
    match planned(steps) {
        Err(PlanError::Refused(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn steps_are_ordered_by_what_they_need_whatever_the_files_order() {
    let chain = planned(vec![step("c", "q", "r"), step("a", "image", "p"), step("b", "p", "q")]).expect("a chain");
    let names: Vec<&str> = chain.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(chain.inputs, [spec("image", Datatype::Fp32, &[-1, 4])]);
    assert_eq!(chain.outputs, [spec("r", Datatype::Fp32, &[-1, 4])]);
    assert!(chain.batched);
    assert_eq!((chain.max_rows, chain.max_batch_size, chain.max_in_flight), (64, 8, 64));
}

#[test]
fn a_chain_branches_and_joins_and_names_what_callers_get() {
    let chain = definition(json!({
        "steps": [step("a", "x", "left"), step("b", "x", "right"), { "use": "picture", "outputs": { "pixels": "pixels" } }],
        "outputs": ["right", "pixels", "left"],
    }));
    let chain = plan("chain", &chain, &Models::of(&["a", "b"])).expect("a chain");
    let names: Vec<&str> = chain.outputs.iter().map(|spec| spec.name.as_str()).collect();
    assert_eq!(names, ["right", "pixels", "left"]);
    assert_eq!(chain.inputs.len(), 2);
    assert!(!chain.batched && chain.max_rows == 1, "a function may change the rows");
}

#[test]
fn maps_that_are_left_out_keep_the_steps_own_names() {
    let chain = planned(vec![json!({ "model": "a" }), step("b", "y", "z")]).expect("a chain");
    assert_eq!((chain.inputs[0].name.as_str(), chain.outputs[0].name.as_str()), ("x", "z"));
}

#[test]
fn each_misfit_is_refused_with_step_tensor_and_remedy() {
    let cases = [
        (vec![step("a", "r", "p"), step("b", "p", "r")], "steps `a`, `b` wait for one another"),
        (
            vec![step("a", "x", "p"), step("b", "x", "p")],
            "tensor `p` is written by step `a` (model `a`) and by step `b` (model `b`)",
        ),
        (vec![json!({ "model": "a", "inputs": {} })], "step `a` (model `a`) needs input `x`; map a tensor"),
        (vec![json!({ "model": "a", "inputs": { "x": "x", "z": "z" } })], "has no input `z`; inputs: x"),
        (vec![json!({ "model": "a", "outputs": { "z": "z" } })], "has no output `z`; outputs: y"),
        (vec![step("chain", "x", "y")], "step `chain` (model `chain`) is the chain itself"),
        (vec![step("a", "x", "y"), step("a", "y", "z")], "two steps are called `a`"),
        (vec![json!({ "name": "s" })], "needs `model` or `use`"),
        (vec![json!({ "use": "half" })], "step `half` (function `half`): there is no function `half`; functions: crop"),
        (
            vec![json!({ "name": "cut", "use": "crop", "settings": { "turn_above": -1 } })],
            "step `cut` (function `crop`): setting `turn_above` is `-1`; it can be more than 0",
        ),
        (vec![json!({ "use": "crop", "version": "2" })], "has version `2`, which is for models"),
        (
            vec![json!({ "model": "a", "settings": { "threshold": 1 } })],
            "has settings (threshold), which are for functions",
        ),
        (vec![json!({ "name": "", "model": "a" })], "step 0 has an empty name"),
        (vec![step("a", "x", "")], "step `a` (model `a`) maps `y` to a tensor without a name"),
        (vec![], "1 to 256 steps"),
    ];
    for (steps, says) in cases {
        let message = refusal(steps);
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn a_chain_that_carries_out_nothing_is_refused() {
    let definition = json!({ "steps": [step("a", "x", "y")], "max_in_flight": 0 });
    let definition: ChainDefinition = serde_json::from_value(definition).expect("a definition");
    let refused = check("chain", &definition).expect_err("none at once").to_string();
    assert!(refused.contains("max_in_flight is 0"), "{refused}");
}

#[test]
fn datatypes_and_shapes_that_do_not_fit_name_both() {
    let mut models = Models::of(&["a"]);
    models.add("whole", Datatype::Int64, &[-1, 4]);
    models.add("wide", Datatype::Fp32, &[-1, 5]);
    models.add("deep", Datatype::Fp32, &[-1, 4, 1]);
    for (model, says) in [("whole", "INT64 [-1, 4]"), ("wide", "FP32 [-1, 5]"), ("deep", "FP32 [-1, 4, 1]")] {
        let chain = definition(json!({ "steps": [step("a", "x", "p"), step(model, "p", "q")] }));
        let Err(PlanError::Refused(message)) = plan("chain", &chain, &models) else { panic!("{model} fits") };
        let both = format!("tensor `p` is FP32 [-1, 4] by step `a` (model `a`) and {says} by step `{model}`");
        assert!(message.contains(&both), "{message}");
    }
}

#[test]
fn what_is_declared_is_held_against_the_steps() {
    let declared =
        |name: &str, datatype, shape: &[i64]| Declared { name: name.into(), holds: Some((datatype, shape.to_vec())) };
    let chain = |inputs, outputs, max_rows| {
        let own = definition(json!({ "steps": [step("a", "in", "out")] }));
        plan("chain", &ChainDefinition { inputs, outputs, max_rows, ..own }, &Models::of(&["a"]))
    };
    let fits = || vec![declared("in", Datatype::Fp32, &[-1, -1])];
    let found = chain(fits(), vec![declared("out", Datatype::Fp32, &[-1, 4])], Some(64)).expect("a chain");
    assert_eq!((found.inputs[0].shape.as_slice(), found.max_rows), (&[-1, 4][..], 64));
    for (outcome, says) in [
        (chain(vec![declared("in", Datatype::Int8, &[-1, 4])], vec![], None), "INT8 [-1, 4] by the chain's input"),
        (chain(fits(), vec![declared("out", Datatype::Fp32, &[-1, 3])], None), "by the chain's output"),
        (chain(fits(), vec![declared("none", Datatype::Fp32, &[-1])], None), "output `none` is written by no step"),
        (
            chain(vec![declared("other", Datatype::Fp32, &[-1, 4])], vec![], None),
            "takes tensor `in`, which is no input",
        ),
        (
            chain(vec![declared("in", Datatype::Fp32, &[-1, 4]), declared("b", Datatype::Fp32, &[1])], vec![], None),
            "input `b` goes into no step",
        ),
        (chain(fits(), vec![], Some(65)), "max_batch_size is 65 and step `a` (model `a`) takes 64 rows"),
    ] {
        let message = outcome.expect_err(says).to_string();
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn a_chain_waits_for_models_that_are_not_ready_and_names_them() {
    let waits = planned(vec![step("a", "x", "p"), step("gone", "p", "q"), json!({ "model": "b", "version": "7" })]);
    let expected = "waits for model `gone` and version `7` of model `b`, which no worker has ready";
    assert_eq!(waits, Err(PlanError::Waits(expected.into())));
    // What the file alone shows is said at once.
    let both = vec![step("gone", "q", "p"), step("a", "p", "q")];
    assert!(refusal(both).contains("wait for one another"));
}

#[test]
fn a_chain_of_chains_has_no_cycle_either() {
    let mut models = Models::of(&["a", "inner"]);
    let inner = models.0.get_mut("inner").expect("added");
    inner.settings.insert("chain".into(), json!({ "models": ["a", "chain"] }));
    let outer = definition(json!({ "steps": [step("inner", "x", "y")] }));
    let message = plan("chain", &outer, &models).expect_err("a cycle").to_string();
    assert!(message.contains("`inner`) is a chain that runs `chain` itself"), "{message}");
    assert!(plan("other", &outer, &models).is_ok());
}

#[test]
fn a_step_for_each_row_takes_any_number_of_them() {
    let mut models = Models::of(&["a"]);
    models.add("one", Datatype::Fp32, &[1, 4]);
    models.0.get_mut("one").expect("added").batched = false;
    let chain = |each: bool| {
        let one = json!({ "model": "one", "inputs": { "x": "p" }, "outputs": { "y": "q" }, "each": each });
        plan("chain", &definition(json!({ "steps": [step("a", "x", "p"), one] })), &models).expect("a chain")
    };
    assert_eq!(chain(true).outputs[0].shape, [-1, 4]);
    assert_eq!((chain(true).steps[1].by_rows, chain(true).steps[1].max_rows), (true, 1));
    assert_eq!(chain(false).outputs[0].shape, [1, 4]);
}

proptest! {
    /// Whatever the order of a chain's steps in its file, each comes after what it needs.
    #[test]
    fn any_chain_without_a_cycle_is_ordered(
        needs in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..3), 1..12),
        shuffle in any::<u64>(),
    ) {
        let name = |at: usize| format!("s{at}");
        let mut models = Models::default();
        let mut steps = Vec::new();
        for (at, own) in needs.iter().enumerate() {
            let mut from: Vec<String> =
                own.iter().map(|index| index.index(at + 1)).map(|need| if need == at { "in".into() } else { name(need) }).collect();
            if from.is_empty() {
                from.push("in".into());
            }
            let inputs = (0..from.len()).map(|at| spec(&format!("x{at}"), Datatype::Fp32, &[-1, 2])).collect();
            let outputs = vec![spec("y", Datatype::Fp32, &[-1, 2])];
            models.0.insert(name(at).into(), signature(&name(at), inputs, outputs));
            let inputs: serde_json::Map<_, _> =
                from.into_iter().enumerate().map(|(at, from)| (format!("x{at}"), from.into())).collect();
            steps.push(json!({ "model": name(at), "inputs": inputs, "outputs": { "y": name(at) } }));
        }
        let mut seed = shuffle | 1;
        for at in (1..steps.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            steps.swap(at, (seed >> 33) as usize % (at + 1));
        }
        let count = steps.len();
        let chain = plan("chain", &definition(json!({ "steps": steps })), &models).expect("a chain");
        prop_assert_eq!(chain.steps.len(), count);
        let mut there = vec![SmolStr::from("in")];
        for step in &chain.steps {
            for wire in &step.inputs {
                prop_assert!(there.contains(&wire.tensor), "{} runs before {}", step.name, wire.tensor);
            }
            there.extend(step.outputs.iter().map(|wire| wire.tensor.clone()));
        }
        for output in &chain.outputs {
            prop_assert!(there.contains(&output.name));
        }
    }

    /// A cycle through any number of steps is refused, and only its steps and those after it are named.
    #[test]
    fn any_cycle_is_refused(length in 2usize..8) {
        let mut models = Models::default();
        let steps: Vec<_> = (0..length).map(|at| {
            models.add(&format!("s{at}"), Datatype::Fp32, &[-1, 4]);
            step(&format!("s{at}"), &format!("t{at}"), &format!("t{}", (at + 1) % length))
        }).collect();
        let outcome = plan("chain", &definition(json!({ "steps": steps })), &models);
        let Err(PlanError::Refused(message)) = outcome else { panic!("{outcome:?}") };
        prop_assert!(message.contains("a chain has no cycle") && message.contains("`s0`"));
    }
}
