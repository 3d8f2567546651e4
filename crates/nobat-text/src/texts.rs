//! Callers' tensors: BYTES in as texts, lists and ids; results out.

use nobat_core::tensor::{Datatype, Tensor, put_bytes_element, take_bytes_element};
use nobat_core::{Error, ErrorCode, Result, clip};
use smallvec::smallvec;

/// An input's elements.
///
/// # Errors
/// `invalid_tensor` when it is no BYTES tensor of one axis.
pub(crate) fn elements(tensor: &Tensor) -> Result<Vec<&[u8]>> {
    if tensor.datatype != Datatype::Bytes || tensor.shape.len() != 1 {
        return Err(Error::new(
            ErrorCode::InvalidTensor,
            format!(
                "input `{}` is {} {:?}; it takes BYTES [-1], one text for each row",
                tensor.name,
                tensor.datatype,
                tensor.shape.as_slice()
            ),
        ));
    }
    tensor.check()?;
    let mut rest = &tensor.data[..];
    let mut all = Vec::with_capacity(tensor.elements()?);
    while let Some(element) = take_bytes_element(&mut rest) {
        all.push(element);
    }
    Ok(all)
}

/// An element as a text.
///
/// # Errors
/// `invalid_tensor` where it is not UTF-8, naming the text and the place.
pub(crate) fn text<'a>(name: &str, at: usize, element: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(element).map_err(|error| {
        Error::new(
            ErrorCode::InvalidTensor,
            format!(
                "element {at} of input `{name}` is not UTF-8: byte {} is {:#04x}; encode the text as UTF-8",
                error.valid_up_to(),
                element.get(error.valid_up_to()).copied().unwrap_or(0)
            ),
        )
    })
}

/// An element as a JSON list of token ids.
///
/// # Errors
/// `invalid_tensor`, naming the element and what it takes.
pub(crate) fn ids(name: &str, at: usize, element: &[u8]) -> Result<Vec<u32>> {
    list(name, at, element, "token ids, such as [101, 102]")
}

/// An element as a JSON list of labels.
///
/// # Errors
/// `invalid_tensor`, naming the element and what it takes.
pub(crate) fn labels(name: &str, at: usize, element: &[u8]) -> Result<Vec<String>> {
    list(name, at, element, "labels, such as [\"sports\", \"politics\"]")
}

fn list<T: serde::de::DeserializeOwned>(name: &str, at: usize, element: &[u8], of: &str) -> Result<Vec<T>> {
    serde_json::from_slice(element).map_err(|error| {
        let shown = String::from_utf8_lossy(&element[..element.len().min(80)]).into_owned();
        Error::new(
            ErrorCode::InvalidTensor,
            format!("element {at} of input `{name}` is `{}`; it takes a JSON list of {of} ({error})", clip(&shown)),
        )
    })
}

/// A BYTES output of one element for each row.
pub(crate) fn bytes_output(name: &str, elements: &[Vec<u8>]) -> Tensor {
    let mut data = Vec::with_capacity(elements.iter().map(|element| element.len() + 4).sum());
    elements.iter().for_each(|element| put_bytes_element(&mut data, element));
    Tensor { name: name.into(), datatype: Datatype::Bytes, shape: smallvec![elements.len() as i64], data: data.into() }
}

/// An FP32 output of `width` numbers for each row; of one axis without a width.
pub(crate) fn float_output(name: &str, numbers: &[f32], width: Option<usize>) -> Tensor {
    let shape = match width {
        None => smallvec![numbers.len() as i64],
        Some(width) => smallvec![(numbers.len() / width.max(1)) as i64, width as i64],
    };
    let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    Tensor { name: name.into(), datatype: Datatype::Fp32, shape, data: data.into() }
}

/// An INT32 output of one number for each row.
pub(crate) fn count_output(name: &str, counts: &[usize]) -> Tensor {
    let data: Vec<u8> =
        counts.iter().flat_map(|&count| i32::try_from(count).unwrap_or(i32::MAX).to_le_bytes()).collect();
    Tensor { name: name.into(), datatype: Datatype::Int32, shape: smallvec![counts.len() as i64], data: data.into() }
}
