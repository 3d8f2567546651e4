//! Golden inputs and outputs: what a model must answer to what.
//!
//! The file is the one that stands beside a model (`golden.json`): inputs and outputs in the
//! Open Inference Protocol's JSON form, and a tolerance.

use bytes::Bytes;
use nobat_core::json::{decode, encode};
use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Tensor, take_bytes_element};
use nobat_core::{Error, Result};
use nobat_statistics::reading::Rows;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Inputs and the outputs that belong to them.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenSet {
    /// How far a number may be off, as a share of it, or absolutely where it is under 1.
    pub tolerance: f64,
    /// One request's inputs.
    pub inputs: Vec<Tensor>,
    /// Its outputs; empty where nobody knows them.
    pub outputs: Vec<Tensor>,
}

/// How far an output may be off.
#[derive(Clone, Debug, PartialEq)]
pub struct Tolerances {
    /// Of outputs that are not named.
    pub default: f64,
    /// Of those that are.
    pub named: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct GoldenFile<'a> {
    #[serde(default = "default_tolerance")]
    tolerance: f64,
    #[serde(borrow)]
    inputs: Vec<GoldenTensor<'a>>,
    #[serde(borrow)]
    outputs: Vec<GoldenTensor<'a>>,
}

#[derive(Deserialize)]
struct GoldenTensor<'a> {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(borrow)]
    data: &'a RawValue,
}

const fn default_tolerance() -> f64 {
    1e-5
}

impl GoldenSet {
    /// Reads `golden.json`.
    ///
    /// # Errors
    /// `invalid_parameter`: what is wrong with it.
    pub fn parse(json: &[u8]) -> Result<GoldenSet> {
        let file: GoldenFile = serde_json::from_slice(json)
            .map_err(|e| Error::invalid(format!("it holds no golden inputs and outputs: {e}")))?;
        if !(file.tolerance >= 0.0 && file.tolerance.is_finite()) {
            return Err(Error::invalid(format!("its tolerance is {}; give 0 or more", file.tolerance)));
        }
        let read = |tensor: &GoldenTensor| {
            let datatype = Datatype::parse(&tensor.datatype).ok_or_else(|| {
                Error::invalid(format!("tensor `{}` has no known datatype: {}", tensor.name, tensor.datatype))
            })?;
            decode::tensor(tensor.name.as_str().into(), datatype, &tensor.shape, tensor.data.get())
        };
        let all = |tensors: &[GoldenTensor]| tensors.iter().map(read).collect::<Result<Vec<_>>>();
        let golden = GoldenSet { tolerance: file.tolerance, inputs: all(&file.inputs)?, outputs: all(&file.outputs)? };
        if golden.inputs.is_empty() {
            return Err(Error::invalid("it has no inputs"));
        }
        // What asks row by row has nothing to ask without one.
        if let Some(empty) = golden.inputs.iter().find(|tensor| tensor.data.is_empty()) {
            return Err(Error::invalid(format!(
                "its input `{}` of shape {:?} has no element; give at least one row",
                empty.name, empty.shape
            )));
        }
        Ok(golden)
    }

    /// Writes `golden.json`.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = format!("{{\"tolerance\":{:?}", self.tolerance).into_bytes();
        for (member, tensors) in [("inputs", &self.inputs), ("outputs", &self.outputs)] {
            out.extend_from_slice(format!(",\"{member}\":[").as_bytes());
            for (at, tensor) in tensors.iter().enumerate() {
                out.extend_from_slice(if at > 0 { b",{" } else { b"{" });
                encode::header(&mut out, tensor);
                out.extend_from_slice(b",\"data\":");
                encode::flat(&mut out, tensor);
                out.push(b'}');
            }
            out.push(b']');
        }
        out.extend_from_slice(b"}\n");
        out
    }

    /// How many rows it has, where the first axis is the batch axis; else 1.
    pub fn rows(&self, batched: bool) -> usize {
        let rows = self.inputs.first().and_then(|tensor| tensor.shape.first()).filter(|_| batched);
        rows.map_or(1, |&rows| usize::try_from(rows).unwrap_or(0))
    }

    /// The first rows of it.
    #[must_use]
    pub fn first(&self, rows: usize) -> GoldenSet {
        let cut = |tensors: &[Tensor]| tensors.iter().map(|tensor| slice(tensor, 0, rows)).collect();
        GoldenSet { tolerance: self.tolerance, inputs: cut(&self.inputs), outputs: cut(&self.outputs) }
    }

    /// One row's inputs and outputs.
    pub fn row(&self, row: usize) -> (Vec<Tensor>, Vec<Tensor>) {
        let cut = |tensors: &[Tensor]| tensors.iter().map(|tensor| slice(tensor, row, 1)).collect();
        (cut(&self.inputs), cut(&self.outputs))
    }

    /// Inputs and outputs as a signature: the first axis that all share is the batch axis.
    pub fn specs(&self) -> (Vec<TensorSpec>, Vec<TensorSpec>, bool) {
        let first = |tensor: &Tensor| tensor.shape.first().copied();
        let rows = self.inputs.first().and_then(first);
        let batched = rows.is_some() && self.inputs.iter().chain(&self.outputs).all(|tensor| first(tensor) == rows);
        let spec = |tensor: &Tensor| {
            let mut shape = tensor.shape.to_vec();
            if let Some(first) = shape.first_mut().filter(|_| batched) {
                *first = -1;
            }
            TensorSpec { name: tensor.name.clone(), datatype: tensor.datatype, shape, optional: false }
        };
        (self.inputs.iter().map(spec).collect(), self.outputs.iter().map(spec).collect(), batched)
    }
}

impl Tolerances {
    /// How far `output` may be off.
    pub fn of(&self, output: &str) -> f64 {
        self.named.get(output).copied().unwrap_or(self.default)
    }
}

/// Rows `from` to `from + rows` of a tensor.
pub fn slice(tensor: &Tensor, from: usize, rows: usize) -> Tensor {
    let all = tensor.shape.first().map_or(1, |&rows| rows.max(0) as usize);
    let (from, rows) = (from.min(all), rows.min(all - from.min(all)));
    let mut shape = tensor.shape.clone();
    if let Some(first) = shape.first_mut() {
        *first = rows as i64;
    }
    let data = match tensor.datatype.size() {
        Some(_) => {
            let width = tensor.data.len() / all.max(1);
            tensor.data.slice(from * width..(from + rows) * width)
        }
        None => {
            let width = tensor.elements().unwrap_or(0) / all.max(1);
            let mut rest = &tensor.data[..];
            let mut skip = |elements: usize| {
                for _ in 0..elements {
                    let _ = take_bytes_element(&mut rest);
                }
                tensor.data.len() - rest.len()
            };
            let start = skip(from * width);
            let end = skip(rows * width);
            tensor.data.slice(start..end)
        }
    };
    Tensor { shape, data, ..tensor.clone() }
}

/// Rows of several requests as one request.
pub fn stack(rows: &[Vec<Tensor>]) -> Vec<Tensor> {
    let first = rows.first().map(Vec::as_slice).unwrap_or_default();
    let stacked = |(at, tensor): (usize, &Tensor)| {
        let parts = || rows.iter().filter_map(|row| row.get(at));
        let mut shape = tensor.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first = parts().map(|part| part.shape.first().copied().unwrap_or(1)).sum();
        }
        let data: Vec<u8> = parts().flat_map(|part| part.data.iter().copied()).collect();
        Tensor { shape, data: Bytes::from(data), ..tensor.clone() }
    };
    first.iter().enumerate().map(stacked).collect()
}

/// How far two answers are apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// The first of what differs, in words; `None` where all is within the tolerance.
    pub first: Option<String>,
    /// Elements beyond the tolerance.
    pub beyond: u64,
    /// The farthest that a number is off: a share of it, or absolute where it is under 1.
    pub farthest: f64,
    /// Whether every byte is the same.
    pub same_bytes: bool,
}

/// Compares answers by the wanted outputs' names.
pub fn difference(want: &[Tensor], got: &[Tensor], tolerances: &Tolerances) -> Difference {
    let mut found = Difference { same_bytes: true, ..Difference::default() };
    for wanted in want {
        let Some(answered) = got.iter().find(|tensor| tensor.name == wanted.name) else {
            let names: Vec<&str> = got.iter().map(|tensor| tensor.name.as_str()).collect();
            found.say(format!("there is no output `{}`, only {}", wanted.name, names.join(", ")));
            continue;
        };
        found.add(wanted, answered, tolerances.of(&wanted.name));
    }
    found
}

fn is_float(datatype: Datatype) -> bool {
    matches!(datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64)
}

impl Difference {
    fn say(&mut self, words: String) {
        self.same_bytes = false;
        self.beyond += 1;
        self.first.get_or_insert(words);
    }

    fn add(&mut self, want: &Tensor, got: &Tensor, tolerance: f64) {
        let name = &want.name;
        // A vector of one element a row may come with or without its last axis.
        let trimmed = |tensor: &Tensor| {
            let end = tensor.shape.iter().skip(1).rposition(|&dim| dim != 1).map_or(1, |at| at + 2);
            tensor.shape[..end.min(tensor.shape.len())].to_vec()
        };
        if trimmed(want) != trimmed(got) {
            return self.say(format!("output `{name}` has shape {:?} instead of {:?}", got.shape, want.shape));
        }
        if want.data == got.data && want.datatype == got.datatype {
            return;
        }
        self.same_bytes = false;
        let rows = want.shape.first().map_or(1, |&rows| rows.max(1) as usize);
        let width = want.elements().unwrap_or(0) / rows;
        let place = |element: usize| match width {
            0 | 1 => format!("row {element} of `{name}`"),
            _ => format!("row {}, element {} of `{name}`", element / width, element % width),
        };
        if want.datatype == Datatype::Bytes || got.datatype == Datatype::Bytes {
            let (mut a, mut b) = (&want.data[..], &got.data[..]);
            for element in 0..want.elements().unwrap_or(0) {
                let (a, b) = (take_bytes_element(&mut a), take_bytes_element(&mut b));
                if a != b {
                    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
                    self.say(format!("{} is {:?} instead of {:?}", place(element), text(b), text(a)));
                }
            }
            return;
        }
        let (Some(a), Some(b)) = (Rows::of(want, 1), Rows::of(got, 1)) else {
            return self.say(format!("output `{name}` is empty"));
        };
        // A class or a token that is off by one is another.
        let tolerance = if is_float(want.datatype) { tolerance } else { 0.0 };
        // Beyond 2^53 whole numbers that differ may be one float.
        let is_exact = want.datatype == got.datatype && !is_float(want.datatype);
        let size = want.datatype.size().unwrap_or(1);
        for (element, (a, b)) in a.numbers(0).zip(b.numbers(0)).enumerate() {
            let bytes = element * size..(element + 1) * size;
            if is_exact && a == b && want.data.get(bytes.clone()) != got.data.get(bytes) {
                self.say(format!("{} is another whole number than {a}, by less than a float tells", place(element)));
                continue;
            }
            let off = if a == b || a.is_nan() && b.is_nan() { 0.0 } else { (a - b).abs() / a.abs().max(1.0) };
            if off.is_nan() || off > tolerance {
                self.say(format!("{} is {b} instead of {a}, with a tolerance of {tolerance}", place(element)));
            }
            self.farthest = if off.is_nan() { f64::INFINITY } else { self.farthest.max(off) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &[u8] = br#"{"tolerance": 0.01,
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4.5]},
                   {"name": "t", "datatype": "BYTES", "shape": [2, 1], "data": ["a", "bcd"]}],
        "outputs": [{"name": "y", "datatype": "INT64", "shape": [2], "data": [7, 8]}], "note": "kept by others"}"#;

    #[test]
    fn a_golden_file_is_read_written_and_cut_into_rows() {
        let golden = GoldenSet::parse(JSON).expect("reads");
        assert_eq!(GoldenSet::parse(&golden.to_json()).expect("reads back"), golden);
        assert_eq!(golden.rows(true), 2);
        let (inputs, outputs) = golden.row(1);
        assert_eq!((inputs[0].shape.as_slice(), inputs[0].data.len()), (&[1, 2][..], 8));
        assert_eq!(&inputs[1].data[..], b"\x03\0\0\0bcd");
        assert_eq!(&outputs[0].data[..], &8i64.to_le_bytes());
        assert_eq!(stack(&[golden.row(0).0, golden.row(1).0]), golden.inputs);
        let (inputs, outputs, batched) = golden.specs();
        assert!(batched && inputs[0].shape == [-1, 2] && outputs[0].shape == [-1]);
        for (json, why) in [
            (&br#"{"inputs": [], "outputs": []}"#[..], "no inputs"),
            (br#"{"tolerance": -1, "inputs": [], "outputs": []}"#, "tolerance is -1"),
            (br#"{"inputs": [{"name": "x", "datatype": "FP7", "shape": [1], "data": [1]}], "outputs": []}"#, "FP7"),
            (
                br#"{"inputs": [{"name": "x", "datatype": "FP32", "shape": [0, 2], "data": []}], "outputs": []}"#,
                "input `x` of shape [0, 2] has no element",
            ),
            (b"no json", "no golden inputs"),
        ] {
            assert!(GoldenSet::parse(json).expect_err(why).message.contains(why));
        }
    }

    #[test]
    fn what_differs_is_named_with_its_place() {
        let golden = GoldenSet::parse(JSON).expect("reads");
        let tolerances = Tolerances { default: 0.01, named: [("y".to_owned(), 0.0)].into() };
        let own = &golden.inputs;
        assert_eq!(difference(own, own, &tolerances), Difference { same_bytes: true, ..Difference::default() });
        let mut other = own.clone();
        other[0].data = [1.0f32, 2.005, 3.0, 9.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let found = difference(own, &other, &tolerances);
        assert_eq!((found.beyond, found.farthest, found.same_bytes), (1, 1.0, false));
        assert!(found.first.expect("differs").starts_with("row 1, element 1 of `x` is 9 instead of 4.5"));
        other[0].data = own[0].data.clone();
        other[1].data = Bytes::from_static(b"\x01\0\0\0a\x01\0\0\0z");
        assert!(difference(own, &other, &tolerances).first.expect("differs").contains("\"z\" instead of \"bcd\""));
        assert!(difference(own, &other[..1], &tolerances).first.expect("missing").contains("no output `t`"));
        let mut flat = golden.outputs.clone();
        flat[0].shape = [2, 1][..].into();
        assert!(difference(&golden.outputs, &flat, &tolerances).same_bytes);
        flat[0].shape = [1, 2][..].into();
        assert!(difference(&golden.outputs, &flat, &tolerances).first.expect("shape").contains("instead of [2]"));
    }
}
