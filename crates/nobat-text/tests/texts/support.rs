//! The folders of `tests/text_models`, and a stand-in for their graphs.

use std::path::{Path, PathBuf};

use nobat_core::Result;
use nobat_core::parameters::{Parameter, Parameters};
use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Tensor, put_bytes_element, take_bytes_element};
use nobat_text::{Reading, TextFolder, TextModel, TextSettings};
use nobat_transform::{Finished, SessionOutput, Transform};
use serde_json::Value;
use smallvec::smallvec;

pub(crate) const HIDDEN: i64 = 16;
pub(crate) const VOCABULARY: i64 = 104;

pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/text_models").join(name)
}

pub(crate) fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: shape.to_vec(), optional: false }
}

/// What the folders' graphs take.
pub(crate) fn graph_inputs() -> Vec<TensorSpec> {
    ["input_ids", "attention_mask", "token_type_ids"].map(|name| spec(name, Datatype::Int64, &[-1, -1])).to_vec()
}

/// What the folder's graph gives.
pub(crate) fn graph_outputs(name: &str) -> Vec<TensorSpec> {
    let classes = match name {
        "embed" => return vec![spec("last_hidden_state", Datatype::Fp32, &[-1, -1, HIDDEN])],
        "classify" | "zero_shot" => 3,
        "rerank" => 1,
        "tokens" => 5,
        _ => VOCABULARY,
    };
    let each_token = matches!(name, "tokens" | "fill_mask" | "sparse");
    let shape: &[i64] = if each_token { &[-1, -1, classes] } else { &[-1, classes] };
    vec![spec("logits", Datatype::Fp32, shape)]
}

pub(crate) fn read(folder: &Path, settings: &TextSettings) -> Result<Box<TextFolder>> {
    match TextFolder::read(folder, settings)? {
        Reading::Text(folder) => Ok(folder),
        Reading::Tensors(why) => Err(nobat_core::Error::invalid(why)),
    }
}

pub(crate) fn model(name: &str) -> TextModel {
    let settings = TextSettings::default();
    let read = read(&folder(name), &settings).expect("the folder reads");
    TextModel::new(*read, &graph_inputs(), &graph_outputs(name), &settings).expect("the graph fits")
}

/// As [`model`], with a tokenizer that tells which text of a pair a token is of.
pub(crate) fn typed(name: &str) -> TextModel {
    let copy = tempfile::tempdir().expect("a folder");
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(folder(name).join(file), copy.path().join(file)).expect("copies");
    }
    let named = serde_json::json!({"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]});
    std::fs::write(copy.path().join("tokenizer_config.json"), named.to_string()).expect("writes");
    let settings = TextSettings::default();
    let read = read(copy.path(), &settings).expect("the folder reads");
    TextModel::new(*read, &graph_inputs(), &graph_outputs(name), &settings).expect("the graph fits")
}

pub(crate) fn texts(name: &str, elements: &[impl AsRef<[u8]>]) -> Option<Tensor> {
    let mut data = Vec::new();
    elements.iter().for_each(|element| put_bytes_element(&mut data, element.as_ref()));
    let shape = smallvec![elements.len() as i64];
    Some(Tensor { name: name.into(), datatype: Datatype::Bytes, shape, data: data.into() })
}

pub(crate) fn given(pairs: &[(&str, Value)]) -> Parameters {
    pairs.iter().filter_map(|(name, value)| Some(((*name).into(), Parameter::of_json(value)?))).collect()
}

pub(crate) fn elements(tensor: &Tensor) -> Vec<Vec<u8>> {
    let mut rest = &tensor.data[..];
    let mut all = Vec::new();
    while let Some(element) = take_bytes_element(&mut rest) {
        all.push(element.to_vec());
    }
    all
}

pub(crate) fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

pub(crate) fn whole_numbers(tensor: &Tensor) -> Vec<i64> {
    tensor.data.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect()
}

pub(crate) fn named<'a>(tensors: &'a [Tensor], name: &str) -> &'a Tensor {
    tensors.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no `{name}` in {tensors:?}"))
}

/// A stand-in for the graph: each number follows from a token's id and place alone, and padding
/// is loud, so that an answer which heeds it is wrong.
fn run(inputs: &[Tensor], outputs: &TensorSpec) -> (Vec<i64>, Vec<u8>) {
    let (ids, mask) = (whole_numbers(named(inputs, "input_ids")), whole_numbers(named(inputs, "attention_mask")));
    let shape = &named(inputs, "input_ids").shape;
    let (rows, tokens) = (shape[0] as usize, shape[1] as usize);
    let width = *outputs.shape.last().expect("an axis") as usize;
    let number = |row: usize, token: usize, at: usize| match mask[row * tokens + token] {
        0 => 1e6,
        _ => ((ids[row * tokens + token] * 31 + token as i64 * 7 + at as i64 * 13) % 101) as f32 / 50.0 - 1.0,
    };
    let kept = if outputs.shape.len() == 3 { tokens } else { 1 };
    let all = (0..rows).flat_map(|row| (0..kept).flat_map(move |token| (0..width).map(move |at| (row, token, at))));
    let data = all.flat_map(|(row, token, at)| number(row, token, at).to_le_bytes()).collect();
    let mut shape = vec![rows as i64, width as i64];
    if outputs.shape.len() == 3 {
        shape.insert(1, tokens as i64);
    }
    (shape, data)
}

/// A job's answer, with so many rows in a run.
pub(crate) fn answer(
    name: &str,
    model: &TextModel,
    inputs: &[Option<Tensor>],
    parameters: &Parameters,
    batch: usize,
) -> Result<Vec<Tensor>> {
    let prepared = model.prepare(inputs, parameters)?;
    let mut finished: Vec<Finished> = Vec::new();
    for rows in prepared.rows.chunks(batch) {
        let rows: Vec<_> = rows.iter().collect();
        let (shape, data) = run(&model.collate(&rows)?, &graph_outputs(name)[0]);
        let output = SessionOutput { datatype: Datatype::Fp32, shape: &shape, data: &data };
        finished.extend(model.finish(&rows, &[output])?);
    }
    model.answer(&prepared.job, finished)
}
