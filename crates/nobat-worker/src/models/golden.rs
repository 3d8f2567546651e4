//! Golden outputs: what a version must answer before it may serve.
//!
//! A `golden.json` beside the model (in the version's folder or the model's; for a
//! plain `NAME.onnx` among others `NAME.golden.json`) holds inputs and outputs in
//! the Open Inference Protocol's JSON form and a tolerance. The whole file runs as
//! one request.

use std::path::{Path, PathBuf};

use nobat_core::signature::TensorSpec;
use nobat_core::tensor::Datatype;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::engine::buffer::Buffer;
use crate::engine::input::OwnedInput;
use crate::engine::numbers::numbers;
use crate::engine::{Engine, InputView, OutputData, RunError};
use crate::tune::limit::LoadLimit;

/// The file's name.
pub(crate) const FILE: &str = "golden.json";

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
    data: Vec<serde_json::Value>,
}

/// The golden file of a version, if it has one.
pub(crate) fn find(model_file: &Path) -> Option<PathBuf> {
    let version = model_file.parent()?;
    let above = version
        .parent()
        .filter(|_| version.file_name().is_some_and(|name| name.to_string_lossy().parse::<u64>().is_ok()));
    let in_folders = [Some(version), above].into_iter().flatten().map(|folder| folder.join(FILE));
    [model_file.with_extension(FILE)].into_iter().chain(in_folders).find(|path| path.is_file())
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
pub(crate) fn check(
    path: &Path,
    engine: &mut dyn Engine,
    inputs: &[TensorSpec],
    outputs: &[TensorSpec],
    limit: &LoadLimit<'_>,
) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    let golden: Golden =
        serde_json::from_str(&text).map_err(|error| format!("`{}` is not golden data: {error}", path.display()))?;
    compare(&golden, engine, inputs, outputs, limit)
        .map_err(|reason| format!("golden check of `{}`: {reason}", path.display()))
}

fn compare(
    golden: &Golden,
    engine: &mut dyn Engine,
    inputs: &[TensorSpec],
    outputs: &[TensorSpec],
    limit: &LoadLimit<'_>,
) -> Result<(), String> {
    let mut prepared: Vec<OwnedInput<'_>> = Vec::new();
    for tensor in &golden.inputs {
        let index = inputs
            .iter()
            .position(|spec| spec.name == tensor.name)
            .ok_or_else(|| format!("the model has no input `{}`", tensor.name))?;
        if Datatype::parse(&tensor.datatype) != Some(inputs[index].datatype) {
            return Err(format!(
                "input `{}` is {}, the model takes {}",
                tensor.name, tensor.datatype, inputs[index].datatype
            ));
        }
        let datatype = inputs[index].datatype;
        let (mut bytes, mut texts) = (Buffer::default(), Vec::new());
        bytes.reset(tensor.data.len() * 8);
        for value in &tensor.data {
            if datatype == Datatype::Bytes {
                texts.push(value.as_str().ok_or_else(|| format!("input `{}` takes strings", tensor.name))?);
            } else {
                push(&mut bytes, datatype, value)
                    .ok_or_else(|| format!("input `{}`: {value} is not {datatype}", tensor.name))?;
            }
        }
        prepared.push(OwnedInput { index, datatype, shape: tensor.shape.as_slice().into(), bytes, texts });
    }
    prepared.sort_by_key(|input| input.index);
    let views: Vec<InputView<'_>> = prepared.iter().map(OwnedInput::view).collect();
    let mut outcome = Ok(());
    engine
        .run(&views, Some(limit.next()), &mut |got| {
            outcome = golden.outputs.iter().try_for_each(|want| {
                let at = outputs
                    .iter()
                    .position(|spec| spec.name == want.name)
                    .ok_or_else(|| format!("the model has no output `{}`", want.name))?;
                if got[at].shape != want.shape.as_slice() {
                    return Err(format!(
                        "output `{}` has shape {:?}, golden {:?}",
                        want.name, got[at].shape, want.shape
                    ));
                }
                match &got[at].data {
                    OutputData::Raw(raw) => compare_numbers(want, &numbers(got[at].datatype, raw), golden.tolerance),
                    OutputData::Text(texts) => {
                        match want.data.iter().zip(texts).position(|(want, got)| want.as_str() != Some(got)) {
                            Some(at) => Err(format!(
                                "output `{}` element {at} is {:?}, golden {}",
                                want.name, texts[at], want.data[at]
                            )),
                            None => Ok(()),
                        }
                    }
                }
            });
        })
        .map_err(|error| match error {
            RunError::Failed(reason) | RunError::Invalid(reason) => reason,
            RunError::Ended(_) => {
                format!(
                    "the run was ended after {} s; give golden inputs that the model answers sooner",
                    limit.run.as_secs_f64()
                )
            }
        })?;
    outcome
}

fn compare_numbers(want: &GoldenTensor, got: &[f64], tolerance: f64) -> Result<(), String> {
    if got.len() != want.data.len() {
        return Err(format!("output `{}` has {} elements, golden {}", want.name, got.len(), want.data.len()));
    }
    for (at, (golden, &got)) in want.data.iter().zip(got).enumerate() {
        let golden = golden
            .as_f64()
            .or(golden.as_bool().map(f64::from))
            .ok_or_else(|| format!("output `{}`: {golden} is not a number", want.name))?;
        let off = (golden - got).abs();
        if off.is_nan() || off > tolerance * golden.abs().max(1.0) {
            return Err(format!(
                "output `{}` element {at} is {got}, golden {golden}, tolerance {tolerance}",
                want.name
            ));
        }
    }
    Ok(())
}

fn push(buffer: &mut Buffer, datatype: Datatype, value: &serde_json::Value) -> Option<()> {
    macro_rules! integer {
        ($type:ty) => {
            buffer.push(
                &<$type>::try_from(value.as_i64().map(i128::from).or(value.as_u64().map(i128::from))?)
                    .ok()?
                    .to_le_bytes(),
            )
        };
    }
    match datatype {
        Datatype::Bool => buffer.push(&[u8::from(value.as_bool().or(value.as_u64().map(|number| number != 0))?)]),
        Datatype::Uint8 => integer!(u8),
        Datatype::Uint16 => integer!(u16),
        Datatype::Uint32 => integer!(u32),
        Datatype::Uint64 => integer!(u64),
        Datatype::Int8 => integer!(i8),
        Datatype::Int16 => integer!(i16),
        Datatype::Int32 => integer!(i32),
        Datatype::Int64 => integer!(i64),
        Datatype::Fp16 => buffer.push(&half::f16::from_f64(value.as_f64()?).to_le_bytes()),
        Datatype::Bf16 => buffer.push(&half::bf16::from_f64(value.as_f64()?).to_le_bytes()),
        Datatype::Fp32 => buffer.push(&(value.as_f64()? as f32).to_le_bytes()),
        Datatype::Fp64 => buffer.push(&value.as_f64()?.to_le_bytes()),
        Datatype::Bytes => return None,
    }
    Some(())
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
