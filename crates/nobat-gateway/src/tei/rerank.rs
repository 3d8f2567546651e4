//! `/rerank`.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::ErrorCode;
use nobat_core::task::TaskKind;
use nobat_serving::Predictor;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::members::{Members, missing};
use crate::access::Access;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::TeiRefusals;
use crate::text::model::find;
use crate::text::ranking::rank;
use crate::text::texts::Texts;
use crate::{body, context, query};

const MEMBERS: &[&str] = &["raw_scores", "truncate", "truncation_direction"];

/// Adds the route.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(endpoint!(Access::PREDICT, rerank));
}

/// Texts to rank for a query.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({ "query": "what is it?", "texts": ["this", "that"] }))]
#[allow(dead_code, reason = "documents what `Members` reads")]
struct TeiRerankBody {
    /// What is asked.
    query: String,
    /// What may answer it; any number.
    #[schema(min_items = 1)]
    texts: Vec<String>,
    /// The model; the only one, or the default one, of this task when left out.
    #[schema(required = false)]
    model: Option<String>,
    /// The scores as the model has them.
    #[schema(required = false)]
    raw_scores: Option<bool>,
    /// Whether the answer repeats the texts.
    #[schema(required = false)]
    return_text: Option<bool>,
    /// Cut texts that are too long, or refuse them.
    #[schema(required = false)]
    truncate: Option<bool>,
    /// `left` or `right`.
    #[schema(required = false)]
    truncation_direction: Option<String>,
}

/// Rank texts for a query
#[utoipa::path(
    post, path = "/rerank", tag = "tei", operation_id = "tei_rerank", request_body = TeiRerankBody,
    responses((status = 200, description = "`index` and `score` of each text, the best first", body = Value), TeiRefusals),
)]
async fn rerank(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    let context = context::of(&request);
    let body = body::read_json(&request, payload, &predictor).await?;
    let (mut query, mut texts, mut return_text) = (None, None, false);
    let Members { model, parameters } = Members::read(&body, MEMBERS, |reader, member| {
        match member {
            "query" => query = Some(reader.string("query")?),
            "texts" => texts = Some(Texts::read(reader, "texts")?),
            "return_text" if reader.null() => {}
            "return_text" => {
                return_text = reader.boolean().ok_or_else(|| reader.unexpected("true or false", "return_text"))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let (query, texts) = (query.ok_or_else(|| missing("query"))?, texts.ok_or_else(|| missing("texts"))?);
    texts.require_list("texts")?;
    let model = find(&predictor, &context, model.as_deref(), &[TaskKind::Rerank], ErrorCode::Unsupported).await?;
    let shown = if return_text { texts.to_list() } else { Vec::new() };
    let ranking = rank(&predictor, &context, &model, &query, texts, parameters).await?;
    let entries = ranking.ranked.iter().map(|&(index, score)| match shown.get(index) {
        Some(text) => json!({ "index": index, "score": score, "text": text }),
        None => json!({ "index": index, "score": score }),
    });
    Ok(HttpResponse::Ok().json(entries.collect::<Vec<Value>>()))
}
