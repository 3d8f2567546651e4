//! Which outputs a request asks for, and the answer's tensors in that order.

use nobat_core::infer::InferResponse;
use nobat_core::signature::ModelSignature;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::{Error, ErrorCode, Result, clip};
use smol_str::SmolStr;

use super::classification::classify;
use super::parameters::OutputParameters;

/// One output that a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Requested {
    pub name: SmolStr,
    pub parameters: OutputParameters,
}

/// The names to put into the job; empty for all.
///
/// # Errors
/// `invalid_parameter` when a name is asked for twice.
pub(crate) fn names(requested: &[Requested]) -> Result<Vec<SmolStr>> {
    let mut names: Vec<SmolStr> = Vec::with_capacity(requested.len());
    for output in requested {
        if names.contains(&output.name) {
            return Err(Error::new(
                ErrorCode::InvalidParameter,
                format!("output `{}` is asked for twice", clip(&output.name)),
            ));
        }
        names.push(output.name.clone());
    }
    Ok(names)
}

/// Refuses, before the job runs, outputs that JSON would have to carry and
/// cannot: half-precision floats that are not asked for in binary.
///
/// # Errors
/// `invalid_parameter` naming the output.
pub(crate) fn check_json_can_carry(
    signature: &ModelSignature,
    requested: &[Requested],
    all_binary: bool,
) -> Result<()> {
    for spec in &signature.outputs {
        let parameters = match requested.iter().find(|wanted| wanted.name == spec.name) {
            Some(wanted) => wanted.parameters,
            None if requested.is_empty() => OutputParameters::default(),
            None => continue,
        };
        let half = matches!(spec.datatype, Datatype::Fp16 | Datatype::Bf16);
        if half && parameters.classification == 0 && !parameters.binary_data.unwrap_or(all_binary) {
            return Err(Error::new(
                ErrorCode::InvalidParameter,
                format!(
                    "output `{}` is {}, which JSON cannot carry; ask for it with `binary_data`",
                    spec.name, spec.datatype
                ),
            ));
        }
    }
    Ok(())
}

/// One tensor of an answer and whether its request wants it in binary.
pub(crate) struct Output {
    pub tensor: Tensor,
    pub binary: Option<bool>,
}

/// The answer's tensors: those asked for, in that order, as classes where
/// asked; all of them when none is named.
///
/// # Errors
/// `invalid_worker_result` when the answer lacks one; `invalid_parameter` for a
/// classification of what has no order.
pub(crate) fn select(
    response: InferResponse,
    requested: &[Requested],
    signature: &ModelSignature,
) -> Result<Vec<Output>> {
    if requested.is_empty() {
        return Ok(response.outputs.into_iter().map(|tensor| Output { tensor, binary: None }).collect());
    }
    let mut outputs = Vec::with_capacity(requested.len());
    for wanted in requested {
        let tensor = response.outputs.iter().find(|tensor| tensor.name == wanted.name).ok_or_else(|| {
            Error::new(ErrorCode::InvalidWorkerResult, format!("the answer has no output `{}`", wanted.name))
        })?;
        let tensor = match wanted.parameters.classification {
            0 => tensor.clone(),
            best => classify(tensor, best, signature.batched, &signature.class_labels(&wanted.name))?,
        };
        outputs.push(Output { tensor, binary: wanted.parameters.binary_data });
    }
    Ok(outputs)
}
