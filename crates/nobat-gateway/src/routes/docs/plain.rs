//! Documentation of the protocols with plain errors: TensorFlow Serving, kserve
//! v1, SageMaker, health. Their handlers take their paths apart by hand or are
//! shared by several routes, so only what is said about them stands here.
#![allow(dead_code, reason = "only the documentation is used")]

use serde::Serialize;
use utoipa::ToSchema;

use super::refusals::PlainRefusals;
use super::{DeadlineParameter, JobParameters};
use crate::routes::native::objects::{PredictBody, digit_example};

/// Rows to classify or to regress.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "examples": [{ "input": digit_example() }] }))]
struct RankBody {
    /// Row form: one object per row, or bare values for one input.
    #[schema(required = false)]
    examples: Option<Vec<serde_json::Value>>,
    /// Column form: one tensor, or an object of tensors by name.
    #[schema(required = false)]
    inputs: Option<serde_json::Value>,
    /// `serving_default`, or left out.
    #[schema(required = false)]
    signature_name: Option<String>,
}

/// Predict
#[utoipa::path(
    post, path = "/v1/models/{model}:predict", tag = "tensorflow-serving", operation_id = "tf_predict",
    params(("model" = String, Path, description = "The model's name", example = "digits"), JobParameters, DeadlineParameter),
    request_body = PredictBody,
    responses((status = 200, description = "`predictions` (row form) or `outputs` (column form)", body = Value), PlainRefusals),
)]
pub(super) fn tf_predict() {}

/// Classify
#[utoipa::path(
    post, path = "/v1/models/{model}:classify", tag = "tensorflow-serving", operation_id = "tf_classify",
    params(("model" = String, Path, description = "The model's name", example = "digits"), JobParameters, DeadlineParameter),
    request_body = RankBody,
    responses((status = 200, description = "`result`: per example the classes with their scores", body = Value), PlainRefusals),
)]
pub(super) fn tf_classify() {}

/// Regress
#[utoipa::path(
    post, path = "/v1/models/{model}:regress", tag = "tensorflow-serving", operation_id = "tf_regress",
    params(("model" = String, Path, description = "The model's name", example = "digits"), JobParameters, DeadlineParameter),
    request_body = RankBody,
    responses((status = 200, description = "`result`: per example its value", body = Value), PlainRefusals),
)]
pub(super) fn tf_regress() {}

/// A model's status
///
/// TensorFlow Serving's version states, with kserve's `ready`.
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "tensorflow-serving", operation_id = "tf_status",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    responses((status = 200, description = "The status", body = Value), PlainRefusals),
)]
pub(super) fn tf_status() {}

/// A model's metadata
#[utoipa::path(
    get, path = "/v1/models/{model}/metadata", tag = "tensorflow-serving", operation_id = "tf_metadata",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    responses((status = 200, description = "The signature", body = Value), PlainRefusals),
)]
pub(super) fn tf_metadata() {}

/// Every model's name
#[utoipa::path(
    get, path = "/v1/models", tag = "tensorflow-serving", operation_id = "tf_list",
    responses((status = 200, description = "The names", body = Value), PlainRefusals),
)]
pub(super) fn tf_list() {}

/// Predict with the only or default model
#[utoipa::path(
    post, path = "/predict", tag = "predict", operation_id = "short_predict",
    params(JobParameters, DeadlineParameter), request_body = PredictBody,
    responses((status = 200, description = "`predictions` (row form) or `outputs` (column form)", body = Value), PlainRefusals),
)]
pub(super) fn short_predict() {}

/// Predict with the only or default model
#[utoipa::path(
    post, path = "/invocations", tag = "sagemaker", operation_id = "invocations",
    params(JobParameters, DeadlineParameter), request_body = PredictBody,
    responses((status = 200, description = "`predictions` (row form) or `outputs` (column form)", body = Value), PlainRefusals),
)]
pub(super) fn invocations() {}

/// Whether the only or default model serves
#[utoipa::path(
    get, path = "/ping", tag = "sagemaker", operation_id = "ping",
    responses((status = 200, description = "It does", body = Value), PlainRefusals),
)]
pub(super) fn ping() {}

/// Whether the gateway lives
#[utoipa::path(
    get, path = "/", tag = "models", operation_id = "alive",
    responses((status = 200, description = "It does", body = Value)),
)]
pub(super) fn alive() {}

/// Whether the process lives
#[utoipa::path(
    get, path = "/livez", tag = "health", operation_id = "livez",
    responses((status = 200, description = "It does", body = Value)),
)]
pub(super) fn live() {}

/// Whether predictions can be taken
#[utoipa::path(
    get, path = "/readyz", tag = "health", operation_id = "readyz",
    params(("verbose" = Option<String>, Query, description = "Show what was checked")),
    responses(
        (status = 200, description = "They can", body = Value),
        (status = 503, description = "They cannot", body = Value),
    ),
)]
pub(super) fn ready() {}
