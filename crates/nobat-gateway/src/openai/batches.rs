//! `/v1/batches`: made, listed, read, cancelled.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use nobat_batches::NewBatch;
use nobat_batches::batch::Batch;
use nobat_core::{Error, ErrorCode, clip};
use nobat_serving::Predictor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::files::batches;
use super::pages::PageQuery;
use super::{embeddings, lines};
use crate::access::Access;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::OpenAiRefusals;
use crate::state::HttpState;
use crate::{body, context, query};

/// Bytes that an owner's notes may have.
const METADATA_BYTES: usize = 16 << 10;

/// Bytes that a body may have: all of it is escaped at most.
const BODY_BYTES: usize = 8 * METADATA_BYTES;

/// Adds the routes.
pub(super) fn configure(config: &mut ServiceConfig) {
    config
        .service(endpoint!(Access::PREDICT, list, create))
        .service(endpoint!(Access::PREDICT, get))
        .service(endpoint!(Access::PREDICT, cancel));
}

/// A batch to make.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h" }))]
struct BatchBody {
    /// The file of its lines, each `{"custom_id", "method": "POST", "url", "body"}`.
    input_file_id: String,
    /// Path that every line asks: `/v1/embeddings`.
    endpoint: String,
    /// How long it may take, from `1m` to `30d`.
    completion_window: String,
    /// What you note about it.
    #[schema(required = false, value_type = Option<Object>)]
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
}

/// Make a batch
///
/// Its lines are answered in the background; every line is once in the output or in the
/// error file, also when processes are killed meanwhile.
#[utoipa::path(
    post, path = "/v1/batches", tag = "openai", operation_id = "openai_create_batch",
    request_body = BatchBody,
    responses((status = 200, description = "The batch", body = Value), OpenAiRefusals),
)]
async fn create(
    request: HttpRequest,
    payload: Payload,
    state: Data<HttpState>,
    predictor: Data<Predictor>,
) -> ApiResult {
    query::none(&request)?;
    let context = context::of(&request);
    let body = body::read_json(&request, payload, &predictor).await?;
    // Read as values, a body takes up to a hundred times its bytes.
    if body.len() > BODY_BYTES {
        let message = format!("the body has {} bytes; one of a batch has at most {BODY_BYTES}", body.len());
        return Err(Error::new(ErrorCode::PayloadTooLarge, message).into());
    }
    let asked: BatchBody = body::object(&body)
        .map_err(|error| Error::new(ErrorCode::InvalidJson, format!("the body is no batch: {error}")))?;
    if asked.endpoint != embeddings::PATH {
        let message = format!("endpoint is `{}`; it takes {}", clip(&asked.endpoint), embeddings::PATH);
        return Err(Error::invalid(message).into());
    }
    let metadata = asked.metadata.unwrap_or_default();
    if serde_json::to_vec(&metadata).map_or(0, |text| text.len()) > METADATA_BYTES {
        return Err(Error::invalid(format!("metadata is over {METADATA_BYTES} bytes; shorten it")).into());
    }
    let new = NewBatch {
        owner: context.owner,
        caller: lines::caller(&context),
        endpoint: asked.endpoint,
        input_file_id: asked.input_file_id,
        completion_window: asked.completion_window,
        metadata,
    };
    Ok(shown(&batches(&state)?.create(new).await?))
}

/// List your batches
#[utoipa::path(
    get, path = "/v1/batches", tag = "openai", operation_id = "openai_list_batches",
    params(
        ("limit" = Option<u32>, Query, description = "Most batches shown", minimum = 1, maximum = 100),
        ("after" = Option<String>, Query, description = "Only those after this id"),
    ),
    responses((status = 200, description = "The batches, the newest first", body = Value), OpenAiRefusals),
)]
async fn list(request: HttpRequest, state: Data<HttpState>) -> ApiResult {
    let page = PageQuery::read(&request, &["limit", "after"], 20, 100)?;
    let all = batches(&state)?.list(context::of(&request).owner).await?;
    Ok(HttpResponse::Ok().json(page.of(all, |batch| &batch.id, object)?))
}

/// One of your batches
#[utoipa::path(
    get, path = "/v1/batches/{id}", tag = "openai", operation_id = "openai_get_batch",
    params(("id" = String, Path, description = "The batch's id")),
    responses((status = 200, description = "The batch", body = Value), OpenAiRefusals),
)]
async fn get(request: HttpRequest, id: Path<String>, state: Data<HttpState>) -> ApiResult {
    query::none(&request)?;
    Ok(shown(&batches(&state)?.find(context::of(&request).owner, &id).await?))
}

/// Cancel a batch
///
/// It ends with what is answered by then.
#[utoipa::path(
    post, path = "/v1/batches/{id}/cancel", tag = "openai", operation_id = "openai_cancel_batch",
    params(("id" = String, Path, description = "The batch's id")),
    responses((status = 200, description = "The batch", body = Value), OpenAiRefusals),
)]
async fn cancel(request: HttpRequest, id: Path<String>, state: Data<HttpState>) -> ApiResult {
    query::none(&request)?;
    Ok(shown(&batches(&state)?.cancel(context::of(&request).owner, &id).await?))
}

fn shown(batch: &Batch) -> HttpResponse {
    HttpResponse::Ok().json(object(batch))
}

fn object(batch: &Batch) -> Value {
    let errors = (!batch.errors.is_empty()).then(|| json!({ "object": "list", "data": batch.errors }));
    json!({
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": errors,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_at,
        "in_progress_at": batch.in_progress_at,
        "expires_at": batch.expires_at,
        "finalizing_at": batch.finalizing_at,
        "completed_at": batch.completed_at,
        "failed_at": batch.failed_at,
        "expired_at": batch.expired_at,
        "cancelling_at": batch.cancelling_at,
        "cancelled_at": batch.cancelled_at,
        "request_counts": batch.counts,
        "metadata": batch.metadata,
    })
}
