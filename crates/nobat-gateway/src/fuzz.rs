//! Entries for the fuzz targets and the replay of their corpora (`fuzz/`): what
//! callers send, to the parser that reads it, and what must hold of whatever
//! the parser takes.

use std::time::SystemTime;

use actix_web::http::header::{HeaderMap, HeaderValue};
use bytes::Bytes;
use nobat_core::infer::InferRequest;
use nobat_core::oip::ModelInferRequest;
use nobat_core::signature::{ModelSignature, ModelState, TensorSpec};
use nobat_core::tensor::Datatype;
use prost::Message;

use crate::grpc::convert;
use crate::json::request;
use crate::routes::query::JobQuery;
use crate::v2::{binary, json};

/// A body of the native API. The first byte chooses the model's datatype.
pub fn native_body(data: &[u8]) {
    body(data, "instances");
}

/// A body of TensorFlow Serving's `:classify` and `:regress`.
pub fn serving_body(data: &[u8]) {
    body(data, "examples");
}

/// A v2 document without binary tensors. The first byte chooses the datatype
/// that the model takes.
pub fn v2_document(data: &[u8]) {
    let Some((&choice, text)) = data.split_first() else { return };
    v2(&HeaderMap::new(), text, choice);
}

/// A v2 body with binary tensors: two bytes of the header's value, then the body.
pub fn v2_binary(data: &[u8]) {
    let Some((&length, body)) = data.split_first_chunk::<2>() else { return };
    let mut headers = HeaderMap::new();
    headers.insert(binary::HEADER_LENGTH, HeaderValue::from(u16::from_le_bytes(length)));
    v2(&headers, body, length[0]);
}

/// A gRPC request.
pub fn grpc_request(data: &[u8]) {
    let Ok(message) = ModelInferRequest::decode(Bytes::copy_from_slice(data)) else { return };
    if let Ok(call) = convert::decode(message) {
        for datatype in Datatype::ALL {
            check(&model(datatype), call.request.clone());
        }
    }
}

/// The query string of a predicting route.
pub fn query(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = JobQuery::read(text, SystemTime::UNIX_EPOCH);
    }
}

fn body(data: &[u8], rows: &'static str) {
    let Some((&choice, text)) = data.split_first() else { return };
    let signature = model(Datatype::ALL[usize::from(choice) % Datatype::ALL.len()]);
    if let Ok((request, _)) = request::read(text, &signature, rows) {
        assert!(serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok(), "what is read is JSON");
        for tensor in &request.inputs {
            tensor.check().expect("a tensor has the bytes that its shape calls for");
        }
        check(&signature, request);
    }
}

fn v2(headers: &HeaderMap, body: &[u8], choice: u8) {
    let Ok(binary::Parts::Document(text, blobs)) = binary::split(headers, Bytes::copy_from_slice(body)) else { return };
    if let Ok(document) = json::read(&text, blobs) {
        assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok(), "what is read is JSON");
        let datatype = Datatype::ALL[usize::from(choice) % Datatype::ALL.len()];
        let request = InferRequest { inputs: document.inputs, ..InferRequest::default() };
        check(&model(datatype), request);
    }
}

/// What passes validation has whole tensors and reads back from the queue.
fn check(signature: &ModelSignature, request: InferRequest) {
    if let Ok(rows) = signature.validate(&request) {
        assert!((1..=signature.max_rows).contains(&rows));
        for tensor in &request.inputs {
            tensor.check().expect("validated");
        }
        let again = InferRequest::decode(Bytes::from(request.encode())).expect("what was written is read");
        assert_eq!(again, request);
    }
}

/// Two inputs of the datatype, the second may be left out.
fn model(datatype: Datatype) -> ModelSignature {
    let spec = |name: &str, optional| TensorSpec { name: name.into(), datatype, shape: vec![-1, 2], optional };
    ModelSignature {
        name: "m".into(),
        version: "1".into(),
        digest: String::new(),
        state: ModelState::Ready,
        reason: String::new(),
        inputs: vec![spec("x", false), spec("y", true)],
        outputs: vec![],
        batched: true,
        max_batch_size: 4,
        max_rows: 8,
        finite: true,
        default: false,
        labels: vec![],
        settings: serde_json::Map::new(),
    }
}
