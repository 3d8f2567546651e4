//! The body of a prediction, whatever its content type: JSON, or what people have as it
//! is. A picture or another file is one row, a form's files are rows, a table's lines are
//! rows.
//!
//! Owns which content type is read how. A type that says what the body is decides; JSON is
//! also told by how it begins, for the many clients that send none, or a form's.

mod file;
mod form;
mod kind;

use actix_web::http::header::HeaderMap;
use bytes::Bytes;
use nobat_core::Result;
use nobat_core::infer::InferRequest;
use nobat_core::signature::ModelSignature;

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
            let input = file::input(signature, "a file")?;
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
