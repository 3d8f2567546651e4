//! What is served, in the shapes of TensorFlow Serving, kserve's v1 protocol
//! and OpenAI's model list: their members do not collide, so one object
//! carries all three.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::signature::{ModelSignature, ModelState, TensorSpec};
use nobat_core::tensor::Datatype;
use nobat_serving::registry::{VersionEntry, Want};
use nobat_serving::{Predictor, RequestContext};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::access::Access;
use crate::context;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::PlainRefusals;

/// Adds the list, and documents what [`super::serve`] serves.
pub(super) fn configure(config: &mut ServiceConfig) {
    config
        .service(endpoint!(Access::READ, list))
        .service(endpoint!(document: status).also_by(&["version", "label"]))
        .service(endpoint!(document: metadata).also_by(&["version", "label"]));
}

/// Every model's name
#[utoipa::path(
    get, path = "/v1/models", tag = "tensorflow-serving", operation_id = "tf_list",
    responses((status = 200, description = "The names", body = Value), PlainRefusals),
)]
async fn list(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let context = context::of(&request);
    let registry = predictor.state().registry.load();
    let names = registry.models().map(|model| model.name.as_str());
    let mut names: Vec<_> = names.filter(|name| context.covers(name)).collect();
    names.sort_unstable();
    let data: Vec<_> = names.iter().map(|name| openai(name)).collect();
    HttpResponse::Ok().json(json!({ "object": "list", "data": data, "models": names }))
}

/// A model's status
///
/// TensorFlow Serving's version states, with kserve's `ready`.
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "tensorflow-serving", operation_id = "tf_status",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    responses((status = 200, description = "The status", body = Value), PlainRefusals),
)]
pub(super) fn status(context: &RequestContext, predictor: &Predictor, model: &str, want: Want<'_>) -> ApiResult {
    let entry = predictor.entry(context, model)?;
    let versions: Vec<&VersionEntry> = match want {
        Want::Default => entry.versions.iter().collect(),
        want => vec![entry.find(want)?],
    };
    let serves = |version: &&VersionEntry| version.signature.state == ModelState::Ready && version.is_live();
    let ready = match predictor.route(model, want) {
        Some(target) => target.is_ok_and(|target| target.live),
        None => versions.iter().any(serves),
    };
    Ok(HttpResponse::Ok().json(ModelStatus {
        model_version_status: versions.into_iter().map(version_status).collect(),
        name: &entry.name,
        ready,
        openai: openai(&entry.name),
    }))
}

/// A model's metadata
#[utoipa::path(
    get, path = "/v1/models/{model}/metadata", tag = "tensorflow-serving", operation_id = "tf_metadata",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    responses((status = 200, description = "The signature", body = Value), PlainRefusals),
)]
pub(super) fn metadata(context: &RequestContext, predictor: &Predictor, model: &str, want: Want<'_>) -> ApiResult {
    let entry = predictor.entry(context, model)?;
    let route = predictor.route(model, want).transpose()?;
    let signature = match (&route, want) {
        (Some(route), _) => &route.signature,
        (None, Want::Default) => &entry.default_version().signature,
        (None, want) => &entry.find(want)?.signature,
    };
    Ok(HttpResponse::Ok().json(json!({
        "model_spec": { "name": signature.name, "signature_name": "", "version": signature.version },
        "metadata": { "signature_def": { "signature_def": { "serving_default": signature_def(signature) } } },
    })))
}

fn openai(name: &str) -> Map<String, Value> {
    let members = [("id", name), ("object", "model"), ("owned_by", "nobat")];
    let mut object: Map<_, _> = members.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    object.insert("created".into(), 0.into());
    object
}

/// TensorFlow Serving's status, kserve's `name` and `ready`, OpenAI's model.
#[derive(Serialize)]
struct ModelStatus<'a> {
    model_version_status: Vec<VersionStatus<'a>>,
    name: &'a str,
    ready: bool,
    #[serde(flatten)]
    openai: Map<String, Value>,
}

/// One version's status; members in TensorFlow Serving's order.
#[derive(Serialize)]
struct VersionStatus<'a> {
    version: &'a str,
    state: &'static str,
    status: Status<'a>,
}

#[derive(Serialize)]
struct Status<'a> {
    error_code: &'static str,
    error_message: &'a str,
}

fn version_status(version: &VersionEntry) -> VersionStatus<'_> {
    let signature = &version.signature;
    let (state, code) = match signature.state {
        ModelState::Loading => ("LOADING", "OK"),
        ModelState::Ready if version.is_live() => ("AVAILABLE", "OK"),
        ModelState::Ready => ("END", "UNAVAILABLE"),
        ModelState::Unloading => ("UNLOADING", "OK"),
        ModelState::Failed => ("END", "INTERNAL"),
    };
    // A version that serves though a worker could not load it anew has a reason too.
    let error_message = if state == "AVAILABLE" { "" } else { &signature.reason };
    VersionStatus { version: &signature.version, state, status: Status { error_code: code, error_message } }
}

fn signature_def(signature: &ModelSignature) -> Value {
    let side = |specs: &[TensorSpec]| -> Map<String, Value> {
        specs.iter().map(|spec| (spec.name.to_string(), tensor_info(spec))).collect()
    };
    json!({
        "inputs": side(&signature.inputs),
        "outputs": side(&signature.outputs),
        "method_name": "tensorflow/serving/predict",
    })
}

fn tensor_info(spec: &TensorSpec) -> Value {
    let dims: Vec<_> = spec.shape.iter().map(|dim| json!({ "size": dim.to_string(), "name": "" })).collect();
    json!({
        "name": spec.name,
        "dtype": dtype(spec.datatype),
        "tensor_shape": { "dim": dims, "unknown_rank": false },
    })
}

/// TensorFlow's name of a datatype.
fn dtype(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "DT_BOOL",
        Datatype::Uint8 => "DT_UINT8",
        Datatype::Uint16 => "DT_UINT16",
        Datatype::Uint32 => "DT_UINT32",
        Datatype::Uint64 => "DT_UINT64",
        Datatype::Int8 => "DT_INT8",
        Datatype::Int16 => "DT_INT16",
        Datatype::Int32 => "DT_INT32",
        Datatype::Int64 => "DT_INT64",
        Datatype::Fp16 => "DT_HALF",
        Datatype::Bf16 => "DT_BFLOAT16",
        Datatype::Fp32 => "DT_FLOAT",
        Datatype::Fp64 => "DT_DOUBLE",
        Datatype::Bytes => "DT_STRING",
    }
}
