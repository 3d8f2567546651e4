//! The rerankers' APIs: Cohere's `POST /v2/rerank` and Jina's `POST /v1/rerank`.

mod call;
mod cohere;
mod documents;
mod jina;

use utoipa_actix_web::service_config::ServiceConfig;

/// Adds both.
pub(crate) fn configure(config: &mut ServiceConfig) {
    cohere::configure(config);
    jina::configure(config);
}
