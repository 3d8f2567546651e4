//! How a server with JSON of its own is asked and read.
//!
//! The request is JSON with placeholders: `{"input": $image}` sends the input `image` with its
//! batch axis, `{"input": $image[0]}` one row without it, and `$input` stands for the only
//! input whatever its name. The answer is read by JSON pointers: `/output` for the only output,
//! `label=/label,scores=/scores` for several.

use nobat_core::json::encode;
use nobat_core::signature::TensorSpec;
use nobat_core::tensor::Tensor;
use nobat_core::{Error, ErrorCode, Result};
use serde_json::Value;

use super::answer::nested;

/// The request's and the answer's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonTemplate {
    path: Option<String>,
    pieces: Vec<Piece>,
    /// Output (empty for the only one) and pointer.
    answers: Vec<(String, String)>,
    one_row: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Input { name: String, row: bool },
}

impl JsonTemplate {
    /// Reads a template; `path` is where it is sent, else to the server's address as given.
    ///
    /// # Errors
    /// `invalid_parameter` for one that is no JSON around its placeholders, has none of
    /// them, or takes some inputs with the batch axis and some without.
    pub fn parse(path: Option<&str>, request: &str, answers: &str) -> Result<JsonTemplate> {
        let (mut pieces, mut rest, mut quoted, mut text) = (Vec::new(), request, false, String::new());
        while let Some(letter) = rest.chars().next() {
            let after = &rest[letter.len_utf8()..];
            let length = after.find(|c: char| !(c.is_alphanumeric() || "_.-".contains(c))).unwrap_or(after.len());
            if letter == '$' && !quoted && length > 0 {
                let (name, after) = after.split_at(length);
                let row = after.starts_with("[0]");
                pieces.push(Piece::Text(std::mem::take(&mut text)));
                pieces.push(Piece::Input { name: name.into(), row });
                rest = if row { &after[3..] } else { after };
                continue;
            }
            text.push(letter);
            if letter == '\\' && quoted {
                text.extend(after.chars().next());
                rest = after.get(after.chars().next().map_or(0, char::len_utf8)..).unwrap_or_default();
                continue;
            }
            quoted ^= letter == '"';
            rest = after;
        }
        pieces.push(Piece::Text(text));
        let rows: Vec<bool> = pieces
            .iter()
            .filter_map(|piece| if let Piece::Input { row, .. } = piece { Some(*row) } else { None })
            .collect();
        let filled: String =
            pieces.iter().map(|piece| if let Piece::Text(text) = piece { text.as_str() } else { "0" }).collect();
        if let Err(why) = serde_json::from_str::<Value>(&filled) {
            return Err(Error::invalid(format!(
                "the request template is no JSON around its inputs ({why}): {request}"
            )));
        }
        match rows.first() {
            None => {
                return Err(Error::invalid(format!("the request template names no input, such as $input: {request}")));
            }
            Some(first) if rows.iter().any(|row| row != first) => {
                return Err(Error::invalid(
                    "the request template takes some inputs with [0] and some without; use one form",
                ));
            }
            Some(_) => {}
        }
        let answer = |part: &str| -> Result<(String, String)> {
            let (name, pointer) = part.split_once('=').unwrap_or(("", part));
            if pointer.is_empty() || pointer.starts_with('/') {
                return Ok((name.trim().into(), pointer.into()));
            }
            Err(Error::invalid(format!("`{part}` is no JSON pointer; give one such as /output or NAME=/output")))
        };
        let answers = answers.split(',').map(str::trim).map(answer).collect::<Result<_>>()?;
        Ok(JsonTemplate { path: path.map(Into::into), pieces, answers, one_row: rows[0] })
    }

    /// Where requests go, where it is not the address as given.
    pub fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// Whether a request holds one row, without the batch axis.
    pub fn is_one_row(&self) -> bool {
        self.one_row
    }

    pub(super) fn request(&self, inputs: &[Tensor]) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(64 + inputs.iter().map(|tensor| tensor.data.len() * 3).sum::<usize>());
        for piece in &self.pieces {
            let (name, row) = match piece {
                Piece::Text(text) => {
                    out.extend_from_slice(text.as_bytes());
                    continue;
                }
                Piece::Input { name, row } => (name, *row),
            };
            let found = inputs.iter().find(|tensor| tensor.name == name.as_str());
            let Some(tensor) = found.or(inputs.first().filter(|_| name == "input" && inputs.len() == 1)) else {
                let names: Vec<&str> = inputs.iter().map(|tensor| tensor.name.as_str()).collect();
                return Err(Error::invalid(format!("the request template has ${name}; inputs: {}", names.join(", "))));
            };
            if row {
                if tensor.shape.first() != Some(&1) {
                    let why = format!("input `{}` has shape {:?}; $…[0] sends one row", tensor.name, tensor.shape);
                    return Err(Error::new(ErrorCode::InvalidTensor, why));
                }
                encode::tensor(&mut out, &Tensor { shape: tensor.shape[1..].into(), ..tensor.clone() });
            } else {
                encode::tensor(&mut out, tensor);
            }
        }
        Ok(out)
    }

    pub(super) fn outputs(&self, body: &[u8], specs: &[TensorSpec]) -> Result<Vec<Tensor>, String> {
        let answer: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        let output = |(name, pointer): &(String, String)| {
            let spec = match specs {
                [only] if name.is_empty() => only,
                specs => specs.iter().find(|spec| spec.name == name.as_str()).ok_or_else(|| {
                    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
                    format!("--answer names output `{name}`; outputs: {}", names.join(", "))
                })?,
            };
            let value = answer.pointer(pointer).ok_or_else(|| format!("there is nothing at `{pointer}`"))?;
            let mut tensor = nested(spec, &value.to_string())?;
            if self.one_row {
                tensor.shape.insert(0, 1);
            }
            Ok(tensor)
        };
        self.answers.iter().map(output).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::tensor::Datatype;

    fn tensor(rows: i64) -> Tensor {
        let data: Vec<u8> = (0..rows * 2).flat_map(|x| (x as f32).to_le_bytes()).collect();
        Tensor { name: "image".into(), datatype: Datatype::Fp32, shape: [rows, 2][..].into(), data: data.into() }
    }

    fn sent(template: &str, rows: i64) -> Result<String> {
        let template = JsonTemplate::parse(None, template, "/output")?;
        template.request(&[tensor(rows)]).map(|body| String::from_utf8(body).expect("text"))
    }

    #[test]
    fn placeholders_stand_for_inputs_with_their_rows_or_one() {
        assert_eq!(sent(r#"{"input": $image}"#, 2).expect("sends"), r#"{"input": [[0.0,1.0],[2.0,3.0]]}"#);
        assert_eq!(
            sent(r#"{"a": "$5 \"$x", "input": $input[0]}"#, 1).expect("sends"),
            r#"{"a": "$5 \"$x", "input": [0.0,1.0]}"#
        );
        for (template, rows, why) in [
            (r#"{"input": $other}"#, 1, "inputs: image"),
            (r#"{"input": $image[0]}"#, 2, "sends one row"),
            (r#"{"input": $image"#, 1, "no JSON"),
            (r#"{"input": 1}"#, 1, "names no input"),
            (r#"[$image, $input[0]]"#, 1, "use one form"),
        ] {
            let error = sent(template, rows).expect_err(template).message;
            assert!(error.contains(why), "{template}: {error}");
        }
    }

    #[test]
    fn answers_are_read_where_the_pointers_say() {
        let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
            name: name.into(),
            datatype,
            shape: shape.to_vec(),
            optional: false,
        };
        let specs = [spec("label", Datatype::Int64, &[-1]), spec("p", Datatype::Fp32, &[-1, 2])];
        let body = br#"{"class": 3, "scores": [0.25, 0.75]}"#;
        let template = JsonTemplate::parse(Some("/p"), "[$input[0]]", "label=/class, p=/scores").expect("reads");
        let read = template.outputs(body, &specs).expect("reads");
        assert_eq!((read[0].shape.as_slice(), read[1].shape.as_slice()), (&[1][..], &[1, 2][..]));
        let alone = JsonTemplate::parse(None, "[$input[0]]", "/scores").expect("reads");
        assert_eq!(alone.outputs(body, &specs[1..]).expect("reads"), read[1..]);
        assert!(alone.outputs(b"{}", &specs[1..]).expect_err("empty").contains("nothing at `/scores`"));
        assert!(alone.outputs(body, &specs).expect_err("which").contains("outputs: label, p"));
        assert!(JsonTemplate::parse(None, "[$input]", "output").expect_err("no pointer").message.contains("/output"));
    }
}
