//! What every tensor of a chain holds, and which of them callers give and get.

use std::collections::BTreeMap;

use smol_str::SmolStr;

use super::definition::{ChainDefinition, Declared};
use super::draft::Draft;
use super::order::twice;
use super::step::{Planned, Wire, refused};
use crate::signature::TensorSpec;
use crate::tensor::Datatype;

/// What a tensor of the chain holds, and who says so.
#[derive(Clone)]
pub(super) struct Held {
    datatype: Datatype,
    shape: Vec<i64>,
    says: String,
    /// Whether every step that takes it can do without.
    optional: bool,
}

/// What every tensor holds. Whoever writes it says so; of one that callers give, its
/// declaration or the first step that takes it.
pub(super) fn types(
    definition: &ChainDefinition,
    drafts: &[Draft<'_>],
    order: &[usize],
) -> Planned<BTreeMap<SmolStr, Held>> {
    let mut types: BTreeMap<SmolStr, Held> = BTreeMap::new();
    for declared in &definition.inputs {
        if let Some((datatype, shape)) = &declared.holds {
            let held =
                Held { datatype: *datatype, shape: shape.clone(), says: "the chain's input".into(), optional: true };
            types.insert(declared.name.clone(), held);
        }
        let writer = drafts.iter().find(|draft| draft.outputs.iter().any(|wire| wire.tensor == declared.name));
        if let Some(writer) = writer {
            return twice(&declared.name, "callers", writer.written);
        }
    }
    for draft in order.iter().map(|&at| &drafts[at]) {
        for wire in &draft.inputs {
            let spec = &wire.spec;
            let own = Held {
                datatype: spec.datatype,
                shape: draft.seen(&spec.shape),
                says: draft.written.title(),
                optional: spec.optional,
            };
            match types.get_mut(&wire.tensor) {
                None => drop(types.insert(wire.tensor.clone(), own)),
                Some(held) => {
                    held.shape = meet(&wire.tensor, held, &own)?;
                    held.optional &= spec.optional;
                }
            }
        }
        for Wire { spec, tensor } in &draft.outputs {
            let (shape, says) = (draft.seen(&spec.shape), draft.written.title());
            types.insert(tensor.clone(), Held { datatype: spec.datatype, shape, says, optional: false });
        }
    }
    Ok(types)
}

/// The shape that suits both.
fn meet(tensor: &str, held: &Held, own: &Held) -> Planned<Vec<i64>> {
    let same = |(&one, &other): (&i64, &i64)| one == other || one < 0 || other < 0;
    if held.datatype != own.datatype
        || held.shape.len() != own.shape.len()
        || !held.shape.iter().zip(&own.shape).all(same)
    {
        return refused(format!(
            "tensor `{tensor}` is {} {:?} by {} and {} {:?} by {}; put a step between them, or map another tensor",
            held.datatype, held.shape, held.says, own.datatype, own.shape, own.says
        ));
    }
    Ok(held.shape.iter().zip(&own.shape).map(|(&one, &other)| if one < 0 { other } else { one }).collect())
}

/// What callers give: the declared tensors in their order, else what no step writes.
pub(super) fn inputs(
    definition: &ChainDefinition,
    drafts: &[Draft<'_>],
    types: &BTreeMap<SmolStr, Held>,
) -> Planned<Vec<TensorSpec>> {
    let written = |tensor: &SmolStr| drafts.iter().any(|draft| draft.outputs.iter().any(|wire| wire.tensor == *tensor));
    let mut names: Vec<SmolStr> = definition.inputs.iter().map(|declared| declared.name.clone()).collect();
    let declares = !names.is_empty();
    for draft in drafts {
        for wire in draft.inputs.iter().filter(|wire| !written(&wire.tensor)) {
            let tensor = &wire.tensor;
            if names.contains(tensor) {
                continue;
            }
            if declares {
                return refused(format!(
                    "{} takes tensor `{tensor}`, which is no input of the chain and no output of a step; add it to one",
                    draft.written.title()
                ));
            }
            names.push(tensor.clone());
        }
    }
    let taken = |name: &SmolStr| drafts.iter().any(|draft| draft.inputs.iter().any(|wire| wire.tensor == *name));
    if let Some(unused) = names.iter().find(|name| !taken(name)) {
        return refused(format!("input `{unused}` goes into no step; map it to one, or remove it"));
    }
    if names.is_empty() {
        return refused("callers give it nothing: every tensor is written by a step".into());
    }
    Ok(names.iter().filter_map(|name| types.get(name).map(|held| held.spec(name))).collect())
}

/// What callers get: the declared tensors in their order, else those that no step takes.
pub(super) fn outputs(
    definition: &ChainDefinition,
    drafts: &[Draft<'_>],
    types: &BTreeMap<SmolStr, Held>,
) -> Planned<Vec<TensorSpec>> {
    let written = || drafts.iter().flat_map(|draft| draft.outputs.iter().map(|wire| &wire.tensor));
    let mut outputs: Vec<TensorSpec> = Vec::new();
    for Declared { name, holds } in &definition.outputs {
        if !written().any(|tensor| tensor == name) {
            return refused(format!("output `{name}` is written by no step; map a step's output to it"));
        }
        if outputs.iter().any(|earlier| earlier.name == *name) {
            return refused(format!("output `{name}` is named twice"));
        }
        let Some(held) = types.get(name) else { continue };
        let mut spec = held.spec(name);
        if let Some((datatype, shape)) = holds {
            let says = "the chain's output".to_owned();
            let own = Held { datatype: *datatype, shape: shape.clone(), says, optional: false };
            spec.shape = meet(name, held, &own)?;
        }
        outputs.push(spec);
    }
    if outputs.is_empty() {
        let taken =
            |tensor: &SmolStr| drafts.iter().any(|draft| draft.inputs.iter().any(|wire| wire.tensor == *tensor));
        let left = written().filter(|tensor| !taken(tensor));
        outputs.extend(left.filter_map(|name| types.get(name).map(|held| held.spec(name))));
    }
    match outputs.is_empty() {
        true => refused("callers get nothing: every tensor goes into a step; name some in `outputs`".into()),
        false => Ok(outputs),
    }
}

impl Held {
    fn spec(&self, name: &SmolStr) -> TensorSpec {
        let (datatype, shape) = (self.datatype, self.shape.clone());
        TensorSpec { name: name.clone(), datatype, shape, optional: self.optional }
    }
}
