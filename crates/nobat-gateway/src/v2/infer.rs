//! `POST /v2/models/{m}[/versions/{v}]/infer`.

use std::time::Duration;

use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::infer::InferRequest;
use nobat_core::job::JobOptions;
use nobat_serving::Predictor;
use nobat_serving::timing::server_timing;
use utoipa_actix_web::service_config::ServiceConfig;

use super::binary::{self, HEADER_LENGTH, Parts};
use super::json::{self, Document};
use super::names::named;
use super::objects::{InferAnswer, InferBody};
use super::outputs;
use super::raw;
use crate::access::Access;
use crate::context::SERVER_TIMING;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::{PlainError, PlainRefusals};
use crate::{body, context, idempotency};

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
    params(
        ("model" = String, Path, description = "The model's name", example = "digits"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeating a request with the same key gives the same job's answer, for as long as its record is kept"),
    ),
    request_body = InferBody,
    responses((status = 200, description = "The answer", content(
        (InferAnswer = "application/json"),
        (String = "application/octet-stream"),
    )), PlainRefusals, (status = 409, description = "The idempotency key's job was cancelled, or is being enqueued", body = PlainError),
    (status = 422, description = "The idempotency key came with another body before", body = PlainError),
    (status = 501, description = "Shared memory and sequences are not kept", body = PlainError)),
)]
async fn infer(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    let named = named(&request)?;
    // What cannot be served is refused before its body is read.
    let context = context::of(&request);
    let early = match predictor.resolve(&context, Some(&named.model), named.want()) {
        Err(error) if predictor.is_coming(&context, Some(&named.model), named.want(), &error) => None,
        resolved => Some(resolved?),
    };
    let body = body::read(&request, payload, &predictor).await?;
    let idempotency = idempotency::read(request.headers(), request.path(), request.query_string(), &body)?;
    let resolved = async |patience: Option<Duration>| match early {
        Some(target) => Ok(target),
        None => {
            let patience = patience.unwrap_or_else(|| predictor.state().settings.sync_timeout);
            predictor.resolve_loaded(&context, Some(&named.model), named.want(), patience).await
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
            (raw::document(&target.signature, bytes)?, target)
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
    let options = JobOptions { idempotency, ..target.after_wait(parameters.job_options()) };
    let prediction = predictor.predict(&context, &target, wanted, options).await?;
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
