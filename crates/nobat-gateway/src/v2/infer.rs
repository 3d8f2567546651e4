//! `POST /v2/models/{m}[/versions/{v}]/infer`.

use std::time::Duration;

use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use nobat_core::infer::InferRequest;
use nobat_core::signature::ModelSignature;
use nobat_core::tensor::{Datatype, Shape, Tensor, put_bytes_element};
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::Predictor;
use nobat_serving::timing::server_timing;
use utoipa_actix_web::service_config::ServiceConfig;

use super::binary::{self, HEADER_LENGTH, Parts};
use super::json::{self, Document};
use super::names::named;
use super::objects::{InferAnswer, InferBody};
use super::outputs;
use super::parameters::RequestParameters;
use crate::access::Access;
use crate::context::SERVER_TIMING;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::{PlainError, PlainRefusals};
use crate::{body, context};

/// Adds the route.
pub(super) fn configure(routes: &mut ServiceConfig) {
    routes.service(endpoint!(Access::PREDICT, infer).also_by(&["version"]));
}

/// Infer
///
/// With the header `Inference-Header-Content-Length` the body is the JSON
/// document of that many bytes, then the binary tensors in its order; the
/// answer takes the same form where a tensor of it is binary.
#[utoipa::path(
    post, path = "/v2/models/{model}/infer", tag = "open-inference-protocol", operation_id = "v2_infer",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    request_body = InferBody,
    responses((status = 200, description = "The answer", content(
        (InferAnswer = "application/json"),
        (String = "application/octet-stream"),
    )), PlainRefusals, (status = 501, description = "Shared memory and sequences are not kept", body = PlainError)),
)]
async fn infer(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    let named = named(&request)?;
    // What cannot be served is refused before its body is read.
    let early = match predictor.resolve(Some(&named.model), named.want()) {
        Err(error) if predictor.is_coming(Some(&named.model), named.want(), &error) => None,
        resolved => Some(resolved?),
    };
    let body = body::read(&request, payload, &predictor).await?;
    let resolved = async |patience: Option<Duration>| match early {
        Some(target) => Ok(target),
        None => {
            let patience = patience.unwrap_or_else(|| predictor.state().settings.sync_timeout);
            predictor.resolve_loaded(Some(&named.model), named.want(), patience).await
        }
    };
    let (document, target) = match binary::split(request.headers(), body)? {
        Parts::Document(text, blobs) => {
            body::require_json(request.headers(), &text)?;
            let document = json::read(&text, blobs)?;
            let target = resolved(document.parameters.job_options().deadline).await?;
            (document, target)
        }
        Parts::Raw(bytes) => {
            let target = resolved(None).await?;
            (raw(&target.signature, bytes)?, target)
        }
    };
    let signature = &target.signature;
    let Document { id, mut parameters, inputs, requested } = document;
    let all_binary = parameters.binary_data_output;
    let wanted = InferRequest {
        version: target.pinned.clone(),
        inputs,
        outputs: outputs::names(&requested)?,
        parameters: std::mem::take(&mut parameters.of_model),
    };
    outputs::check_json_can_carry(signature, &requested, all_binary)?;
    let options = target.after_wait(parameters.job_options());
    let prediction = predictor.predict(&context::of(&request), &target, wanted, options).await?;
    let version = prediction.version(&target);
    let timing = server_timing(&prediction);
    let outputs = outputs::select(prediction.response, &requested, signature)?;
    let body = json::write(&id, &signature.name, &version, &outputs, all_binary);
    let mut response = HttpResponse::Ok();
    response.insert_header((SERVER_TIMING, timing));
    match body.document {
        Some(length) => {
            response.insert_header((CONTENT_TYPE, "application/octet-stream"));
            response.insert_header((HEADER_LENGTH, length));
        }
        None => {
            response.insert_header((CONTENT_TYPE, "application/json"));
        }
    }
    Ok(response.body(body.bytes))
}

/// A request without a document: the bytes of the model's only input, one row,
/// every output binary.
fn raw(signature: &ModelSignature, bytes: Bytes) -> Result<Document> {
    let [input] = &signature.inputs[..] else {
        return Err(Error::new(
            ErrorCode::InvalidParameter,
            format!(
                "a body without a JSON document needs a model with one input; `{}` has {}",
                signature.name,
                signature.inputs.len()
            ),
        ));
    };
    let mut shape: Shape = input.shape.iter().copied().collect();
    if signature.batched
        && let Some(rows) = shape.first_mut()
    {
        *rows = 1;
    }
    let data = match input.datatype.size() {
        Some(size) => {
            fill_free_axis(&mut shape, bytes.len() / size).ok_or_else(|| {
                Error::new(
                    ErrorCode::InvalidTensor,
                    format!(
                        "input `{}` of shape {:?} has more than one free axis; send a JSON document with its shape",
                        input.name, input.shape
                    ),
                )
            })?;
            bytes
        }
        None => {
            debug_assert_eq!(input.datatype, Datatype::Bytes);
            shape.iter_mut().filter(|dim| **dim < 0).for_each(|dim| *dim = 1);
            let mut element = Vec::with_capacity(bytes.len() + 4);
            put_bytes_element(&mut element, &bytes);
            element.into()
        }
    };
    Ok(Document {
        id: String::new(),
        parameters: RequestParameters { binary_data_output: true, ..RequestParameters::default() },
        inputs: vec![Tensor { name: input.name.clone(), datatype: input.datatype, shape, data }],
        requested: vec![],
    })
}

/// Gives the one free axis the length that `elements` call for. `None` when
/// there are several.
fn fill_free_axis(shape: &mut Shape, elements: usize) -> Option<()> {
    let known =
        shape.iter().filter(|&&dim| dim >= 0).try_fold(1usize, |product, &dim| product.checked_mul(dim as usize))?;
    let mut free = shape.iter_mut().filter(|dim| **dim < 0);
    if let Some(axis) = free.next() {
        *axis = elements.checked_div(known).unwrap_or(0) as i64;
    }
    free.next().is_none().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_free_axis_takes_its_length_from_the_bytes() {
        let mut shape: Shape = [1, -1, 3].into_iter().collect();
        assert!(fill_free_axis(&mut shape, 12).is_some());
        assert_eq!(shape.as_slice(), [1, 4, 3]);
        let mut two: Shape = [1, -1, -1].into_iter().collect();
        assert!(fill_free_axis(&mut two, 12).is_none());
        let mut none: Shape = [1, 64].into_iter().collect();
        assert!(fill_free_axis(&mut none, 3).is_some());
        assert_eq!(none.as_slice(), [1, 64]);
    }
}
