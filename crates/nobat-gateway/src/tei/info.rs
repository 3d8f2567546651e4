//! `/info`: what the model is, in the words of this API.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::ErrorCode;
use nobat_core::task::TaskKind;
use nobat_serving::Predictor;
use serde_json::{Value, json};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::access::Access;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::TeiRefusals;
use crate::text::model::find;
use crate::{context, query};

/// Adds the route.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(endpoint!(Access::READ, info));
}

/// The model
#[utoipa::path(
    get, path = "/info", tag = "tei", operation_id = "tei_info",
    params(("model" = Option<String>, Query, description = "The model; the only one, or the default one, on texts when left out")),
    responses((status = 200, description = "What it is and takes", body = Value), TeiRefusals),
)]
async fn info(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    let mut name = None;
    query::each(request.query_string(), &["model"], |_, value| {
        name = Some(value.to_owned());
        Ok(())
    })?;
    let context = context::of(&request);
    let kinds: Vec<TaskKind> = TaskKind::ALL.iter().copied().filter(|kind| kind.reads_texts()).collect();
    let model = find(&predictor, &context, name.as_deref(), &kinds, ErrorCode::Unsupported).await?;
    let signature = &model.target.signature;
    let labels: serde_json::Map<String, Value> =
        model.task.labels.iter().enumerate().map(|(at, label)| (at.to_string(), label.as_str().into())).collect();
    let kind = match model.task.kind {
        TaskKind::Embed => json!({ "embedding": { "pooling": "model" } }),
        TaskKind::Sparse => json!({ "embedding": { "pooling": "splade" } }),
        TaskKind::Rerank => json!({ "reranker": { "id2label": labels } }),
        _ => json!({ "classifier": { "id2label": labels } }),
    };
    Ok(HttpResponse::Ok().json(json!({
        "model_id": signature.name,
        "model_sha": signature.digest,
        "model_dtype": "float32",
        "model_type": kind,
        "task": model.task.kind.as_str(),
        "dimensions": model.task.dimensions,
        "prompts": model.task.prompts,
        "max_input_length": model.task.max_tokens,
        "max_batch_requests": signature.max_batch_size,
        "max_client_batch_size": null,
        "max_concurrent_requests": predictor.state().settings.limits.max_in_flight,
        "auto_truncate": true,
        "version": env!("CARGO_PKG_VERSION"),
    })))
}
