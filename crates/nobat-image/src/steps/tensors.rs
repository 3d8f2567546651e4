//! What functions read of tensors and make of them.

use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::{Error, ErrorCode, Result};

pub(super) fn tensor(name: &str, datatype: Datatype, shape: &[i64], data: Vec<u8>) -> Tensor {
    Tensor { name: name.into(), datatype, shape: shape.into(), data: data.into() }
}

pub(super) fn floats(name: &str, shape: &[i64], values: &[f32]) -> Tensor {
    tensor(name, Datatype::Fp32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

pub(super) fn as_floats(tensor: &Tensor) -> Vec<f32> {
    tensor.data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// An input by its place, of the datatype and the rank that were asked for.
pub(super) fn input<'a>(inputs: &'a [Option<Tensor>], at: usize, own: &TensorSpec) -> Result<&'a Tensor> {
    let Some(tensor) = inputs.get(at).and_then(Option::as_ref) else {
        return Err(invalid(format!("input `{}` is missing", own.name)));
    };
    if tensor.datatype != own.datatype || tensor.shape.len() != own.shape.len() {
        return Err(invalid(format!(
            "input `{}` is {} {:?} and {} {:?} is needed",
            own.name,
            tensor.datatype,
            tensor.shape.as_slice(),
            own.datatype,
            own.shape
        )));
    }
    tensor.check()?;
    Ok(tensor)
}

pub(super) fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidTensor, message)
}
