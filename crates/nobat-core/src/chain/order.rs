//! Which step comes after which.

use std::collections::BTreeMap;

use smol_str::SmolStr;

use super::definition::{ChainDefinition, StepDefinition};
use super::draft::Draft;
use super::step::{Planned, refused};

/// What the maps alone show, before any model is there: a tensor written twice, and a cycle.
pub(super) fn check_maps(definition: &ChainDefinition) -> Planned<()> {
    let none = BTreeMap::new();
    let mut written: BTreeMap<&SmolStr, &StepDefinition> = BTreeMap::new();
    for step in &definition.steps {
        for tensor in step.outputs.as_ref().unwrap_or(&none).values() {
            if let Some(first) = written.insert(tensor, step) {
                return twice(tensor, &first.title(), step);
            }
        }
    }
    if definition.steps.iter().any(|step| step.inputs.is_none() || step.outputs.is_none()) {
        // What it takes or gives its model says.
        return Ok(());
    }
    let needs = |step: &StepDefinition| -> Vec<usize> {
        let from = |tensor: &SmolStr| {
            let writes = |other: &StepDefinition| other.outputs.iter().flatten().any(|(_, own)| own == tensor);
            definition.steps.iter().position(writes)
        };
        step.inputs.iter().flatten().filter_map(|(_, tensor)| from(tensor)).collect()
    };
    sorted(&definition.steps.iter().map(needs).collect::<Vec<_>>())
        .map(drop)
        .or_else(|left| cycle(&left.iter().map(|&at| &definition.steps[at]).collect::<Vec<_>>()))
}

/// The steps in an order in which each comes after those that it needs.
pub(super) fn order(drafts: &[Draft<'_>]) -> Planned<Vec<usize>> {
    let mut writers: BTreeMap<&SmolStr, usize> = BTreeMap::new();
    for (at, draft) in drafts.iter().enumerate() {
        for wire in &draft.outputs {
            if let Some(first) = writers.insert(&wire.tensor, at) {
                return twice(&wire.tensor, &drafts[first].written.title(), draft.written);
            }
        }
    }
    let needs: Vec<Vec<usize>> = drafts
        .iter()
        .map(|draft| draft.inputs.iter().filter_map(|wire| writers.get(&wire.tensor).copied()).collect())
        .collect();
    sorted(&needs).or_else(|left| cycle(&left.iter().map(|&at| drafts[at].written).collect::<Vec<_>>()))
}

/// Places in topological order, the earlier written first; the places that are left where
/// there is a cycle. `needs` has, by place, the places that come before.
///
/// # Complexity
/// O(n²) in steps.
fn sorted(needs: &[Vec<usize>]) -> std::result::Result<Vec<usize>, Vec<usize>> {
    let (mut order, mut done) = (Vec::with_capacity(needs.len()), vec![false; needs.len()]);
    while order.len() < needs.len() {
        let ready = (0..needs.len()).find(|&at| !done[at] && needs[at].iter().all(|&need| done[need]));
        let Some(at) = ready else {
            return Err((0..needs.len()).filter(|&at| !done[at]).collect());
        };
        done[at] = true;
        order.push(at);
    }
    Ok(order)
}

pub(super) fn twice<T>(tensor: &str, first: &str, second: &StepDefinition) -> Planned<T> {
    refused(format!("tensor `{tensor}` is written by {first} and by {}; give one another name", second.title()))
}

fn cycle<T>(left: &[&StepDefinition]) -> Planned<T> {
    let names: Vec<String> = left.iter().map(|step| format!("`{}`", step.name())).collect();
    refused(format!("steps {} wait for one another; a chain has no cycle", names.join(", ")))
}
