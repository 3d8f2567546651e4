//! A prediction's request and answer, and how they travel through a queue.
//!
//! Every protocol decodes into [`InferRequest`] and encodes [`InferResponse`];
//! none knows the queue. In a queue the request is the protocol's own
//! `ModelInferRequest` in protobuf with raw tensors (language-neutral; the model
//! name is left out, the queue is the model's). The answer is packed tighter
//! (see [`InferResponse::encode`]): results are what a store keeps longest.

use bytes::Bytes;
use prost::Message;
use prost::encoding::encoded_len_varint;
use smol_str::SmolStr;

use crate::error::{Error, ErrorCode, Result};
use crate::oip;
use crate::parameters::Parameters;
use crate::tensor::{Datatype, Tensor};
use crate::varint::{put_bytes, put_u64, take_bytes, take_u64};

/// One prediction to run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InferRequest {
    /// Version asked for; empty for the model's default.
    pub version: SmolStr,
    /// Input tensors.
    pub inputs: Vec<Tensor>,
    /// Names of the outputs wanted; empty for all.
    pub outputs: Vec<SmolStr>,
    /// What the caller sets for the model's task; models without one take none.
    pub parameters: Parameters,
}

impl InferRequest {
    /// Encodes as a protobuf `ModelInferRequest` with raw tensors.
    pub fn encode(&self) -> Vec<u8> {
        let data: usize = self.inputs.iter().map(|tensor| tensor.data.len() + 48).sum();
        let mut out = Vec::with_capacity(data + 32);
        put_str_field(&mut out, 2, &self.version);
        let mut message = Vec::with_capacity(64);
        for (name, value) in self.parameters.entries() {
            message.clear();
            put_str_field(&mut message, 1, name);
            put_len_field(&mut message, 2, &value);
            put_len_field(&mut out, 4, &message);
        }
        for tensor in &self.inputs {
            message.clear();
            put_input(&mut message, tensor);
            put_len_field(&mut out, 5, &message);
        }
        for name in &self.outputs {
            message.clear();
            put_str_field(&mut message, 1, name);
            put_len_field(&mut out, 6, &message);
        }
        for tensor in &self.inputs {
            put_len_field(&mut out, 7, &tensor.data);
        }
        out
    }

    /// Decodes [`InferRequest::encode`]; the tensors are slices of `payload`.
    ///
    /// # Errors
    /// `invalid_parameter` when the payload is not such a message,
    /// `invalid_tensor` when a tensor's bytes do not fit its shape.
    pub fn decode(payload: Bytes) -> Result<InferRequest> {
        let corrupt = |what: &str| Error::invalid(format!("job payload is corrupt: {what}"));
        let message = oip::ModelInferRequest::decode(payload).map_err(|e| corrupt(&e.to_string()))?;
        if message.inputs.len() != message.raw_input_contents.len() {
            return Err(corrupt("raw_input_contents does not cover the inputs"));
        }
        let mut inputs = Vec::with_capacity(message.inputs.len());
        for (input, data) in message.inputs.into_iter().zip(message.raw_input_contents) {
            let datatype = Datatype::parse(&input.datatype).ok_or_else(|| corrupt("unknown datatype"))?;
            let tensor = Tensor { name: input.name.into(), datatype, shape: input.shape.into(), data };
            tensor.check()?;
            inputs.push(tensor);
        }
        let outputs = message.outputs.into_iter().map(|output| output.name.into()).collect();
        let parameters = Parameters::of_message(message.parameters);
        Ok(InferRequest { version: message.model_version.into(), inputs, outputs, parameters })
    }
}

/// One prediction's outputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InferResponse {
    /// Version that answered.
    pub version: SmolStr,
    /// Output tensors, in the model's order.
    pub outputs: Vec<Tensor>,
    /// [`digest_mark`](crate::signature::digest_mark) of the version that answered; 0
    /// where no single version did, or a worker of an earlier release does not say.
    pub mark: u64,
}

impl InferResponse {
    /// Appends the packed form: version, then per tensor name, datatype number,
    /// rank, dimensions and data, lengths and dimensions as varints, then the mark. A
    /// digits answer takes 87 bytes so, and 109 as protobuf.
    pub fn encode(&self, out: &mut Vec<u8>) {
        InferResponse::encode_head(out, &self.version, self.outputs.len());
        for tensor in &self.outputs {
            InferResponse::encode_output(out, &tensor.name, tensor.datatype, &tensor.shape, tensor.data.len());
            out.extend_from_slice(&tensor.data);
        }
        InferResponse::encode_mark(out, self.mark);
    }

    /// Appends the packed form's head; `outputs` calls of
    /// [`InferResponse::encode_output`] must follow, then [`InferResponse::encode_mark`].
    pub fn encode_head(out: &mut Vec<u8>, version: &str, outputs: usize) {
        put_bytes(out, version.as_bytes());
        put_u64(out, outputs as u64);
    }

    /// Appends one output up to its data: exactly `data_len` bytes must follow.
    /// A worker writes results so, straight out of the runtime's buffers.
    pub fn encode_output(out: &mut Vec<u8>, name: &str, datatype: Datatype, shape: &[i64], data_len: usize) {
        put_bytes(out, name.as_bytes());
        out.push(datatype.wire());
        out.push(shape.len() as u8);
        for &dim in shape {
            put_u64(out, dim as u64);
        }
        put_u64(out, data_len as u64);
    }

    /// Appends the packed form's end. Releases that know no mark do not read this far.
    pub fn encode_mark(out: &mut Vec<u8>, mark: u64) {
        out.extend_from_slice(&mark.to_le_bytes());
    }

    /// Reads the packed form at the front of `bytes`; tensors are slices of it.
    ///
    /// # Errors
    /// `invalid_worker_result` when it is truncated or malformed.
    pub fn decode(bytes: &Bytes) -> Result<InferResponse> {
        Self::parse(bytes)
            .ok_or_else(|| Error::new(ErrorCode::InvalidWorkerResult, "the stored result is truncated or malformed"))
    }

    /// Bytes of the packed form at the front of `bytes`, its mark included; `None` where it
    /// is malformed or has no mark. Reads no tensor's data.
    pub fn packed_len(bytes: &[u8]) -> Option<usize> {
        let mut rest = bytes;
        take_bytes(&mut rest)?;
        for _ in 0..take_u64(&mut rest)? {
            take_bytes(&mut rest)?;
            let (&[_, rank], tail) = rest.split_first_chunk()?;
            rest = tail;
            for _ in 0..rank {
                take_u64(&mut rest)?;
            }
            take_bytes(&mut rest)?;
        }
        Some(bytes.len() - rest.get(8..)?.len())
    }

    fn parse(bytes: &Bytes) -> Option<InferResponse> {
        let mut rest = &bytes[..];
        let version = std::str::from_utf8(take_bytes(&mut rest)?).ok()?.into();
        let count = take_u64(&mut rest)?;
        let mut outputs = Vec::with_capacity(count.min(64) as usize);
        for _ in 0..count {
            let name = std::str::from_utf8(take_bytes(&mut rest)?).ok()?.into();
            let (&[datatype, rank], tail) = rest.split_first_chunk()?;
            rest = tail;
            let datatype = Datatype::from_wire(datatype)?;
            let shape = (0..rank)
                .map(|_| take_u64(&mut rest).and_then(|dim| i64::try_from(dim).ok()))
                .collect::<Option<_>>()?;
            let data = bytes.slice_ref(take_bytes(&mut rest)?);
            let tensor = Tensor { name, datatype, shape, data };
            tensor.check().ok()?;
            outputs.push(tensor);
        }
        let mark = rest.first_chunk().map_or(0, |mark| u64::from_le_bytes(*mark));
        Some(InferResponse { version, outputs, mark })
    }
}

// Protobuf wire format, written by hand: the generated message would need an
// owned String per name and datatype on every request.
// Source: protobuf encoding guide, "message structure"; wire types 0 and 2.

fn put_len_field(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_bytes(out, bytes);
}

fn put_str_field(out: &mut Vec<u8>, field: u8, text: &str) {
    if !text.is_empty() {
        put_len_field(out, field, text.as_bytes());
    }
}

fn put_input(out: &mut Vec<u8>, tensor: &Tensor) {
    put_str_field(out, 1, &tensor.name);
    put_str_field(out, 2, tensor.datatype.as_str());
    if !tensor.shape.is_empty() {
        out.push(3 << 3 | 2);
        let dims: usize = tensor.shape.iter().map(|&dim| encoded_len_varint(dim as u64)).sum();
        put_u64(out, dims as u64);
        for &dim in &tensor.shape {
            put_u64(out, dim as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::Parameter;
    use proptest::prelude::*;

    fn any_parameter() -> impl Strategy<Value = Parameter> {
        prop_oneof![
            any::<bool>().prop_map(Parameter::Bool),
            any::<i64>().prop_map(Parameter::Int64),
            (-1e9f64..1e9).prop_map(Parameter::Double),
            ".{0,9}".prop_map(|text| Parameter::Text(text.into())),
        ]
    }

    fn any_tensor() -> impl Strategy<Value = Tensor> {
        ("[a-zA-Z0-9_:/.]{0,40}", 0usize..13, prop::collection::vec(0i64..5, 0..5)).prop_map(
            |(name, datatype, shape)| {
                let datatype = Datatype::ALL[datatype];
                let size = datatype.size().expect("the first 13 are fixed-size");
                let count: i64 = shape.iter().product();
                Tensor {
                    name: name.into(),
                    datatype,
                    shape: shape.into(),
                    data: vec![1u8; count as usize * size].into(),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn a_request_reads_back_and_the_generated_message_agrees(
            inputs in prop::collection::vec(any_tensor(), 0..4),
            outputs in prop::collection::vec("[a-z]{0,70}", 0..3), version in "[0-9]{0,3}",
            parameters in prop::collection::btree_map("[a-z]{1,30}", any_parameter(), 0..3),
        ) {
            let parameters = parameters.into_iter().map(|(name, value)| (name.into(), value)).collect();
            let request = InferRequest {
                version: version.into(), inputs, outputs: outputs.into_iter().map(SmolStr::from).collect(), parameters,
            };
            let wire = Bytes::from(request.encode());
            let message = oip::ModelInferRequest::decode(wire.clone()).expect("valid protobuf");
            prop_assert_eq!(message.encode_to_vec().len(), wire.len());
            prop_assert_eq!(InferRequest::decode(wire).expect("reads back"), request);
        }

        #[test]
        fn a_response_reads_back(
            outputs in prop::collection::vec(any_tensor(), 0..4), version in "[0-9]{0,3}", mark: u64,
        ) {
            let response = InferResponse { version: version.into(), outputs, mark };
            let mut out = Vec::new();
            response.encode(&mut out);
            let whole = Bytes::from(out);
            prop_assert_eq!(&InferResponse::decode(&whole).expect("reads back"), &response);
            prop_assert_eq!(InferResponse::packed_len(&whole), Some(whole.len()));
            prop_assert_eq!(InferResponse::packed_len(&whole[..whole.len() - 1]), None);
            // As a release without marks wrote it.
            let unmarked = whole.slice(..whole.len() - 8);
            let read = InferResponse::decode(&unmarked).expect("reads back");
            prop_assert_eq!(read, InferResponse { mark: 0, ..response });
        }

        #[test]
        fn rubbish_is_refused_or_read_but_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let _ = (InferResponse::decode(&bytes), InferResponse::packed_len(&bytes));
            let _ = InferRequest::decode(bytes);
        }
    }
}
