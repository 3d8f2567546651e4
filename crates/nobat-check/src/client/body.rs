//! A request's tensors as each protocol carries them: pure.

use bytes::Bytes;
use nobat_core::json::encode;
use nobat_core::oip::ModelInferRequest;
use nobat_core::oip::model_infer_request::InferInputTensor;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::{Error, ErrorCode, Result};
use reqwest::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};

use super::call::HttpCall;
use super::protocol::CallProtocol;
use super::target::{Target, TargetSettings};

/// The header that says where the JSON document ends and the tensors begin.
pub(super) const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");
const FROM_THE_MODEL: HeaderValue = HeaderValue::from_static("no-cache");

/// The HTTP request for these inputs, of any protocol but gRPC.
pub(super) fn call(target: &Target, inputs: &[Tensor]) -> Result<HttpCall> {
    let url = url(target);
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(CACHE_CONTROL, FROM_THE_MODEL);
    let body = match target.protocol {
        CallProtocol::V2 => v2(inputs)?,
        CallProtocol::V2Binary => {
            let (length, body) = v2_binary(inputs);
            headers.insert(CONTENT_TYPE, BINARY);
            headers.insert(HEADER_LENGTH, HeaderValue::from(length));
            body
        }
        CallProtocol::Json => match &target.settings.template {
            Some(template) => template.request(inputs)?,
            None => return Err(Error::invalid("protocol `json` needs a template")),
        },
        _ => columns(inputs),
    };
    Ok(HttpCall { method: Method::POST, url, headers, body: body.into() })
}

/// Where predictions are asked for.
fn url(target: &Target) -> Url {
    let TargetSettings { model, version, template, patience, .. } = &target.settings;
    let versioned = |head: &[&str], versions: &str, last: &str| {
        let version = version.iter().flat_map(|version| [versions, version.as_str()]);
        let path: Vec<&str> = head
            .iter()
            .copied()
            .chain([model.as_str()])
            .chain(version)
            .chain((!last.is_empty()).then_some(last))
            .collect();
        target.at(&path)
    };
    match target.protocol {
        CallProtocol::Native | CallProtocol::Job => {
            let mut url = target.at(&["api", "v1", "predict", model]);
            let mut query = url.query_pairs_mut();
            if let Some(version) = version {
                query.append_pair("version", version);
            }
            if target.protocol == CallProtocol::Native {
                query.append_pair("wait", &format!("{}s", patience.as_secs().max(1)));
            }
            drop(query);
            if url.query() == Some("") {
                url.set_query(None);
            }
            url
        }
        CallProtocol::TfServing => {
            let mut url = versioned(&["v1", "models"], "versions", "");
            let path = format!("{}:predict", url.path());
            url.set_path(&path);
            url
        }
        CallProtocol::V2 | CallProtocol::V2Binary | CallProtocol::Grpc => {
            versioned(&["v2", "models"], "versions", "infer")
        }
        CallProtocol::Json => {
            let mut url = target.url.clone();
            if let Some(path) = template.as_ref().and_then(|template| template.path()) {
                url.set_path(path);
            }
            url
        }
    }
}

/// TensorFlow Serving's column form, which the native API takes too.
fn columns(inputs: &[Tensor]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + inputs.iter().map(|tensor| tensor.data.len() * 3).sum::<usize>());
    out.extend_from_slice(b"{\"inputs\":{");
    for (at, tensor) in inputs.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        encode::string(&mut out, &tensor.name);
        out.push(b':');
        encode::tensor(&mut out, tensor);
    }
    out.extend_from_slice(b"}}");
    out
}

fn v2(inputs: &[Tensor]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(96 + inputs.iter().map(|tensor| tensor.data.len() * 3).sum::<usize>());
    out.extend_from_slice(b"{\"inputs\":[");
    for (at, tensor) in inputs.iter().enumerate() {
        if matches!(tensor.datatype, Datatype::Fp16 | Datatype::Bf16) {
            let why = format!("input `{}` is {}, which v2 carries in binary only", tensor.name, tensor.datatype);
            return Err(Error::new(ErrorCode::InvalidTensor, why));
        }
        out.extend_from_slice(if at > 0 { b",{" } else { b"{" });
        encode::header(&mut out, tensor);
        out.extend_from_slice(b",\"data\":");
        encode::flat(&mut out, tensor);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

/// The binary extension: the JSON document's length, and the body.
fn v2_binary(inputs: &[Tensor]) -> (usize, Vec<u8>) {
    let mut out = Vec::with_capacity(160 + inputs.iter().map(|tensor| tensor.data.len() + 96).sum::<usize>());
    out.extend_from_slice(b"{\"parameters\":{\"binary_data_output\":true},\"inputs\":[");
    for (at, tensor) in inputs.iter().enumerate() {
        out.extend_from_slice(if at > 0 { b",{" } else { b"{" });
        encode::header(&mut out, tensor);
        out.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
        encode::integer(&mut out, tensor.data.len());
        out.extend_from_slice(b"}}");
    }
    out.extend_from_slice(b"]}");
    let length = out.len();
    inputs.iter().for_each(|tensor| out.extend_from_slice(&tensor.data));
    (length, out)
}

/// The gRPC message for these inputs, with raw tensors.
pub(super) fn message(settings: &TargetSettings, inputs: &[Tensor]) -> ModelInferRequest {
    let described = |tensor: &Tensor| InferInputTensor {
        name: tensor.name.to_string(),
        datatype: tensor.datatype.as_str().into(),
        shape: tensor.shape.to_vec(),
        ..InferInputTensor::default()
    };
    ModelInferRequest {
        model_name: settings.model.clone(),
        model_version: settings.version.clone().unwrap_or_default(),
        inputs: inputs.iter().map(described).collect(),
        raw_input_contents: inputs.iter().map(|tensor| Bytes::clone(&tensor.data)).collect(),
        ..ModelInferRequest::default()
    }
}
