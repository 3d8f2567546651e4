//! A body without a JSON document (`Inference-Header-Content-Length: 0`).

use bytes::Bytes;
use nobat_core::signature::ModelSignature;
use nobat_core::tensor::{Datatype, Shape, Tensor, put_bytes_element};
use nobat_core::{Error, ErrorCode, Result};

use super::json::Document;
use super::parameters::RequestParameters;

/// A request without a document: the bytes of the model's only input, one row,
/// every output binary.
///
/// # Errors
/// `invalid_parameter` for a model with several inputs; `invalid_tensor` where the shape
/// does not follow from the length.
pub(crate) fn document(signature: &ModelSignature, bytes: Bytes) -> Result<Document> {
    let [input] = &signature.inputs[..] else {
        return Err(Error::new(
            ErrorCode::InvalidParameter,
            format!(
                "a body without a JSON document needs a model with one input; `{}` has {}",
                signature.name,
                signature.inputs.len()
            ),
        ));
    };
    let mut shape: Shape = input.shape.iter().copied().collect();
    if signature.batched
        && let Some(rows) = shape.first_mut()
    {
        *rows = 1;
    }
    let data = match input.datatype.size() {
        Some(size) => {
            fill_free_axis(&mut shape, bytes.len() / size).ok_or_else(|| {
                Error::new(
                    ErrorCode::InvalidTensor,
                    format!(
                        "input `{}` of shape {:?} has more than one free axis; send a JSON document with its shape",
                        input.name, input.shape
                    ),
                )
            })?;
            bytes
        }
        None => {
            debug_assert_eq!(input.datatype, Datatype::Bytes);
            shape.iter_mut().filter(|dim| **dim < 0).for_each(|dim| *dim = 1);
            let mut element = Vec::with_capacity(bytes.len() + 4);
            put_bytes_element(&mut element, &bytes);
            element.into()
        }
    };
    Ok(Document {
        id: String::new(),
        parameters: RequestParameters { binary_data_output: true, ..RequestParameters::default() },
        inputs: vec![Tensor { name: input.name.clone(), datatype: input.datatype, shape, data }],
        requested: vec![],
    })
}

/// Gives the one free axis the length that `elements` call for. `None` when
/// there are several.
fn fill_free_axis(shape: &mut Shape, elements: usize) -> Option<()> {
    let known =
        shape.iter().filter(|&&dim| dim >= 0).try_fold(1usize, |product, &dim| product.checked_mul(dim as usize))?;
    let mut free = shape.iter_mut().filter(|dim| **dim < 0);
    if let Some(axis) = free.next() {
        *axis = elements.checked_div(known).unwrap_or(0) as i64;
    }
    free.next().is_none().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_free_axis_takes_its_length_from_the_bytes() {
        let mut shape: Shape = [1, -1, 3].into_iter().collect();
        assert!(fill_free_axis(&mut shape, 12).is_some());
        assert_eq!(shape.as_slice(), [1, 4, 3]);
        let mut two: Shape = [1, -1, -1].into_iter().collect();
        assert!(fill_free_axis(&mut two, 12).is_none());
        let mut none: Shape = [1, 64].into_iter().collect();
        assert!(fill_free_axis(&mut none, 3).is_some());
        assert_eq!(none.as_slice(), [1, 64]);
    }
}
