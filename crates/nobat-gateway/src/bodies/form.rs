//! A multipart form: files are rows, texts are parameters.
//!
//! A field named as an input of bytes is an element of it, file or not. A file of any other
//! name belongs to the input that a file alone would; any other field is a parameter.

use std::convert::Infallible;

use bytes::Bytes;
use multer::Multipart;
use nobat_core::infer::InferRequest;
use nobat_core::parameters::{Parameter, Parameters};
use nobat_core::signature::{ModelSignature, TensorSpec};
use nobat_core::tensor::Datatype;
use nobat_core::{Error, ErrorCode, Result, clip};
use serde_json::Value;

use super::file;

/// Most fields of a form: nothing else is served by this thread while it reads them.
const FIELDS_MAX: usize = 65_536;

/// Reads the form that `body` is.
///
/// # Errors
/// `invalid_parameter` for a form that breaks off, that has no file, or whose field names an
/// input of numbers; `payload_too_large` for too many fields; those of the rows.
pub(super) async fn read(body: Bytes, boundary: String, signature: &ModelSignature) -> Result<InferRequest> {
    let whole = futures::stream::once(std::future::ready(Ok::<_, Infallible>(body)));
    let mut form = Multipart::new(whole, boundary);
    let broken = |error: multer::Error| Error::invalid(format!("the form cannot be read: {error}"));
    let mut columns: Vec<(&TensorSpec, Vec<Bytes>)> = Vec::new();
    let (mut parameters, mut fields) = (Parameters::default(), 0);
    while let Some(field) = form.next_field().await.map_err(broken)? {
        fields += 1;
        if fields > FIELDS_MAX {
            let message = format!("the form has over {FIELDS_MAX} fields; send its rows in several requests");
            return Err(Error::new(ErrorCode::PayloadTooLarge, message));
        }
        let name = field.name().unwrap_or_default().to_owned();
        let is_file = field.file_name().is_some();
        let value = field.bytes().await.map_err(broken)?;
        let input = match signature.inputs.iter().find(|spec| spec.name == name) {
            Some(named) => named,
            None if is_file => file::input(signature, "a file")?,
            None => {
                if let Some(value) = parameter(&name, &value)? {
                    parameters.set(name, value);
                }
                continue;
            }
        };
        if input.datatype != Datatype::Bytes {
            let message = format!(
                "field `{}` names input `{}`, which takes {}; send tensors as JSON",
                clip(&name),
                input.name,
                input.datatype
            );
            return Err(Error::new(ErrorCode::InvalidParameter, message));
        }
        match columns.iter_mut().find(|(spec, _)| spec.name == input.name) {
            Some((_, files)) => files.push(value),
            None => columns.push((input, vec![value])),
        }
    }
    if columns.is_empty() {
        // Says what the model takes where it takes no file at all.
        let input = file::input(signature, "a form")?;
        let message = format!("the form has no file; give one or more, such as curl's -F '{}=@FILE'", input.name);
        return Err(Error::invalid(message));
    }
    let inputs = columns.iter().map(|(input, files)| file::rows(signature, input, files)).collect::<Result<_>>()?;
    Ok(InferRequest { inputs, parameters, ..InferRequest::default() })
}

/// A field's value as JSON has it: true, false, a number, else a text. None for an empty one,
/// which is what forms of browsers send for what was not filled in.
fn parameter(name: &str, value: &[u8]) -> Result<Option<Parameter>> {
    let refused =
        |_| Error::invalid(format!("field `{}` is not UTF-8; name a field of bytes as its input", clip(name)));
    let text = std::str::from_utf8(value).map_err(refused)?;
    let plain = match serde_json::from_str::<Value>(text) {
        Ok(value @ (Value::Bool(_) | Value::Number(_))) => Parameter::of_json(&value),
        _ => (!text.is_empty()).then(|| Parameter::Text(text.into())),
    };
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_models::model;

    fn form(parts: &[(&str, &str)]) -> Bytes {
        let part =
            |(head, value): &(&str, &str)| format!("--B\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n");
        (parts.iter().map(part).collect::<String>() + "--B--\r\n").into()
    }

    async fn read_for(signature: &ModelSignature, body: Bytes) -> Result<InferRequest> {
        read(body, "B".into(), signature).await
    }

    #[actix_web::test]
    async fn files_are_rows_and_texts_are_parameters() {
        let signature = model(&[("image", Datatype::Bytes, &[-1], false), ("text", Datatype::Bytes, &[-1], true)]);
        let body = form(&[
            (r#"name="file"; filename="a.jpg""#, "aa"),
            (r#"name="top_k""#, "3"),
            (r#"name="mode""#, "fast"),
            (r#"name="empty""#, ""),
            (r#"name="image"; filename="b.jpg""#, "b"),
            (r#"name="text""#, "t1"),
            (r#"name="text""#, "t2"),
        ]);
        let request = read_for(&signature, body).await.expect("a good form");
        assert_eq!(request.inputs[0].data, &b"\x02\0\0\0aa\x01\0\0\0b"[..]);
        assert_eq!((&*request.inputs[1].name, &request.inputs[1].shape[..]), ("text", &[2][..]));
        assert_eq!(request.parameters.get("top_k"), Some(&Parameter::Int64(3)));
        assert_eq!(request.parameters.get("mode"), Some(&Parameter::Text("fast".into())));
        assert_eq!(request.parameters.get("empty"), None);
    }

    #[actix_web::test]
    async fn a_form_without_a_file_and_one_that_breaks_off_are_refused() {
        let signature = model(&[("x", Datatype::Bytes, &[-1], false)]);
        let refused = read_for(&signature, form(&[(r#"name="a""#, "1")])).await.expect_err("no file").message;
        assert_eq!(refused, "the form has no file; give one or more, such as curl's -F 'x=@FILE'");
        let cut = form(&[(r#"name="f"; filename="a""#, "abc")]).slice(..60);
        assert!(read_for(&signature, cut).await.expect_err("cut").message.starts_with("the form cannot be read"));
        let numbers = model(&[("n", Datatype::Fp32, &[-1], false)]);
        let refused = read_for(&numbers, form(&[(r#"name="n""#, "1")])).await.expect_err("numbers").message;
        assert_eq!(refused, "field `n` names input `n`, which takes FP32; send tensors as JSON");
    }
}
