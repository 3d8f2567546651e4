//! Signatures of models that no file stands for.

use nobat_core::signature::{ModelSignature, ModelState, TensorSpec};
use nobat_core::tensor::Datatype;

/// A tensor of this name, datatype and shape.
pub fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: shape.to_vec(), optional: false }
}

/// Version 1 of a model that is ready and batches its rows.
pub fn ready(name: &str, inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> ModelSignature {
    ModelSignature {
        name: name.into(),
        version: "1".into(),
        digest: name.into(),
        state: ModelState::Ready,
        reason: String::new(),
        inputs,
        outputs,
        batched: true,
        rows: Default::default(),
        max_batch_size: 8,
        max_rows: 64,
        finite: false,
        default: false,
        labels: Vec::new(),
        settings: Default::default(),
        task: None,
    }
}
