//! gRPC messages to requests and answers to messages.
//!
//! Raw tensors pass as slices of the received message; typed `contents` are
//! checked and written once into their final buffer. Answers are always raw.

use std::collections::HashMap;

use bytes::Bytes;
use nobat_core::infer::InferRequest;
use nobat_core::oip::model_infer_request::InferInputTensor;
use nobat_core::oip::model_infer_response::InferOutputTensor;
use nobat_core::oip::{InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse};
use nobat_core::tensor::{Datatype, Tensor, put_bytes_element};
use nobat_core::{Error, ErrorCode, Result};
use smol_str::SmolStr;

use crate::v2::outputs::{self, Output, Requested};
use crate::v2::parameters::{OutputParameters, RequestParameters, Value, binary_data_size, clip};

/// A decoded `ModelInferRequest`.
pub(crate) struct Call {
    pub model: String,
    pub version: String,
    pub id: String,
    pub parameters: RequestParameters,
    pub requested: Vec<Requested>,
    pub request: InferRequest,
}

/// Decodes a request.
///
/// # Errors
/// `invalid_tensor`, `invalid_parameter`, `unsupported`.
pub(crate) fn decode(message: ModelInferRequest) -> Result<Call> {
    let parameters = RequestParameters::read(given(&values(&message.parameters)), true)?;
    let raw = message.raw_input_contents;
    if !raw.is_empty() && raw.len() != message.inputs.len() {
        return Err(Error::new(
            ErrorCode::InvalidTensor,
            format!(
                "raw_input_contents has {} entries for {} inputs; it must cover all of them",
                raw.len(),
                message.inputs.len()
            ),
        ));
    }
    let mut raw = raw.into_iter();
    let inputs = message.inputs.into_iter().map(|input| tensor(input, raw.next())).collect::<Result<_>>()?;
    let mut requested = Vec::with_capacity(message.outputs.len());
    for output in message.outputs {
        let parameters = OutputParameters::read(given(&values(&output.parameters)))?;
        requested.push(Requested { name: output.name.into(), parameters });
    }
    let request = InferRequest { version: SmolStr::default(), inputs, outputs: outputs::names(&requested)? };
    Ok(Call {
        model: message.model_name,
        version: message.model_version,
        id: message.id,
        parameters,
        requested,
        request,
    })
}

/// Encodes an answer.
pub(super) fn encode(model: &str, version: &str, id: String, outputs: Vec<Output>) -> ModelInferResponse {
    let mut response = ModelInferResponse {
        model_name: model.into(),
        model_version: version.into(),
        id,
        outputs: Vec::with_capacity(outputs.len()),
        raw_output_contents: Vec::with_capacity(outputs.len()),
        ..ModelInferResponse::default()
    };
    for Output { tensor, .. } in outputs {
        response.outputs.push(InferOutputTensor {
            name: tensor.name.into(),
            datatype: tensor.datatype.as_str().into(),
            shape: tensor.shape.into_vec(),
            ..InferOutputTensor::default()
        });
        response.raw_output_contents.push(tensor.data);
    }
    response
}

type Values<'a> = Vec<(&'a str, Option<Value>)>;

fn values(parameters: &HashMap<String, InferParameter>) -> Values<'_> {
    parameters.iter().map(|(name, parameter)| (name.as_str(), Value::of_message(parameter))).collect()
}

fn given<'a>(values: &'a Values<'_>) -> impl Iterator<Item = (&'a str, Option<&'a Value>)> {
    values.iter().map(|(name, value)| (*name, value.as_ref()))
}

fn tensor(input: InferInputTensor, raw: Option<Bytes>) -> Result<Tensor> {
    let datatype = Datatype::parse(&input.datatype).ok_or_else(|| {
        invalid(format!("input `{}` has unknown datatype `{}`", clip(&input.name), clip(&input.datatype)))
    })?;
    binary_data_size(given(&values(&input.parameters)))?;
    let data = match (raw, input.contents) {
        (Some(_), Some(contents)) if contents != InferTensorContents::default() => {
            return Err(invalid(format!(
                "input `{}` has both raw_input_contents and contents; send one",
                clip(&input.name)
            )));
        }
        (Some(raw), _) => raw,
        (None, contents) => typed(&input.name, datatype, contents.unwrap_or_default())?,
    };
    Ok(Tensor { name: input.name.into(), datatype, shape: input.shape.into(), data })
}

/// Typed contents as little-endian bytes.
fn typed(name: &str, datatype: Datatype, contents: InferTensorContents) -> Result<Bytes> {
    let field = field(datatype).ok_or_else(|| {
        invalid(format!(
            "input `{}` is {datatype}, which has no typed contents; send it in raw_input_contents",
            clip(name)
        ))
    })?;
    if let Some(other) = filled(&contents).into_iter().find(|&other| other != field) {
        return Err(invalid(format!("input `{}` is {datatype} and has {other}; it takes {field}", clip(name))));
    }
    let narrow = |fits: bool, value: &dyn std::fmt::Display| match fits {
        true => Ok(()),
        false => Err(invalid(format!("input `{}` has {value}, which {datatype} cannot hold", clip(name)))),
    };
    macro_rules! little_endian {
        ($values:expr) => {
            $values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()
        };
    }
    macro_rules! narrowed {
        ($values:expr, $number:ty) => {{
            let mut out = Vec::with_capacity($values.len() * size_of::<$number>());
            for value in &$values {
                let number = <$number>::try_from(*value);
                narrow(number.is_ok(), value)?;
                out.extend_from_slice(&number.unwrap_or_default().to_le_bytes());
            }
            out
        }};
    }
    let data = match datatype {
        Datatype::Bool => contents.bool_contents.iter().map(|&value| u8::from(value)).collect(),
        Datatype::Uint8 => narrowed!(contents.uint_contents, u8),
        Datatype::Uint16 => narrowed!(contents.uint_contents, u16),
        Datatype::Uint32 => little_endian!(contents.uint_contents),
        Datatype::Uint64 => little_endian!(contents.uint64_contents),
        Datatype::Int8 => narrowed!(contents.int_contents, i8),
        Datatype::Int16 => narrowed!(contents.int_contents, i16),
        Datatype::Int32 => little_endian!(contents.int_contents),
        Datatype::Int64 => little_endian!(contents.int64_contents),
        Datatype::Fp32 => little_endian!(contents.fp32_contents),
        Datatype::Fp64 => little_endian!(contents.fp64_contents),
        Datatype::Bytes => {
            let total: usize = contents.bytes_contents.iter().map(|element| element.len() + 4).sum();
            let mut out = Vec::with_capacity(total);
            contents.bytes_contents.iter().for_each(|element| put_bytes_element(&mut out, element));
            out
        }
        // `field` has refused these.
        Datatype::Fp16 | Datatype::Bf16 => Vec::new(),
    };
    Ok(data.into())
}

/// The field of the contents that a datatype uses; none for those that travel raw only.
fn field(datatype: Datatype) -> Option<&'static str> {
    Some(match datatype {
        Datatype::Bool => "bool_contents",
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => "uint_contents",
        Datatype::Uint64 => "uint64_contents",
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => "int_contents",
        Datatype::Int64 => "int64_contents",
        Datatype::Fp32 => "fp32_contents",
        Datatype::Fp64 => "fp64_contents",
        Datatype::Bytes => "bytes_contents",
        Datatype::Fp16 | Datatype::Bf16 => return None,
    })
}

fn filled(contents: &InferTensorContents) -> Vec<&'static str> {
    [
        ("bool_contents", contents.bool_contents.is_empty()),
        ("uint_contents", contents.uint_contents.is_empty()),
        ("uint64_contents", contents.uint64_contents.is_empty()),
        ("int_contents", contents.int_contents.is_empty()),
        ("int64_contents", contents.int64_contents.is_empty()),
        ("fp32_contents", contents.fp32_contents.is_empty()),
        ("fp64_contents", contents.fp64_contents.is_empty()),
        ("bytes_contents", contents.bytes_contents.is_empty()),
    ]
    .into_iter()
    .filter_map(|(name, empty)| (!empty).then_some(name))
    .collect()
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidTensor, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(datatype: &str, shape: &[i64], contents: InferTensorContents) -> ModelInferRequest {
        let input = InferInputTensor {
            name: "x".into(),
            datatype: datatype.into(),
            shape: shape.to_vec(),
            contents: Some(contents),
            ..InferInputTensor::default()
        };
        ModelInferRequest { inputs: vec![input], ..ModelInferRequest::default() }
    }

    fn typed_bytes(datatype: &str, contents: InferTensorContents) -> Result<Bytes> {
        decode(message(datatype, &[2], contents)).map(|call| call.request.inputs[0].data.clone())
    }

    #[test]
    fn typed_contents_become_little_endian_bytes() {
        let ints = |values: &[i32]| InferTensorContents { int_contents: values.to_vec(), ..Default::default() };
        let uints = |values: &[u32]| InferTensorContents { uint_contents: values.to_vec(), ..Default::default() };
        assert_eq!(typed_bytes("INT8", ints(&[-1, 2])).expect("fits"), &[255, 2][..]);
        assert_eq!(typed_bytes("INT32", ints(&[1, -2])).expect("fits"), &[1, 0, 0, 0, 254, 255, 255, 255][..]);
        assert_eq!(typed_bytes("UINT16", uints(&[1, 65535])).expect("fits"), &[1, 0, 255, 255][..]);
        let text =
            InferTensorContents { bytes_contents: vec![Bytes::from_static(b"hi"), Bytes::new()], ..Default::default() };
        assert_eq!(typed_bytes("BYTES", text).expect("fits"), &[2, 0, 0, 0, b'h', b'i', 0, 0, 0, 0][..]);
        let bools = InferTensorContents { bool_contents: vec![true, false], ..Default::default() };
        assert_eq!(typed_bytes("BOOL", bools).expect("fits"), &[1, 0][..]);
    }

    #[test]
    fn typed_contents_that_do_not_fit_are_named() {
        let ints = || InferTensorContents { int_contents: vec![200, 1], ..Default::default() };
        assert_eq!(typed_bytes("INT8", ints()).expect_err("200").message, "input `x` has 200, which INT8 cannot hold");
        assert_eq!(
            typed_bytes("FP32", ints()).expect_err("ints").message,
            "input `x` is FP32 and has int_contents; it takes fp32_contents"
        );
        assert!(typed_bytes("FP16", ints()).expect_err("fp16").message.contains("raw_input_contents"));
        assert!(typed_bytes("FLOAT", ints()).expect_err("no such").message.contains("unknown datatype `FLOAT`"));
    }

    #[test]
    fn raw_tensors_are_not_copied_and_must_cover_all_inputs() {
        let raw = Bytes::from_static(b"12345678");
        let mut request = message("FP32", &[2], InferTensorContents::default());
        request.raw_input_contents = vec![raw.clone()];
        let call = decode(request.clone()).expect("raw");
        assert_eq!(call.request.inputs[0].data.as_ptr(), raw.as_ptr());
        request.raw_input_contents.push(raw.clone());
        assert!(decode(request).err().expect("two for one").message.contains("2 entries for 1 inputs"));
        let mut both = message("FP32", &[2], InferTensorContents { fp32_contents: vec![1.0], ..Default::default() });
        both.raw_input_contents = vec![raw];
        assert!(decode(both).err().expect("both").message.contains("send one"));
    }
}
