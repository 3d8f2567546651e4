//! gRPC messages to requests and answers to messages.
//!
//! Raw tensors pass as slices of the received message; typed `contents` are
//! checked and written once into their final buffer. Answers are always raw.

use bytes::Bytes;
use nobat_core::infer::InferRequest;
use nobat_core::oip::model_infer_request::InferInputTensor;
use nobat_core::oip::model_infer_response::InferOutputTensor;
use nobat_core::oip::{InferTensorContents, ModelInferRequest, ModelInferResponse};
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::{Error, ErrorCode, Result, clip, typed};
use smol_str::SmolStr;

use crate::v2::outputs::{self, Output, Requested};
use crate::v2::parameters::{OutputParameters, RequestParameters, binary_data_size, of_message};

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
    let mut parameters = RequestParameters::read(&of_message(message.parameters), true)?;
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
        let parameters = OutputParameters::read(&of_message(output.parameters))?;
        requested.push(Requested { name: output.name.into(), parameters });
    }
    let request = InferRequest {
        version: SmolStr::default(),
        inputs,
        outputs: outputs::names(&requested)?,
        parameters: std::mem::take(&mut parameters.of_model),
    };
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

fn tensor(input: InferInputTensor, raw: Option<Bytes>) -> Result<Tensor> {
    let datatype = Datatype::parse(&input.datatype).ok_or_else(|| {
        invalid(format!("input `{}` has unknown datatype `{}`", clip(&input.name), clip(&input.datatype)))
    })?;
    binary_data_size(&of_message(input.parameters))?;
    let data = match (raw, input.contents) {
        (Some(_), Some(contents)) if contents != InferTensorContents::default() => {
            return Err(invalid(format!(
                "input `{}` has both raw_input_contents and contents; send one",
                clip(&input.name)
            )));
        }
        (Some(raw), _) => raw,
        (None, contents) => typed::read(clip(&input.name), datatype, &contents.unwrap_or_default())?,
    };
    Ok(Tensor { name: input.name.into(), datatype, shape: input.shape.into(), data })
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

    #[test]
    fn typed_contents_are_read_by_the_datatype_that_is_said() {
        let ints = || InferTensorContents { int_contents: vec![-1, 2], ..Default::default() };
        let call = decode(message("INT8", &[2], ints())).expect("fits");
        assert_eq!(call.request.inputs[0].data, &[255, 2][..]);
        let refused = decode(message("FLOAT", &[2], ints())).err().expect("no such");
        assert!(refused.message.contains("unknown datatype `FLOAT`"));
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
