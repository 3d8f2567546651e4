//! Models of the tests of what callers send: inputs by name, and nothing else.

use nobat_core::signature::{ModelSignature, TensorSpec};
use nobat_core::tensor::Datatype;
use nobat_testkit::signatures::{ready, spec};

/// A model of these inputs: name, datatype, shape, whether it may be left out.
pub(crate) fn model(inputs: &[(&str, Datatype, &[i64], bool)]) -> ModelSignature {
    let tensor = |&(name, datatype, shape, optional): &(&str, Datatype, &[i64], bool)| TensorSpec {
        optional,
        ..spec(name, datatype, shape)
    };
    ModelSignature { max_rows: 8, ..ready("m", inputs.iter().map(tensor).collect(), vec![]) }
}
