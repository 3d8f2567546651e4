//! A predicting body of the native API: what [`bodies`] reads, or, with v2's header,
//! that protocol's document and the binary tensors after it.

use actix_web::http::header::HeaderMap;
use bytes::Bytes;
use nobat_core::infer::InferRequest;
use nobat_core::signature::ModelSignature;
use nobat_core::{Error, ErrorCode, Result, clip};
use smol_str::SmolStr;

use crate::bodies;
use crate::rows::Format;
use crate::v2::binary::{self, HEADER_LENGTH, Parts};
use crate::v2::json::{self, Document};
use crate::v2::outputs::{self, Requested};
use crate::v2::raw;

/// The request, and the form of its answer.
///
/// # Errors
/// Those of the form that the body has; `invalid_parameter` for what a document asks for
/// that this call does not give.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Bytes,
    signature: &ModelSignature,
    most: usize,
) -> Result<(InferRequest, Format)> {
    if !headers.contains_key(HEADER_LENGTH) {
        return bodies::read(headers, body, signature, most).await;
    }
    let document = match binary::split(headers, body)? {
        Parts::Document(text, blobs) => of_job(json::read(&text, blobs)?)?,
        Parts::Raw(bytes) => raw::document(signature, bytes)?,
    };
    let Document { inputs, requested, parameters, .. } = document;
    let outputs = outputs::names(&requested)?;
    let request = InferRequest { version: SmolStr::default(), inputs, outputs, parameters: parameters.of_model };
    Ok((request, Format::Column))
}

/// Refuses, rather than ignores, what a document may ask of v2's own call.
fn of_job(document: Document) -> Result<Document> {
    let refuse = |message: String| Err(Error::new(ErrorCode::InvalidParameter, message));
    let parameters = &document.parameters;
    if parameters.priority != 0 || parameters.deadline.is_some() {
        return refuse(
            "`priority` and `timeout` of the document are not taken here; give them as query parameters, such as ?priority=10&deadline=500ms".into(),
        );
    }
    let asks_for_form =
        |output: &&Requested| output.parameters.binary_data == Some(true) || output.parameters.classification != 0;
    if let Some(output) = document.requested.iter().find(asks_for_form) {
        let message = format!(
            "output `{}` asks for `binary_data` or `classification`; results are JSON here, leave both out",
            clip(&output.name)
        );
        return refuse(message);
    }
    if parameters.binary_data_output {
        return refuse("`binary_data_output` is not taken here; results are JSON, leave it out".into());
    }
    Ok(document)
}
