//! `:classify` and `:regress`, where a model's outputs allow them.
//!
//! Examples are rows with names, as in `:predict`'s row form. Classification
//! takes the first float output of shape `[batch, classes]` as scores; class
//! names are the model's setting `class_labels`, else the class numbers.
//! Regression takes the first float output with one value per row.

use actix_web::HttpRequest;
use actix_web::web::Payload;
use nobat_core::json::encode;
use nobat_core::signature::ModelSignature;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::Predictor;
use nobat_serving::registry::Want;
use nobat_serving::timing::server_timing;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::predict::{PredictCall, answered};
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::{DeadlineParameter, JobParameters, PlainRefusals, digit_example};
use crate::rows;

/// Documents the calls; [`super::serve`] serves them.
pub(super) fn configure(config: &mut ServiceConfig) {
    config
        .service(endpoint!(document: classify).also_by(&["version", "label"]))
        .service(endpoint!(document: regress).also_by(&["version", "label"]));
}

/// Rows to classify or to regress.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "examples": [{ "input": digit_example() }] }))]
#[allow(dead_code, reason = "documents what `rows` reads")]
struct RankBody {
    /// Row form: one object per row, or bare values for one input.
    #[schema(required = false)]
    examples: Option<Vec<serde_json::Value>>,
    /// Column form: one tensor, or an object of tensors by name.
    #[schema(required = false)]
    inputs: Option<serde_json::Value>,
    /// What is set for a model that has a task: texts, numbers, true or false by name.
    #[schema(required = false, value_type = Option<Object>)]
    parameters: Option<serde_json::Map<String, serde_json::Value>>,
    /// `serving_default`, or left out.
    #[schema(required = false)]
    signature_name: Option<String>,
}

/// Classify
#[utoipa::path(
    post, path = "/v1/models/{model}:classify", tag = "tensorflow-serving", operation_id = "tf_classify",
    params(("model" = String, Path, description = "The model's name", example = "digits"), JobParameters, DeadlineParameter),
    request_body = RankBody,
    responses((status = 200, description = "`result`: per example the classes with their scores", body = Value), PlainRefusals),
)]
pub(super) async fn classify(
    request: &HttpRequest,
    payload: Payload,
    predictor: &Predictor,
    model: Option<&str>,
    want: Want<'_>,
) -> ApiResult {
    let asked = PredictCall::read(request, payload, predictor, model, want).await?;
    let signature = asked.target.signature.clone();
    let scores = output(&signature, "classify", "a float output of shape [batch, classes]", |shape| {
        shape.len() == 2 && shape[1] != 1
    })?;
    let names = signature.class_labels(&scores);
    let (scores, timing) = run(request, predictor, asked, &scores).await?;
    let classes = scores.shape.get(1).map_or(0, |&classes| classes as usize);
    let values = floats(&scores);
    let mut json = Vec::with_capacity(32 + 24 * values.len());
    json.extend_from_slice(b"{\"result\":[");
    for (row, scores) in values.chunks(classes.max(1)).enumerate() {
        json.extend_from_slice(if row > 0 { b",[" } else { b"[" });
        for (class, &score) in scores.iter().enumerate() {
            json.extend_from_slice(if class > 0 { b",[" } else { b"[" });
            match names.get(class) {
                Some(name) => encode::string(&mut json, name),
                None => encode::string(&mut json, &class.to_string()),
            }
            json.push(b',');
            encode::float(&mut json, score);
            json.push(b']');
        }
        json.push(b']');
    }
    json.extend_from_slice(b"]}");
    Ok(answered(timing, json))
}

/// Regress
#[utoipa::path(
    post, path = "/v1/models/{model}:regress", tag = "tensorflow-serving", operation_id = "tf_regress",
    params(("model" = String, Path, description = "The model's name", example = "digits"), JobParameters, DeadlineParameter),
    request_body = RankBody,
    responses((status = 200, description = "`result`: per example its value", body = Value), PlainRefusals),
)]
pub(super) async fn regress(
    request: &HttpRequest,
    payload: Payload,
    predictor: &Predictor,
    model: Option<&str>,
    want: Want<'_>,
) -> ApiResult {
    let asked = PredictCall::read(request, payload, predictor, model, want).await?;
    let value = output(&asked.target.signature, "regress", "a float output with one value per row", |shape| {
        matches!(shape, [_] | [_, 1])
    })?;
    let (value, timing) = run(request, predictor, asked, &value).await?;
    let values = floats(&value);
    let mut json = b"{\"result\":[".to_vec();
    for (row, &value) in values.iter().enumerate() {
        if row > 0 {
            json.push(b',');
        }
        encode::float(&mut json, value);
    }
    json.extend_from_slice(b"]}");
    Ok(answered(timing, json))
}

/// The name of the first float output of a fitting shape.
fn output(
    signature: &ModelSignature,
    verb: &str,
    needs: &str,
    fits: impl Fn(&[i64]) -> bool,
) -> Result<smol_str::SmolStr> {
    let float = |datatype| matches!(datatype, Datatype::Fp32 | Datatype::Fp64);
    let found = signature.outputs.iter().find(|spec| signature.batched && float(spec.datatype) && fits(&spec.shape));
    found.map(|spec| spec.name.clone()).ok_or_else(|| {
        let message = format!("model `{}` cannot {verb}: it has not {needs}; use :predict", signature.name);
        Error::new(ErrorCode::InvalidParameter, message)
    })
}

/// One output of a run, and its `Server-Timing`.
async fn run(
    request: &HttpRequest,
    predictor: &Predictor,
    asked: PredictCall,
    output: &str,
) -> Result<(Tensor, String)> {
    let (tensors, _) = rows::read(&asked.body, &asked.target.signature, "examples")?;
    let prediction = asked.predict(request, predictor, tensors).await?;
    let timing = server_timing(&prediction);
    let found = prediction.response.outputs.into_iter().find(|tensor| tensor.name == output);
    found.map(|tensor| (tensor, timing)).ok_or_else(|| {
        Error::new(ErrorCode::InvalidWorkerResult, format!("the worker's answer lacks output `{output}`"))
    })
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    match tensor.datatype {
        Datatype::Fp64 => tensor.data.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect(),
        _ => tensor.data.as_chunks().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect(),
    }
}
