//! Golden outputs: what a version must answer before it may serve.
//!
//! A `golden.json` beside the model (in the version's folder or the model's; for a
//! plain `NAME.onnx` among others `NAME.golden.json`) holds inputs and outputs in
//! the Open Inference Protocol's JSON form and a tolerance. The whole file runs as
//! one request.

use std::path::{Path, PathBuf};

use nobat_core::json::decode;
use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Tensor, take_bytes_element};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::files::beside;
use crate::engine::RunError;
use crate::engine::numbers::numbers;
use crate::tune::samples::Sample;
use crate::tune::synthetic::{Output, SyntheticRunner};

/// The file's name.
const FILE: &str = "golden.json";

#[derive(Deserialize)]
struct Golden {
    #[serde(default = "default_tolerance")]
    tolerance: f64,
    inputs: Vec<GoldenTensor>,
    outputs: Vec<GoldenTensor>,
}

fn default_tolerance() -> f64 {
    1e-5
}

#[derive(Deserialize)]
struct GoldenTensor {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    data: Box<RawValue>,
}

impl GoldenTensor {
    fn read(&self, datatype: Datatype) -> Result<Tensor, String> {
        decode::tensor(self.name.as_str().into(), datatype, &self.shape, self.data.get()).map_err(|error| error.message)
    }
}

/// The golden file of a version, if it has one.
pub(crate) fn find(model_file: &Path) -> Option<PathBuf> {
    beside(model_file, FILE)
}

/// The hash of a version's golden file, which tells a new or changed one; `None` without one.
pub(crate) fn hash(model_file: &Path) -> Option<[u8; 32]> {
    // One that cannot be read is refused where it is checked.
    find(model_file).map(|file| Sha256::digest(std::fs::read(file).unwrap_or_default()).into())
}

/// Runs the golden inputs and compares.
///
/// # Errors
/// One line: the file, the output, the element, both values.
pub(crate) fn check(path: &Path, model: &mut SyntheticRunner<'_>, outputs: &[TensorSpec]) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    let golden: Golden =
        serde_json::from_str(&text).map_err(|error| format!("`{}` is not golden data: {error}", path.display()))?;
    run(&golden, model, outputs).map_err(|reason| format!("golden check of `{}`: {reason}", path.display()))
}

fn run(golden: &Golden, model: &mut SyntheticRunner<'_>, outputs: &[TensorSpec]) -> Result<(), String> {
    let position = |specs: &[TensorSpec], kind: &str, name: &str| {
        let at = specs.iter().position(|spec| spec.name == name);
        at.ok_or_else(|| format!("the model has no {kind} `{name}`"))
    };
    let mut inputs: Sample = model.inputs.iter().map(|_| None).collect();
    for tensor in &golden.inputs {
        let at = position(model.inputs, "input", &tensor.name)?;
        let datatype = model.inputs[at].datatype;
        if Datatype::parse(&tensor.datatype) != Some(datatype) {
            return Err(format!("input `{}` is {}, the model takes {datatype}", tensor.name, tensor.datatype));
        }
        inputs[at] = Some(tensor.read(datatype)?);
    }
    let answer = model.sample(&inputs).map_err(|error| match error {
        RunError::Failed(reason) | RunError::Invalid(reason) => reason,
        RunError::Ended(_) => format!(
            "the run was ended after {} s; give golden inputs that the model answers sooner",
            model.limit.run.as_secs_f64()
        ),
    })?;
    golden.outputs.iter().try_for_each(|want| {
        let at = position(outputs, "output", &want.name)?;
        compare(want, &answer[at], golden.tolerance).map_err(|what| format!("output `{}` {what}", want.name))
    })
}

fn compare(want: &GoldenTensor, got: &Output, tolerance: f64) -> Result<(), String> {
    if got.shape[..] != want.shape[..] {
        return Err(format!("has shape {:?}, golden {:?}", got.shape.as_slice(), want.shape));
    }
    // Numbers are compared as they are written, not rounded to the output's datatype.
    let written = if matches!(got.datatype, Datatype::Bytes | Datatype::Bool) { got.datatype } else { Datatype::Fp64 };
    let golden = want.read(written)?;
    if got.datatype == Datatype::Bytes {
        let mut rest = &golden.data[..];
        let texts = std::iter::from_fn(|| take_bytes_element(&mut rest));
        return match texts.zip(&got.texts).enumerate().find(|(_, (want, got))| *want != got.as_bytes()) {
            Some((at, (want, got))) => {
                Err(format!("element {at} is {got:?}, golden {:?}", String::from_utf8_lossy(want)))
            }
            None => Ok(()),
        };
    }
    for (at, (golden, got)) in numbers(written, &golden.data).into_iter().zip(&got.values).enumerate() {
        let off = (golden - got).abs();
        if off.is_nan() || off > tolerance * golden.abs().max(1.0) {
            return Err(format!("element {at} is {got}, golden {golden}, tolerance {tolerance}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_named_like_the_model_comes_before_the_folders() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("1")).expect("a folder");
        assert_eq!(find(&path("a.onnx")), None);
        std::fs::write(path(FILE), "{}").expect("a file");
        std::fs::write(path("a.golden.json"), "{}").expect("a file");
        assert_eq!(find(&path("a.onnx")), Some(path("a.golden.json")));
        assert_eq!(find(&path("b.onnx")), Some(path(FILE)));
        assert_eq!(find(&path("1/model.onnx")), Some(path(FILE)));
    }
}
