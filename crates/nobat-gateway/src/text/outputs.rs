//! A task's outputs, looked up by name.

use nobat_core::json::encode;
use nobat_core::tensor::{Datatype, Tensor, take_bytes_element};
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::Prediction;

/// An output of one row each, `datatype` as the task says.
///
/// # Errors
/// `invalid_worker_result` naming what is missing.
pub(crate) fn output<'a>(prediction: &'a Prediction, name: &str, datatype: Datatype) -> Result<&'a Tensor> {
    let found = prediction.response.outputs.iter().find(|tensor| tensor.name == name);
    found.filter(|tensor| tensor.datatype == datatype && !tensor.shape.is_empty()).ok_or_else(|| {
        Error::new(ErrorCode::InvalidWorkerResult, format!("the worker's answer lacks output `{name}` of {datatype}"))
    })
}

/// The rows of a float output, as bytes of little-endian floats.
///
/// # Errors
/// As [`output`].
pub(crate) fn float_rows<'a>(prediction: &'a Prediction, name: &str) -> Result<std::slice::ChunksExact<'a, u8>> {
    let tensor = output(prediction, name, Datatype::Fp32)?;
    let width: usize = tensor.shape.iter().skip(1).map(|&dim| dim as usize).product();
    Ok(tensor.data.chunks_exact((4 * width).max(4)))
}

/// The rows of an output of texts.
///
/// # Errors
/// As [`output`].
pub(crate) fn texts<'a>(prediction: &'a Prediction, name: &str) -> Result<Vec<&'a str>> {
    let tensor = output(prediction, name, Datatype::Bytes)?;
    let mut rest = &tensor.data[..];
    let elements = std::iter::from_fn(|| take_bytes_element(&mut rest));
    elements
        .map(|element| std::str::from_utf8(element))
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| Error::new(ErrorCode::InvalidWorkerResult, format!("the worker's output `{name}` is not UTF-8")))
}

/// The floats of one row.
pub(crate) fn floats(row: &[u8]) -> impl Iterator<Item = f32> + '_ {
    row.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))
}

/// A row of floats as a JSON list.
pub(crate) fn list(out: &mut Vec<u8>, row: &[u8]) {
    out.push(b'[');
    for (at, value) in floats(row).enumerate() {
        if at > 0 {
            out.push(b',');
        }
        encode::float(out, value);
    }
    out.push(b']');
}

/// Tokens that a prediction's texts had.
pub(crate) fn tokens(prediction: &Prediction) -> u64 {
    nobat_serving::tokens::of(&prediction.response)
}
