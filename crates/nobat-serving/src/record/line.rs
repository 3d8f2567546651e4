//! One recorded row as a line of JSON, in the Open Inference Protocol's form.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use nobat_core::OwnerId;
use nobat_core::json::encode;
use nobat_core::tensor::{Tensor, take_bytes_element};
use smol_str::SmolStr;

/// What is written of a request.
pub(super) struct RecordedRow {
    /// The name that the caller used, a model's or a route's.
    pub(super) name: SmolStr,
    /// The version that was asked for; empty for the default.
    pub(super) version: SmolStr,
    pub(super) at: DateTime<Utc>,
    pub(super) owner: Option<OwnerId>,
    pub(super) inputs: Vec<RecordedInput>,
}

/// An input's row, or that it was redacted.
pub(super) struct RecordedInput {
    pub(super) tensor: Tensor,
    pub(super) redacted: bool,
}

impl RecordedRow {
    /// As a line.
    pub(super) fn line(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(b"{\"at\":");
        encode::string(&mut out, &self.at.to_rfc3339_opts(SecondsFormat::Millis, true));
        for (key, value) in [("model", &self.name), ("version", &self.version)] {
            out.extend_from_slice(format!(",\"{key}\":").as_bytes());
            encode::string(&mut out, value);
        }
        if let Some(owner) = self.owner {
            out.extend_from_slice(format!(",\"owner\":\"{:016x}\"", owner.0).as_bytes());
        }
        out.extend_from_slice(b",\"inputs\":[");
        for (at, input) in self.inputs.iter().enumerate() {
            out.extend_from_slice(if at > 0 { b",{" } else { b"{" });
            encode::header(&mut out, &input.tensor);
            if input.redacted {
                out.extend_from_slice(b",\"redacted\":true}");
            } else {
                out.extend_from_slice(b",\"data\":");
                encode::flat(&mut out, &input.tensor);
                out.push(b'}');
            }
        }
        out.extend_from_slice(b"]}\n");
        out
    }
}

/// A copy of one row of a tensor that has passed its checks: a slice would hold on to the
/// whole request. `None` for what is not cut evenly, or takes more than `most` bytes.
pub(super) fn row_of(tensor: &Tensor, rows: usize, row: usize, most: usize) -> Option<Tensor> {
    let data = match tensor.datatype.size() {
        _ if rows == 1 => &tensor.data[..],
        Some(_) => {
            let width = tensor.data.len().checked_div(rows)?;
            tensor.data.get(row * width..(row + 1) * width)?
        }
        None => {
            let elements = tensor.elements().ok()?.checked_div(rows)?;
            let mut rest = &tensor.data[..];
            let mut skip = |count: usize| (0..count).try_for_each(|_| take_bytes_element(&mut rest).map(drop));
            skip(row * elements)?;
            let begin = tensor.data.len() - rest.len();
            let mut rest = &tensor.data[begin..];
            (0..elements).try_for_each(|_| take_bytes_element(&mut rest).map(drop))?;
            &tensor.data[begin..tensor.data.len() - rest.len()]
        }
    };
    let fits = data.len() <= most;
    fits.then(|| Tensor { data: Bytes::copy_from_slice(data), ..shape_of(tensor, rows) })
}

/// One row's tensor without its data.
pub(super) fn shape_of(tensor: &Tensor, rows: usize) -> Tensor {
    let mut shape = tensor.shape.clone();
    if let Some(axis) = shape.first_mut().filter(|_| rows > 1) {
        *axis = 1;
    }
    Tensor { name: tensor.name.clone(), datatype: tensor.datatype, shape, data: Bytes::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::tensor::{Datatype, put_bytes_element};

    fn texts(texts: &[&str]) -> Tensor {
        let mut data = Vec::new();
        texts.iter().for_each(|text| put_bytes_element(&mut data, text.as_bytes()));
        let shape = [texts.len() as i64].as_slice().into();
        Tensor { name: "text".into(), datatype: Datatype::Bytes, shape, data: data.into() }
    }

    fn numbers(rows: i64, values: &[f32]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = [rows, values.len() as i64 / rows].as_slice().into();
        Tensor { name: "x".into(), datatype: Datatype::Fp32, shape, data: data.into() }
    }

    #[test]
    fn one_row_is_cut_out_of_numbers_and_of_texts() {
        let cut = row_of(&numbers(3, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), 3, 1, 8).expect("a row");
        assert_eq!(cut, numbers(1, &[2.0, 3.0]));
        let texts = self::texts(&["a", "", "three", "four"]);
        for (row, text) in ["a", "", "three", "four"].into_iter().enumerate() {
            assert_eq!(row_of(&texts, 4, row, 100), Some(self::texts(&[text])), "{row}");
        }
        assert_eq!(row_of(&texts, 4, 2, 8), None, "nine bytes with its length");
        assert_eq!(row_of(&numbers(1, &[1.0; 4]), 1, 0, 15), None);
    }

    #[test]
    fn a_line_is_json_and_holds_no_redacted_value() {
        let input = |tensor: Tensor, redacted| RecordedInput { tensor, redacted };
        let row = RecordedRow {
            name: "a \"model\"".into(),
            version: "".into(),
            at: DateTime::from_timestamp(1_900_000_000, 0).expect("a time"),
            owner: Some(OwnerId(7)),
            inputs: vec![input(numbers(1, &[0.5, f32::NAN]), false), input(texts(&["a secret"]), true)],
        };
        let line = row.line();
        assert_eq!((line.iter().filter(|&&byte| byte == b'\n').count(), line.last()), (1, Some(&b'\n')));
        let json: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(json["inputs"][0]["data"], serde_json::json!([0.5, null]));
        assert_eq!(
            json["inputs"][1],
            serde_json::json!({"name": "text", "datatype": "BYTES", "shape": [1], "redacted": true})
        );
        assert_eq!((json["model"].as_str(), json["owner"].as_str()), (Some("a \"model\""), Some("0000000000000007")));
    }
}
