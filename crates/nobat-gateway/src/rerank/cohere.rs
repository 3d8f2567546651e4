//! Cohere's `POST /v2/rerank`.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use nobat_serving::Predictor;
use serde_json::json;
use utoipa_actix_web::service_config::ServiceConfig;

use super::call::{RerankBody, ranked};
use crate::access::Access;
use crate::context;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::RerankRefusals;

/// Adds the route.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(endpoint!(Access::PREDICT, rerank));
}

/// Rank documents for a query (Cohere)
#[utoipa::path(
    post, path = "/v2/rerank", tag = "rerank", operation_id = "cohere_rerank", request_body = RerankBody,
    responses((status = 200, description = "`results`: `index` and `relevance_score`, the best first", body = Value), RerankRefusals),
)]
async fn rerank(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    let answer = ranked(&request, payload, &predictor, false).await?;
    let results =
        answer.ranking.ranked.iter().map(|&(index, score)| json!({ "index": index, "relevance_score": score }));
    Ok(HttpResponse::Ok().json(json!({
        "id": context::of(&request).request_id,
        "results": results.collect::<Vec<_>>(),
        "meta": { "api_version": { "version": "2" }, "billed_units": { "search_units": 1 } },
    })))
}
