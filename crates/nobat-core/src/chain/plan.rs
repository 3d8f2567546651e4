//! Checks a chain against the signatures of its steps and puts the steps in order.
//!
//! Invariants of a [`Chain`]:
//! - Every tensor is written once: by a caller, or by one step.
//! - A step stands after all steps whose outputs it takes.
//! - What a step takes has the datatype that it asks for, and a shape that can fit.

use std::collections::BTreeSet;

use super::definition::{ChainDefinition, StepDefinition};
use super::draft::{Draft, Known, drafts, function};
use super::order::{check_maps, order};
use super::step::{Chain, PlanError, Planned, refused};
use super::tensors::{inputs, outputs, types};
use crate::error::clip;
use crate::signature::ModelSignature;

/// Most steps of a chain.
const MAX_STEPS: usize = 256;

/// Checks of the chain `name` what can be seen without any model.
///
/// # Errors
/// [`PlanError::Refused`] naming the step, the tensor and what does not fit.
pub fn check(name: &str, definition: &ChainDefinition) -> Result<(), PlanError> {
    check_steps(name, &definition.steps)?;
    if definition.max_in_flight == 0 {
        return refused(
            "max_in_flight is 0, with which no request is carried out; give 1 or more, or leave it out".into(),
        );
    }
    check_maps(definition)
}

/// Checks the chain `name` and puts its steps in order.
///
/// # Errors
/// [`PlanError::Waits`] naming the models that are not ready anywhere;
/// [`PlanError::Refused`] naming the step, the tensor and what does not fit.
pub fn plan(name: &str, definition: &ChainDefinition, known: &dyn Known) -> Result<Chain, PlanError> {
    check(name, definition)?;
    let written = &definition.steps;
    let drafts = drafts(name, written, known)?;
    let order = order(&drafts)?;
    let types = types(definition, &drafts, &order)?;
    let inputs = inputs(definition, &drafts, &types)?;
    let outputs = outputs(definition, &drafts, &types)?;
    let batched = drafts.iter().all(|draft| draft.signature.as_ref().is_some_and(|own| own.batched));
    let of_models = |field: fn(&ModelSignature) -> u32| {
        drafts.iter().filter_map(|draft| draft.signature.as_ref().map(field)).min().unwrap_or(1)
    };
    let (most, max_batch_size) = (of_models(|own| own.max_rows), of_models(|own| own.max_batch_size));
    if let Some(declared) = definition.max_rows.filter(|&declared| batched && declared > most) {
        let tight = drafts.iter().find(|draft| draft.signature.as_ref().is_some_and(|own| own.max_rows == most));
        let title = tight.map(|draft| draft.written.title()).unwrap_or_default();
        return refused(format!(
            "max_batch_size is {declared} and {title} takes {most} rows in a request; lower it, or raise the model's batching.max_rows"
        ));
    }
    let doubtful = drafts.iter().filter_map(|draft| draft.signature.as_ref()).max_by_key(|own| own.rows.verdict as u8);
    let rows = doubtful.map(|own| own.rows.clone()).unwrap_or_default();
    let mut drafts: Vec<Option<Draft<'_>>> = drafts.into_iter().map(Some).collect();
    let steps = order.into_iter().filter_map(|at| drafts[at].take()).map(Draft::step).collect();
    Ok(Chain {
        steps,
        inputs,
        outputs,
        batched,
        rows,
        max_rows: if batched { definition.max_rows.unwrap_or(most) } else { 1 },
        max_batch_size: if batched { max_batch_size } else { 1 },
        max_in_flight: definition.max_in_flight,
    })
}

/// What can be wrong with a step by itself.
fn check_steps(name: &str, steps: &[StepDefinition]) -> Planned<()> {
    if steps.is_empty() || steps.len() > MAX_STEPS {
        return refused(format!("a chain has 1 to {MAX_STEPS} steps, and this one has {}", steps.len()));
    }
    let mut names = BTreeSet::new();
    for (at, step) in steps.iter().enumerate() {
        match (&step.model, &step.function) {
            (Some(model), None) if model == name => {
                return refused(format!("{} is the chain itself; name another model", step.title()));
            }
            (Some(_), None) if !step.settings.is_empty() => {
                let keys: Vec<&str> = step.settings.keys().map(|key| clip(key)).collect();
                return refused(format!(
                    "{} has settings ({}), which are for functions; set them at the model, or leave them out",
                    step.title(),
                    keys.join(", ")
                ));
            }
            (Some(_), None) => {}
            (None, Some(_)) if step.each => {
                return refused(format!("{} has `each`, which is for models; leave it out", step.title()));
            }
            (None, Some(_)) if !step.version.is_empty() => {
                return refused(format!(
                    "{} has version `{}`, which is for models; leave it out",
                    step.title(),
                    clip(&step.version)
                ));
            }
            (None, Some(_)) => drop(function(step)?),
            _ => return refused(format!("step {at} needs `model` or `use`, and not both")),
        }
        if step.name().is_empty() {
            return refused(format!("step {at} has an empty name; name its model, or give it a `name`"));
        }
        let mut wires = [&step.inputs, &step.outputs].into_iter().flatten().flatten();
        if let Some((own, _)) = wires.find(|(_, tensor)| tensor.is_empty()) {
            return refused(format!("{} maps `{own}` to a tensor without a name; give it one", step.title()));
        }
        if !names.insert(step.name()) {
            return refused(format!("two steps are called `{}`; give each a `name` of its own", step.name()));
        }
    }
    Ok(())
}
