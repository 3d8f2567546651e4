//! Documentation of the Open Inference Protocol v2 over HTTP; the handlers are
//! in `crate::v2`, which knows no OpenAPI.
#![allow(dead_code, reason = "only the documentation is used")]

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::refusals::PlainRefusals;
use crate::routes::native::objects::{PlainError, digit_example};

/// A datatype of the protocol.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Bytes,
}

/// An inference request.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "inputs": [{ "name": "input", "shape": [1, 64], "datatype": "FP32", "data": digit_example() }]
}))]
struct InferBody {
    /// Comes back with the answer.
    #[schema(required = false)]
    id: Option<String>,
    /// `priority` (1 is the highest), `timeout` (microseconds), `binary_data_output`, and a model's own.
    #[schema(required = false, value_type = Option<Object>)]
    parameters: Option<Map<String, Value>>,
    /// The tensors.
    inputs: Vec<InferInput>,
    /// Outputs wanted; all when left out.
    #[schema(required = false)]
    outputs: Option<Vec<WantedOutput>>,
}

/// An input tensor.
#[derive(Serialize, ToSchema)]
struct InferInput {
    /// The input's name.
    name: String,
    /// Its dimensions, the batch axis included.
    shape: Vec<i64>,
    /// Its element type.
    datatype: Datatype,
    /// `binary_data_size`: bytes of it after the document.
    #[schema(required = false, value_type = Option<Object>)]
    parameters: Option<Map<String, Value>>,
    /// Its elements, flat or nested, unless they follow in binary.
    #[schema(required = false)]
    data: Option<Vec<Value>>,
}

/// An output that a request asks for.
#[derive(Serialize, ToSchema)]
struct WantedOutput {
    /// The output's name.
    name: String,
    /// `binary_data`, `classification`.
    #[schema(required = false, value_type = Option<Object>)]
    parameters: Option<Map<String, Value>>,
}

/// An inference answer.
#[derive(Serialize, ToSchema)]
struct InferAnswer {
    /// The request's id, when it had one.
    #[schema(required = false, nullable = false)]
    id: Option<String>,
    /// The model that answered.
    model_name: String,
    /// The version that answered.
    model_version: String,
    /// The tensors.
    outputs: Vec<InferOutput>,
}

/// An output tensor.
#[derive(Serialize, ToSchema)]
struct InferOutput {
    /// The output's name.
    name: String,
    /// Its element type.
    datatype: Datatype,
    /// Its dimensions.
    shape: Vec<i64>,
    /// `binary_data_size` when its elements follow the document.
    #[schema(required = false, value_type = Object, nullable = false)]
    parameters: Option<Map<String, Value>>,
    /// Its elements, flat.
    #[schema(required = false, nullable = false)]
    data: Option<Vec<Value>>,
}

/// The server.
#[derive(Serialize, ToSchema)]
struct ServerMetadata {
    name: String,
    version: String,
    /// Extensions of the protocol that it keeps.
    extensions: Vec<String>,
}

/// A model.
#[derive(Serialize, ToSchema)]
struct ModelMetadata {
    name: String,
    versions: Vec<String>,
    platform: String,
    inputs: Vec<TensorMetadata>,
    outputs: Vec<TensorMetadata>,
}

/// An input or output of a model.
#[derive(Serialize, ToSchema)]
struct TensorMetadata {
    name: String,
    datatype: Datatype,
    /// -1 is any size; the batch axis is included.
    shape: Vec<i64>,
}

/// A model's readiness.
#[derive(Serialize, ToSchema)]
struct ModelReady {
    name: String,
    ready: bool,
}

/// Which models to list.
#[derive(Serialize, ToSchema)]
struct IndexBody {
    /// Only those that serve.
    #[schema(required = false)]
    ready: bool,
}

/// One version of a model in the repository.
#[derive(Serialize, ToSchema)]
struct IndexRow {
    name: String,
    version: String,
    state: String,
    reason: String,
}

/// What to load or unload besides the name.
#[derive(Serialize, ToSchema)]
struct LoadBody {
    /// Files and configurations cannot come with the request.
    #[schema(required = false, value_type = Object)]
    parameters: Map<String, Value>,
}

/// Statistics.
#[derive(Serialize, ToSchema)]
struct Statistics {
    /// One entry per model version; counters only grow.
    #[schema(value_type = Vec<Object>)]
    model_stats: Vec<Value>,
}

/// The server's name, version and extensions
#[utoipa::path(
    get, path = "/v2", tag = "open-inference-protocol", operation_id = "v2_server",
    responses((status = 200, description = "The server", body = ServerMetadata), PlainRefusals),
)]
pub(super) fn about() {}

/// Whether the server lives
#[utoipa::path(
    get, path = "/v2/health/live", tag = "open-inference-protocol", operation_id = "v2_live",
    responses((status = 200, description = "It does", body = Value)),
)]
pub(super) fn live() {}

/// Whether the server can take predictions
#[utoipa::path(
    get, path = "/v2/health/ready", tag = "open-inference-protocol", operation_id = "v2_ready",
    responses(
        (status = 200, description = "It can", body = Value),
        (status = 503, description = "It cannot", body = Value),
    ),
)]
pub(super) fn ready() {}

/// Every model's name
#[utoipa::path(
    get, path = "/v2/models", tag = "open-inference-protocol", operation_id = "v2_models",
    responses((status = 200, description = "The names", body = Value), PlainRefusals),
)]
pub(super) fn list() {}

/// A model's inputs and outputs
#[utoipa::path(
    get, path = "/v2/models/{model}", tag = "open-inference-protocol", operation_id = "v2_model",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    responses((status = 200, description = "The model", body = ModelMetadata), PlainRefusals),
)]
pub(super) fn describe() {}

/// Whether a model serves
#[utoipa::path(
    get, path = "/v2/models/{model}/ready", tag = "open-inference-protocol", operation_id = "v2_model_ready",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    responses(
        (status = 200, description = "It does", body = ModelReady),
        PlainRefusals,
        (status = 503, description = "It does not, or the server is shutting down", body = Value),
    ),
)]
pub(super) fn model_ready() {}

/// A model's configuration, as Triton's clients read it
#[utoipa::path(
    get, path = "/v2/models/{model}/config", tag = "open-inference-protocol", operation_id = "v2_config",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    responses((status = 200, description = "The configuration", body = Object), PlainRefusals),
)]
pub(super) fn config() {}

/// A model's statistics
#[utoipa::path(
    get, path = "/v2/models/{model}/stats", tag = "open-inference-protocol", operation_id = "v2_statistics",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    responses((status = 200, description = "The statistics", body = Statistics), PlainRefusals),
)]
pub(super) fn statistics() {}

/// Every model's statistics
#[utoipa::path(
    get, path = "/v2/models/stats", tag = "open-inference-protocol", operation_id = "v2_all_statistics",
    responses((status = 200, description = "The statistics", body = Statistics), PlainRefusals),
)]
pub(super) fn all_statistics() {}

/// Infer
///
/// With the header `Inference-Header-Content-Length` the body is the JSON
/// document of that many bytes, then the binary tensors in its order; the
/// answer takes the same form where a tensor of it is binary.
#[utoipa::path(
    post, path = "/v2/models/{model}/infer", tag = "open-inference-protocol", operation_id = "v2_infer",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    request_body = InferBody,
    responses((status = 200, description = "The answer", content(
        (InferAnswer = "application/json"),
        (String = "application/octet-stream"),
    )), PlainRefusals, (status = 501, description = "Shared memory and sequences are not kept", body = PlainError)),
)]
pub(super) fn infer() {}

/// Every model version and its state
#[utoipa::path(
    post, path = "/v2/repository/index", tag = "open-inference-protocol", operation_id = "v2_index",
    request_body(content = Option<IndexBody>),
    responses((status = 200, description = "The versions", body = Vec<IndexRow>), PlainRefusals),
)]
pub(super) fn index() {}

/// Load a model, or load it again
///
/// Answers when it serves.
#[utoipa::path(
    post, path = "/v2/repository/models/{model}/load", tag = "open-inference-protocol", operation_id = "v2_load",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    request_body(content = Option<LoadBody>),
    responses(
        (status = 200, description = "It serves", body = Value),
        PlainRefusals,
        (status = 501, description = "Models do not come with the request", body = PlainError),
    ),
)]
pub(super) fn load() {}

/// Unload a model
#[utoipa::path(
    post, path = "/v2/repository/models/{model}/unload", tag = "open-inference-protocol", operation_id = "v2_unload",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    request_body(content = Option<LoadBody>),
    responses((status = 200, description = "No worker serves it", body = Value), PlainRefusals),
)]
pub(super) fn unload() {}

/// System shared memory: none is kept
#[utoipa::path(
    get, path = "/v2/systemsharedmemory/status", tag = "open-inference-protocol", operation_id = "v2_system_memory",
    responses((status = 200, description = "No regions", body = Vec<Value>), PlainRefusals),
)]
pub(super) fn system_regions() {}

/// CUDA shared memory: none is kept
#[utoipa::path(
    get, path = "/v2/cudasharedmemory/status", tag = "open-inference-protocol", operation_id = "v2_cuda_memory",
    responses((status = 200, description = "No regions", body = Vec<Value>), PlainRefusals),
)]
pub(super) fn cuda_regions() {}

/// Trace settings: tracing of this kind is off
#[utoipa::path(
    get, path = "/v2/trace/setting", tag = "open-inference-protocol", operation_id = "v2_trace",
    responses((status = 200, description = "The settings", body = Object), PlainRefusals),
)]
pub(super) fn trace() {}

/// Log settings
#[utoipa::path(
    get, path = "/v2/logging", tag = "open-inference-protocol", operation_id = "v2_logging",
    responses((status = 200, description = "The settings", body = Object), PlainRefusals),
)]
pub(super) fn logging() {}

/// Change trace settings: not here
#[utoipa::path(
    post, path = "/v2/trace/setting", tag = "open-inference-protocol", operation_id = "v2_change_trace",
    responses((status = 501, description = "They are set where the server is started", body = PlainError), PlainRefusals),
)]
pub(super) fn change_trace() {}

/// Change log settings: not here
#[utoipa::path(
    post, path = "/v2/logging", tag = "open-inference-protocol", operation_id = "v2_change_logging",
    responses((status = 501, description = "They are set where the server is started", body = PlainError), PlainRefusals),
)]
pub(super) fn change_logging() {}
