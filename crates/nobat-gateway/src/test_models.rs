//! Models of the tests of what callers send: inputs by name, and nothing else.

use nobat_core::signature::{ModelSignature, ModelState, TensorSpec};
use nobat_core::tensor::Datatype;

/// A model of these inputs: name, datatype, shape, whether it may be left out.
pub(crate) fn model(inputs: &[(&str, Datatype, &[i64], bool)]) -> ModelSignature {
    let spec = |&(name, datatype, shape, optional): &(&str, Datatype, &[i64], bool)| TensorSpec {
        name: name.into(),
        datatype,
        shape: shape.to_vec(),
        optional,
    };
    ModelSignature {
        name: "m".into(),
        version: "1".into(),
        digest: String::new(),
        state: ModelState::Ready,
        reason: String::new(),
        inputs: inputs.iter().map(spec).collect(),
        outputs: vec![],
        batched: true,
        rows: Default::default(),
        max_batch_size: 8,
        max_rows: 8,
        finite: false,
        default: false,
        labels: vec![],
        settings: serde_json::Map::new(),
        task: None,
    }
}
