//! The protocol's JSON objects as the OpenAPI document describes them; what reads and
//! writes them is in [`super::json`] and in the messages that gRPC has too.
#![allow(dead_code, reason = "only the documentation is used")]

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::openapi::digit_example;

/// A datatype of the protocol.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Datatype {
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
pub(super) struct InferBody {
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
pub(super) struct InferInput {
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
pub(super) struct WantedOutput {
    /// The output's name.
    name: String,
    /// `binary_data`, `classification`.
    #[schema(required = false, value_type = Option<Object>)]
    parameters: Option<Map<String, Value>>,
}

/// An inference answer.
#[derive(Serialize, ToSchema)]
pub(super) struct InferAnswer {
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
pub(super) struct InferOutput {
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
pub(super) struct ServerMetadata {
    name: String,
    version: String,
    /// Extensions of the protocol that it keeps.
    extensions: Vec<String>,
}

/// A model.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelMetadata {
    name: String,
    versions: Vec<String>,
    platform: String,
    inputs: Vec<TensorMetadata>,
    outputs: Vec<TensorMetadata>,
}

/// An input or output of a model.
#[derive(Serialize, ToSchema)]
pub(super) struct TensorMetadata {
    name: String,
    datatype: Datatype,
    /// -1 is any size; the batch axis is included.
    shape: Vec<i64>,
}

/// A model's readiness.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelReady {
    name: String,
    ready: bool,
}

/// Which models to list.
#[derive(Serialize, ToSchema)]
pub(super) struct IndexBody {
    /// Only those that serve.
    #[schema(required = false)]
    ready: bool,
}

/// One version of a model in the repository.
#[derive(Serialize, ToSchema)]
pub(super) struct IndexRow {
    name: String,
    version: String,
    state: String,
    reason: String,
}

/// What to load or unload besides the name.
#[derive(Serialize, ToSchema)]
pub(super) struct LoadBody {
    /// Files and configurations cannot come with the request.
    #[schema(required = false, value_type = Object)]
    parameters: Map<String, Value>,
}

/// Statistics.
#[derive(Serialize, ToSchema)]
pub(super) struct Statistics {
    /// One entry per model version; counters only grow.
    #[schema(value_type = Vec<Object>)]
    model_stats: Vec<Value>,
}
