//! Rows from CSV and JSONL.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Shape, Tensor};
use nobat_core::{Error, Result};
use nobat_statistics::reading::element;
use serde_json::{Map, Value};

use super::inputs::{ModelInputs, is_label};

/// One row's inputs, and its label where the file has one.
pub(super) type TextRow = (Vec<Tensor>, Option<String>);

/// Reads CSV with a header. A column belongs to the input it is named after, `NAME` or
/// `NAME.0`, `NAME.1`…; with one input all columns but the label are its elements, in order.
pub(super) fn csv(bytes: &[u8], model: ModelInputs) -> Result<Vec<TextRow>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let broken = |e: csv::Error| Error::invalid(e.to_string());
    let header: Vec<String> = reader.headers().map_err(broken)?.iter().map(str::to_owned).collect();
    let named = |spec: &TensorSpec| -> Vec<usize> {
        let own = |name: &str| {
            let rest = name.strip_prefix(spec.name.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest[1..].parse::<u32>().is_ok() && rest.starts_with(['.', '_']))
        };
        (0..header.len()).filter(|&column| own(&header[column])).collect()
    };
    let label = header.iter().position(|name| is_label(name) && !model.specs.iter().any(|spec| spec.name == name));
    let columns: Vec<Vec<usize>> = match model.specs {
        [only] if named(only).is_empty() => vec![(0..header.len()).filter(|&column| Some(column) != label).collect()],
        specs => specs.iter().map(named).collect(),
    };
    let mut rows = Vec::new();
    for (at, record) in reader.records().enumerate() {
        let record = record.map_err(broken)?;
        let mut tensors = Vec::with_capacity(columns.len());
        for (spec, columns) in model.specs.iter().zip(&columns) {
            if columns.is_empty() && spec.optional {
                continue;
            }
            let cells = columns.iter().map(|&column| Value::from(record.get(column).unwrap_or_default()));
            let shape: Shape = [columns.len() as i64].as_slice().into();
            let tensor = model.tensor(spec, cells.collect(), shape);
            tensors.push(tensor.map_err(|e| Error::invalid(format!("line {}: {}", at + 2, e.message)))?);
        }
        rows.push((tensors, label.and_then(|column| record.get(column)).map(str::to_owned)));
    }
    Ok(rows)
}

/// Reads a JSON value a line: an object of inputs by name, `{"inputs": …}` with such an
/// object or the Open Inference Protocol's list of tensors, or an array for the only input.
pub(super) fn jsonl(bytes: &[u8], model: ModelInputs) -> Result<Vec<TextRow>> {
    let lines = bytes.split(|&byte| byte == b'\n').enumerate();
    let filled = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let row = |(at, line): (usize, &[u8])| {
        let read = serde_json::from_slice(line).map_err(|e| Error::invalid(format!("it is no JSON: {e}")));
        read.and_then(|value| json_row(value, model))
            .map_err(|e| Error::invalid(format!("line {}: {}", at + 1, e.message)))
    };
    filled.map(row).collect()
}

fn json_row(value: Value, model: ModelInputs) -> Result<TextRow> {
    let mut object = match value {
        Value::Object(object) => object,
        Value::Array(_) => {
            let [only] = model.specs else {
                return Err(Error::invalid("the model has several inputs; give them by name"));
            };
            Map::from_iter([(only.name.to_string(), value)])
        }
        _ => return Err(Error::invalid("it holds neither an object nor an array")),
    };
    let label = object.iter().find(|(name, _)| is_label(name) && !model.specs.iter().any(|spec| spec.name == **name));
    let label = label.map(|(_, label)| label.as_str().map_or_else(|| label.to_string(), str::to_owned));
    let mut redacted = Vec::new();
    let is_input = |name: &str| model.specs.iter().any(|spec| spec.name == name);
    match object.remove("inputs") {
        Some(Value::Object(inputs)) if !is_input("inputs") => object = inputs,
        Some(Value::Array(tensors)) if !is_input("inputs") => {
            object = tensors
                .into_iter()
                .filter_map(|mut tensor| {
                    let name = tensor.get("name")?.as_str()?.to_owned();
                    if tensor.get("redacted").and_then(Value::as_bool) == Some(true) {
                        redacted.push(name);
                        return None;
                    }
                    // A tensor of the protocol has its batch axis: its one row is unwrapped.
                    Some((name, reshaped(tensor.get_mut("data")?.take(), tensor.get("shape")?, model.batched)))
                })
                .collect();
        }
        Some(own) => drop(object.insert("inputs".into(), own)),
        None => {}
    }
    let mut tensors = Vec::with_capacity(model.specs.len());
    for spec in model.specs {
        let Some(value) = object.remove(spec.name.as_str()) else {
            if spec.optional {
                continue;
            }
            let why = match redacted.iter().any(|name| *name == spec.name.as_str()) {
                true => "was redacted when it was recorded, so that the request cannot be replayed",
                false => "is missing",
            };
            return Err(Error::invalid(format!("input `{}` {why}", spec.name)));
        };
        let (mut cells, mut shape) = (Vec::new(), Shape::new());
        flatten(value, 0, &mut cells, &mut shape);
        let count = nobat_core::tensor::elements(&spec.name, &shape)?;
        if count != cells.len() {
            return Err(Error::invalid(format!("input `{}` is ragged", spec.name)));
        }
        tensors.push(model.tensor(spec, cells, shape)?);
    }
    Ok((tensors, label))
}

fn flatten(value: Value, depth: usize, cells: &mut Vec<Value>, shape: &mut Shape) {
    let Value::Array(values) = value else { return cells.push(value) };
    if shape.len() == depth {
        shape.push(values.len() as i64);
    }
    values.into_iter().for_each(|value| flatten(value, depth + 1, cells, shape));
}

/// Flat `data` as nested arrays of `shape`, without the batch axis of one row.
fn reshaped(data: Value, shape: &Value, batched: bool) -> Value {
    let dims = shape.as_array().map(|dims| dims.iter().filter_map(Value::as_u64).map(|dim| dim as usize));
    let mut dims: Vec<usize> = dims.map(Iterator::collect).unwrap_or_default();
    if batched && dims.first() == Some(&1) {
        dims.remove(0);
    }
    let (mut cells, mut seen) = (Vec::new(), Shape::new());
    flatten(data, 0, &mut cells, &mut seen);
    if dims.is_empty() {
        return cells.pop().unwrap_or_default();
    }
    for &dim in dims[1..].iter().rev().filter(|&&dim| dim > 0) {
        cells = cells.chunks(dim).map(|row| Value::from(row.to_vec())).collect();
    }
    Value::from(cells)
}

impl ModelInputs<'_> {
    /// A request's tensor of one row from its cells, whose own shape is `shape`.
    fn tensor(self, spec: &TensorSpec, cells: Vec<Value>, shape: Shape) -> Result<Tensor> {
        let wrong = |cell: &Value| Error::invalid(format!("input `{}` takes {}, not {cell}", spec.name, spec.datatype));
        let mut data = Vec::new();
        for cell in &cells {
            if let Some(bytes) = whole(cell, spec.datatype) {
                data.extend(bytes);
                continue;
            }
            let number = match cell {
                _ if spec.datatype == Datatype::Bytes => {
                    let bytes = bytes_of(cell).ok_or_else(|| wrong(cell))?;
                    data.extend((bytes.len() as u32).to_le_bytes());
                    data.extend(&bytes[..]);
                    continue;
                }
                // JSON has no NaN: a recorded one is null.
                Value::Null if is_float(spec.datatype) => Some(f64::NAN),
                Value::String(text) => match text.to_ascii_lowercase().as_str() {
                    "true" => Some(1.0),
                    "false" => Some(0.0),
                    text => text.parse().ok(),
                },
                Value::Bool(yes) => Some(f64::from(u8::from(*yes))),
                cell => cell.as_f64(),
            };
            data.extend(number.and_then(|number| element(number, spec.datatype)).ok_or_else(|| wrong(cell))?);
        }
        let shape = self.row_shape(spec, &shape, cells.len())?;
        Ok(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data: data.into() })
    }
}

/// The bytes of a text, or of what is no text and stands as `{"b64": …}`.
fn bytes_of(cell: &Value) -> Option<Cow<'_, [u8]>> {
    match cell {
        Value::String(text) => Some(Cow::Borrowed(text.as_bytes())),
        cell => STANDARD.decode(cell.get("b64")?.as_str()?).ok().map(Cow::Owned),
    }
}

fn is_float(datatype: Datatype) -> bool {
    matches!(datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64)
}

/// The bytes of a whole number of 64 bits, which a float may not hold.
fn whole(cell: &Value, datatype: Datatype) -> Option<[u8; 8]> {
    match (datatype, cell) {
        (Datatype::Int64, Value::String(text)) => text.parse::<i64>().ok().map(i64::to_le_bytes),
        (Datatype::Int64, cell) => cell.as_i64().map(i64::to_le_bytes),
        (Datatype::Uint64, Value::String(text)) => text.parse::<u64>().ok().map(u64::to_le_bytes),
        (Datatype::Uint64, cell) => cell.as_u64().map(u64::to_le_bytes),
        _ => None,
    }
}
