//! Callers' tensors: pictures in, answers out.

use nobat_core::tensor::{Datatype, Tensor, put_bytes_element, take_bytes_element};
use nobat_core::{Error, ErrorCode, Result};
use smallvec::smallvec;

/// The name of the one input.
pub(crate) const INPUT: &str = "image";

/// A job's encoded pictures.
///
/// # Errors
/// `invalid_tensor` when the input is missing or is no BYTES tensor of one axis.
pub(crate) fn pictures(inputs: &[Option<Tensor>]) -> Result<Vec<&[u8]>> {
    elements(inputs, INPUT, "encoded picture")
}

/// The elements of a job's only input, one of `what` each.
///
/// # Errors
/// `invalid_tensor` when the input is missing or is no BYTES tensor of one axis.
pub(crate) fn elements<'a>(inputs: &'a [Option<Tensor>], name: &str, what: &str) -> Result<Vec<&'a [u8]>> {
    let invalid = |message: String| Error::new(ErrorCode::InvalidTensor, message);
    let Some(Some(tensor)) = inputs.first() else {
        return Err(invalid(format!("input `{name}` is missing")));
    };
    if tensor.datatype != Datatype::Bytes || tensor.shape.len() != 1 {
        return Err(invalid(format!(
            "input `{name}` is {} {:?}; it takes BYTES [-1], one {what} for each row",
            tensor.datatype,
            tensor.shape.as_slice()
        )));
    }
    tensor.check()?;
    let mut rest = &tensor.data[..];
    Ok(std::iter::from_fn(|| take_bytes_element(&mut rest)).collect())
}

/// A BYTES output of one element for each row.
pub(crate) fn bytes<T: AsRef<[u8]>>(name: &str, elements: &[T]) -> Tensor {
    let mut data = Vec::with_capacity(elements.iter().map(|element| element.as_ref().len() + 4).sum());
    elements.iter().for_each(|element| put_bytes_element(&mut data, element.as_ref()));
    Tensor { name: name.into(), datatype: Datatype::Bytes, shape: smallvec![elements.len() as i64], data: data.into() }
}

/// A BYTES output of JSON for each row.
///
/// # Errors
/// `internal` when a value cannot be written.
pub(crate) fn json<T: serde::Serialize>(name: &str, rows: &[T]) -> Result<Tensor> {
    let written = rows.iter().map(|row| serde_json::to_vec(row).map_err(|error| Error::internal(error.to_string())));
    Ok(bytes(name, &written.collect::<Result<Vec<_>>>()?))
}

/// An FP32 output of `width` numbers for each row; of one axis without a width.
pub(crate) fn floats(name: &str, numbers: &[f32], width: Option<usize>) -> Tensor {
    let shape = match width {
        None => smallvec![numbers.len() as i64],
        Some(width) => smallvec![(numbers.len() / width.max(1)) as i64, width as i64],
    };
    let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    Tensor { name: name.into(), datatype: Datatype::Fp32, shape, data: data.into() }
}
