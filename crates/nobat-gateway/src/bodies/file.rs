//! Files as rows of a model's input of bytes.

use bytes::Bytes;
use nobat_core::signature::{ModelSignature, TensorSpec};
use nobat_core::tensor::{Datatype, Shape, Tensor, put_bytes_element};
use nobat_core::{Error, ErrorCode, Result};

/// The input that a file without a name belongs to: that of pictures, else the only one
/// that must be given, if it takes bytes. `what` came in.
///
/// # Errors
/// `invalid_parameter`, naming what the model takes and the remedy.
pub(super) fn input<'a>(signature: &'a ModelSignature, what: &str) -> Result<&'a TensorSpec> {
    if let Some(input) = signature.picture_input() {
        return Ok(input);
    }
    let mut required = signature.inputs.iter().filter(|spec| !spec.optional);
    let only = match (required.next(), required.next(), &signature.inputs[..]) {
        (Some(only), None, _) | (None, _, [only]) => Some(only),
        _ => None,
    };
    only.filter(|spec| spec.datatype == Datatype::Bytes).ok_or_else(|| {
        let takes: Vec<_> = signature
            .inputs
            .iter()
            .map(|spec| format!("`{}` {}{:?}", spec.name, spec.datatype, spec.shape))
            .collect();
        let message = format!(
            "model `{}` takes {}, not {what}; send its tensors as JSON (application/json), or a form whose fields are named as its inputs of bytes",
            signature.name,
            takes.join(", ")
        );
        Error::new(ErrorCode::InvalidParameter, message)
    })
}

/// The files as rows of an input, in their order.
///
/// # Errors
/// `invalid_tensor` for an input whose rows are not single elements, and for several files
/// where there are no rows.
pub(super) fn rows(signature: &ModelSignature, input: &TensorSpec, files: &[Bytes]) -> Result<Tensor> {
    let mut shape: Shape = input.shape.iter().map(|&dim| if dim < 0 { 1 } else { dim }).collect();
    match shape.first_mut() {
        Some(rows) if signature.batched || input.shape[0] < 0 => *rows = files.len() as i64,
        _ => {}
    }
    if shape.iter().product::<i64>() != files.len() as i64 {
        let message = format!(
            "input `{}` of model `{}` has shape {:?}, and {} came; send JSON with its elements",
            input.name,
            signature.name,
            input.shape,
            if files.len() == 1 { "one file".to_owned() } else { format!("{} files", files.len()) }
        );
        return Err(Error::new(ErrorCode::InvalidTensor, message));
    }
    let mut data = Vec::with_capacity(files.iter().map(|file| file.len() + 4).sum());
    files.iter().for_each(|file| put_bytes_element(&mut data, file));
    Ok(Tensor { name: input.name.clone(), datatype: Datatype::Bytes, shape, data: data.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::task::{Task, TaskKind};

    use crate::test_models::model;

    #[test]
    fn a_file_is_a_row_of_the_only_input_of_bytes_or_of_the_pictures() {
        let mut both = model(&[("text", Datatype::Bytes, &[-1], true), ("image", Datatype::Bytes, &[-1], true)]);
        assert!(input(&both, "a file").is_err(), "which of them is not said");
        both.task = Some(Task::new(TaskKind::Image));
        assert_eq!(input(&both, "a file").expect("the pictures").name, "image");
        let pair = model(&[("text", Datatype::Bytes, &[-1, 1], false), ("other", Datatype::Bytes, &[-1], true)]);
        let text = input(&pair, "a file").expect("the one that must be given");
        let tensor = rows(&pair, text, &[Bytes::from_static(b"ab"), Bytes::new()]).expect("two rows");
        assert_eq!((&tensor.shape[..], &tensor.data[..]), (&[2, 1][..], &b"\x02\0\0\0ab\0\0\0\0"[..]));
        assert!(tensor.check().is_ok());
    }

    #[test]
    fn a_model_that_takes_no_file_is_refused_with_what_it_takes() {
        let numbers = model(&[("x", Datatype::Fp32, &[-1, 3, 224, 224], false)]);
        let refused = input(&numbers, "`image/png`").expect_err("numbers").message;
        assert!(refused.starts_with("model `m` takes `x` FP32[-1, 3, 224, 224], not `image/png`; send"), "{refused}");
        let pairs = model(&[("x", Datatype::Bytes, &[-1, 2], false)]);
        let refused = rows(&pairs, &pairs.inputs[0], &[Bytes::new()]).expect_err("two a row").message;
        assert!(refused.contains("shape [-1, 2], and one file came"), "{refused}");
    }
}
