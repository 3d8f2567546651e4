//! The body of a prediction, whatever its content type: JSON, or what people have as it
//! is. A picture or another file is one row, a form's files are rows, a table's lines are
//! rows.
//!
//! Owns which content type is read how. A type that says what the body is decides; JSON is
//! also told by how it begins, for the many clients that send none, or a form's.

pub(crate) mod documented;
mod file;
mod form;
mod kind;

use actix_web::http::header::{CONTENT_TYPE, HeaderMap};
use bytes::Bytes;
use nobat_core::infer::InferRequest;
use nobat_core::signature::ModelSignature;
use nobat_core::{Error, ErrorCode, Result, clip};

use crate::body;
use crate::rows::{self, Format};
use crate::table;
use kind::Kind;

/// The request, and the form of its answer; `most` bounds what a compressed table becomes, in
/// bytes.
///
/// # Errors
/// `unsupported_media_type` for a type that is not read; `invalid_json`, `invalid_tensor`,
/// `invalid_parameter` naming value and place.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Bytes,
    signature: &ModelSignature,
    most: usize,
) -> Result<(InferRequest, Format)> {
    let kind = kind::of(headers, signature)?;
    match kind {
        Kind::Json => {
            body::require_json(headers, &body)?;
            rows::read(&body, signature, "instances")
        }
        Kind::File => {
            let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let input = file::input(signature, &format!("`{}`", clip(given)))
                .map_err(|error| Error { code: ErrorCode::UnsupportedMediaType, ..error })?;
            let inputs = vec![file::rows(signature, input, &[body])?];
            Ok((InferRequest { inputs, ..InferRequest::default() }, Format::Row))
        }
        // Boxed: the future of the many stays small.
        Kind::Form(boundary) => {
            let request = Box::pin(form::read(body, boundary, signature)).await?;
            Ok((request, Format::Row))
        }
        Kind::Table(kind) => {
            let inputs = table::read(kind, body, signature, most)?;
            Ok((InferRequest { inputs, ..InferRequest::default() }, Format::Record))
        }
    }
}
