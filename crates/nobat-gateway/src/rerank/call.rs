//! What both calls share.

use actix_web::HttpRequest;
use actix_web::web::Payload;
use nobat_core::parameters::Parameters;
use nobat_core::task::TaskKind;
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::Predictor;
use serde::Deserialize;
use utoipa::ToSchema;

use super::documents;
use crate::text::model::find;
use crate::text::ranking::{Ranking, rank};
use crate::text::texts::{Texts, empty};
use crate::{body, context, query};

/// Documents to rank for a query.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "query": "what is it?", "documents": ["this", "that"] }))]
#[allow(dead_code, reason = "Cohere's clients send what is not looked at")]
pub(super) struct RerankBody {
    /// The model; the only one, or the default one, of this task when left out.
    #[schema(required = false)]
    model: Option<String>,
    /// What is asked.
    query: String,
    /// What may answer it, as texts or as objects with `text`; any number.
    #[schema(min_items = 1, value_type = Vec<Value>)]
    #[serde(deserialize_with = "documents::read")]
    documents: Texts,
    /// How many of the best are answered; all when left out.
    #[schema(required = false, minimum = 1)]
    top_n: Option<u64>,
    /// Whether the answer repeats the documents.
    #[schema(required = false)]
    return_documents: Option<bool>,
    /// Cohere's: tokens of a document that are read. A model reads what it can.
    #[schema(required = false, minimum = 1)]
    max_tokens_per_doc: Option<u64>,
    /// Cohere's: not looked at.
    #[schema(required = false)]
    priority: Option<i64>,
    /// Jina's: cut documents that are too long, or refuse them.
    #[schema(required = false)]
    truncation: Option<bool>,
}

/// An answered call.
pub(super) struct Ranked {
    pub(super) model: String,
    pub(super) ranking: Ranking,
    /// The documents' texts, where the answer is to repeat them.
    pub(super) documents: Option<Vec<String>>,
}

/// Reads a body and ranks what it has.
///
/// # Errors
/// `invalid_json` naming what is wrong, and those of the prediction.
pub(super) async fn ranked(
    request: &HttpRequest,
    payload: Payload,
    predictor: &Predictor,
    returns_documents: bool,
) -> Result<Ranked> {
    query::none(request)?;
    let context = context::of(request);
    let body = body::read_json(request, payload, predictor).await?;
    let asked: RerankBody = body::object(&body)
        .map_err(|error| Error::new(ErrorCode::InvalidJson, format!("the body is no rerank request: {error}")))?;
    if asked.documents.rows == 0 {
        return Err(empty("documents"));
    }
    if asked.top_n == Some(0) {
        return Err(Error::invalid("top_n is 0; it takes 1 or more"));
    }
    let mut parameters = Parameters::default();
    if let Some(truncation) = asked.truncation {
        parameters.set("truncate", nobat_core::parameters::Parameter::Bool(truncation));
    }
    let model =
        find(predictor, &context, asked.model.as_deref(), &[TaskKind::Rerank], ErrorCode::InvalidParameter).await?;
    let documents = asked.return_documents.unwrap_or(returns_documents).then(|| asked.documents.to_list());
    let mut ranking = rank(predictor, &context, &model, &asked.query, asked.documents, parameters).await?;
    ranking.ranked.truncate(asked.top_n.map_or(usize::MAX, |most| most as usize));
    Ok(Ranked { model: model.name().to_owned(), ranking, documents })
}
