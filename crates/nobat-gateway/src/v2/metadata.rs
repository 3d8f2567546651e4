//! What the server and its models say about themselves. The messages are the
//! gRPC ones; HTTP writes the same fields as JSON.

use nobat_core::signature::TensorSpec;
use nobat_serving::registry::{ModelEntry, ResolvedModel};

use crate::proto::model_metadata_response::TensorMetadata;
use crate::proto::{ModelMetadataResponse, ServerMetadataResponse};

/// Extensions of the protocol that this server keeps; clients look here before
/// they use one.
const EXTENSIONS: [&str; 7] = [
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "binary_tensor_data",
    "parameters",
    "statistics",
];

/// The server's name, version and extensions.
pub(crate) fn server() -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: "nobat".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        extensions: EXTENSIONS.map(String::from).to_vec(),
    }
}

/// A model's inputs and outputs, the batch axis included as -1, and the
/// versions there are.
pub(crate) fn model(entry: &ModelEntry, target: &ResolvedModel) -> ModelMetadataResponse {
    let tensors = |specs: &[TensorSpec]| specs.iter().map(tensor).collect();
    let mut versions: Vec<String> =
        entry.versions.iter().map(|version| version.signature.version.to_string()).collect();
    versions.reverse();
    ModelMetadataResponse {
        name: entry.name.to_string(),
        versions,
        platform: super::config::PLATFORM.into(),
        inputs: tensors(&target.signature.inputs),
        outputs: tensors(&target.signature.outputs),
    }
}

fn tensor(spec: &TensorSpec) -> TensorMetadata {
    TensorMetadata { name: spec.name.to_string(), datatype: spec.datatype.as_str().into(), shape: spec.shape.clone() }
}
