//! A chain's steps with what their models and functions take and give.

use std::collections::BTreeMap;

use smol_str::SmolStr;

use super::definition::StepDefinition;
use super::function::Function;
use super::step::{PlanError, Planned, Step, StepWork, Wire, refused};
use crate::signature::{ModelSignature, TensorSpec};

/// What is known of a chain's steps.
pub trait Known {
    /// The signature of a ready version of a model; empty asks for the default.
    fn model(&self, name: &str, version: &str) -> Option<ModelSignature>;
}

/// A step with its tensors.
pub(super) struct Draft<'a> {
    pub(super) written: &'a StepDefinition,
    pub(super) at: usize,
    pub(super) inputs: Vec<Wire>,
    pub(super) outputs: Vec<Wire>,
    pub(super) by_rows: bool,
    pub(super) signature: Option<ModelSignature>,
}

/// The steps with the specs of their tensors.
pub(super) fn drafts<'a>(name: &str, steps: &'a [StepDefinition], known: &dyn Known) -> Planned<Vec<Draft<'a>>> {
    let (mut drafts, mut missing) = (Vec::new(), Vec::new());
    for (at, written) in steps.iter().enumerate() {
        let (signature, specs) = match (&written.model, &written.function) {
            (Some(model), _) => match known.model(model, &written.version) {
                Some(signature) => {
                    let specs = (signature.inputs.clone(), signature.outputs.clone());
                    (Some(signature), specs)
                }
                None if written.version.is_empty() => {
                    missing.push(format!("model `{model}`"));
                    continue;
                }
                None => {
                    missing.push(format!("version `{}` of model `{model}`", written.version));
                    continue;
                }
            },
            _ => (None, function(written)?.specs()),
        };
        if let Some(signature) = signature.as_ref().filter(|own| runs(own, name)) {
            return refused(format!(
                "{} is a chain that runs `{name}` itself; a chain has no cycle",
                named_model(written, signature)
            ));
        }
        let inputs = wires(written, &written.inputs, &specs.0, "input")?;
        if let Some(unmapped) = specs.0.iter().find(|spec| !spec.optional && !has(&inputs, &spec.name)) {
            let title = written.title();
            return refused(format!("{title} needs input `{}`; map a tensor to it in `inputs`", unmapped.name));
        }
        let outputs = wires(written, &written.outputs, &specs.1, "output")?;
        let one_row = |wire: &Wire| matches!(wire.spec.shape.first(), Some(1 | -1));
        if let Some(wire) = inputs.iter().chain(&outputs).find(|wire| written.each && !one_row(wire)) {
            return refused(format!(
                "{} has `each`, and `{}` is of shape {:?}, which is not one row; leave `each` out",
                written.title(),
                wire.spec.name,
                wire.spec.shape
            ));
        }
        let by_rows = written.each || signature.as_ref().is_some_and(|own| own.batched);
        drafts.push(Draft { written, at, inputs, outputs, by_rows, signature });
    }
    match missing.is_empty() {
        true => Ok(drafts),
        false => Err(PlanError::Waits(format!("waits for {}, which no worker has ready", missing.join(" and ")))),
    }
}

/// The function of a step, with its settings.
pub(super) fn function(step: &StepDefinition) -> Planned<Function> {
    Function::of(step).map_err(|why| PlanError::Refused(format!("{}: {why}", step.title())))
}

fn named_model(step: &StepDefinition, signature: &ModelSignature) -> String {
    format!("step `{}` (model `{}`)", step.name(), signature.name)
}

/// Whether a chain's signature says that it runs `name`, by itself or by its steps.
fn runs(signature: &ModelSignature, name: &str) -> bool {
    signature.runs().any(|own| own == name)
}

fn has(wires: &[Wire], name: &str) -> bool {
    wires.iter().any(|wire| wire.spec.name == name)
}

fn wires(
    step: &StepDefinition,
    map: &Option<BTreeMap<SmolStr, SmolStr>>,
    specs: &[TensorSpec],
    what: &str,
) -> Planned<Vec<Wire>> {
    let Some(map) = map else {
        return Ok(specs.iter().map(|spec| Wire { tensor: spec.name.clone(), spec: spec.clone() }).collect());
    };
    if let Some(unknown) = map.keys().find(|name| !specs.iter().any(|spec| spec.name == **name)) {
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        return refused(format!("{} has no {what} `{unknown}`; {what}s: {}", step.title(), names.join(", ")));
    }
    let mapped =
        specs.iter().filter_map(|spec| Some(Wire { tensor: map.get(&spec.name)?.clone(), spec: spec.clone() }));
    Ok(mapped.collect())
}

impl Draft<'_> {
    /// A shape of the step as the chain sees it: one that runs for each row has any number of them.
    pub(super) fn seen(&self, shape: &[i64]) -> Vec<i64> {
        let mut seen = shape.to_vec();
        if let Some(first) = seen.first_mut().filter(|_| self.written.each) {
            *first = -1;
        }
        seen
    }

    pub(super) fn step(self) -> Step {
        let Draft { written, at, inputs, outputs, by_rows, signature } = self;
        let work = match (&written.model, &written.function) {
            (Some(name), _) => StepWork::Model { name: name.clone(), version: written.version.clone() },
            (None, function) => StepWork::Function { name: function.clone().unwrap_or_default(), at },
        };
        let max_rows = if written.each { 1 } else { signature.map_or(1, |own| own.max_rows) };
        Step { name: written.name().into(), work, inputs, outputs, by_rows, max_rows }
    }
}
