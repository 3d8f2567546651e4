//! Jina's `POST /v1/rerank`.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use nobat_serving::Predictor;
use serde_json::json;
use utoipa_actix_web::service_config::ServiceConfig;

use super::call::{RerankBody, ranked};
use crate::access::Access;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::RerankRefusals;

/// Adds the route.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(endpoint!(Access::PREDICT, rerank));
}

/// Rank documents for a query (Jina)
#[utoipa::path(
    post, path = "/v1/rerank", tag = "rerank", operation_id = "jina_rerank", request_body = RerankBody,
    responses((status = 200, description = "`results`: `index`, `relevance_score` and `document`, the best first; `usage`", body = Value), RerankRefusals),
)]
async fn rerank(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    let answer = ranked(&request, payload, &predictor, true).await?;
    let texts = answer.documents.as_deref().unwrap_or_default();
    let results = answer.ranking.ranked.iter().map(|&(index, score)| match texts.get(index) {
        Some(text) => json!({ "index": index, "relevance_score": score, "document": { "text": text } }),
        None => json!({ "index": index, "relevance_score": score }),
    });
    Ok(HttpResponse::Ok().json(json!({
        "model": answer.model,
        "object": "list",
        "usage": { "total_tokens": answer.ranking.tokens, "prompt_tokens": answer.ranking.tokens },
        "results": results.collect::<Vec<_>>(),
    })))
}
