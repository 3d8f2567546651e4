//! `/embed`, `/embed_all` and `/embed_sparse`: vectors of texts, of their tokens, and
//! weights over the vocabulary.

use actix_web::HttpRequest;
use actix_web::web::{Data, Payload};
use nobat_core::ErrorCode;
use nobat_core::Result;
use nobat_core::parameters::Parameter;
use nobat_core::task::TaskKind;
use nobat_serving::{Prediction, Predictor};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::members::{Members, missing};
use crate::access::Access;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::TeiRefusals;
use crate::text::answers::{PrintRows, answered};
use crate::text::model::find;
use crate::text::outputs::{float_rows, list, texts};
use crate::text::texts::Texts;
use crate::{body, context, query};

const MEMBERS: &[&str] = &["normalize", "truncate", "truncation_direction", "prompt_name", "dimensions"];
const WITHOUT_VECTORS: &[&str] = &["truncate", "truncation_direction", "prompt_name"];

/// Adds the routes.
pub(super) fn configure(config: &mut ServiceConfig) {
    config
        .service(endpoint!(Access::PREDICT, embed))
        .service(endpoint!(Access::PREDICT, embed_all))
        .service(endpoint!(Access::PREDICT, embed_sparse));
}

/// Texts to embed.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({ "inputs": "hello" }))]
#[allow(dead_code, reason = "documents what `Members` reads")]
pub(super) struct TeiEmbedBody {
    /// A text, a list of texts, token ids, or a list of lists of token ids; any number of them.
    #[schema(value_type = Value)]
    inputs: Value,
    /// The model; the only one, or the default one, of this task when left out.
    #[schema(required = false)]
    model: Option<String>,
    /// Whether vectors have length 1; they do when left out.
    #[schema(required = false)]
    normalize: Option<bool>,
    /// Cut texts that are too long, or refuse them.
    #[schema(required = false)]
    truncate: Option<bool>,
    /// `left` or `right`.
    #[schema(required = false)]
    truncation_direction: Option<String>,
    /// A prompt of the model, put before each text.
    #[schema(required = false)]
    prompt_name: Option<String>,
    /// Cut to so many numbers, and normalized again.
    #[schema(required = false, minimum = 1)]
    dimensions: Option<u32>,
}

/// Embed texts
#[utoipa::path(
    post, path = "/embed", tag = "tei", operation_id = "tei_embed", request_body = TeiEmbedBody,
    responses((status = 200, description = "A vector for each text", body = Value), TeiRefusals),
)]
async fn embed(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    run(&request, payload, &predictor, Kind::Vectors).await
}

/// Embed the tokens of texts
#[utoipa::path(
    post, path = "/embed_all", tag = "tei", operation_id = "tei_embed_all", request_body = TeiEmbedBody,
    responses((status = 200, description = "For each text a vector for each token", body = Value), TeiRefusals),
)]
async fn embed_all(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    run(&request, payload, &predictor, Kind::EveryToken).await
}

/// Embed texts over the vocabulary
#[utoipa::path(
    post, path = "/embed_sparse", tag = "tei", operation_id = "tei_embed_sparse", request_body = TeiEmbedBody,
    responses((status = 200, description = "For each text `index` and `value` of its weights", body = Value), TeiRefusals),
)]
async fn embed_sparse(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    run(&request, payload, &predictor, Kind::Sparse).await
}

/// What is answered for each text.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Vectors,
    EveryToken,
    Sparse,
}

async fn run(request: &HttpRequest, payload: Payload, predictor: &Predictor, kind: Kind) -> ApiResult {
    query::none(request)?;
    let context = context::of(request);
    let body = body::read_json(request, payload, predictor).await?;
    let mut inputs = None;
    let known = if kind == Kind::Vectors { MEMBERS } else { WITHOUT_VECTORS };
    let Members { model, mut parameters } = Members::read(&body, known, |reader, member| {
        if member == "inputs" {
            inputs = Some(Texts::read(reader, "inputs")?);
        }
        Ok(member == "inputs")
    })?;
    let inputs = inputs.ok_or_else(|| missing("inputs"))?;
    let task = if kind == Kind::Sparse { TaskKind::Sparse } else { TaskKind::Embed };
    let model = find(predictor, &context, model.as_deref(), &[task], ErrorCode::Unsupported).await?;
    match kind {
        Kind::Vectors if parameters.get("normalize").is_none() && model.takes("normalize") => {
            parameters.set("normalize", Parameter::Bool(true));
        }
        Kind::EveryToken => parameters.set("pooling", Parameter::Text("none".into())),
        _ => {}
    }
    let rows = inputs.rows;
    Ok(answered(predictor, &context, model, inputs.request(parameters), rows, Lists { kind }).await?)
}

/// Prints a list with an entry for each text.
struct Lists {
    kind: Kind,
}

impl PrintRows for Lists {
    fn begin(&mut self, out: &mut Vec<u8>) {
        out.push(b'[');
    }

    fn rows(&mut self, out: &mut Vec<u8>, first: usize, prediction: &Prediction) -> Result<()> {
        let comma = |out: &mut Vec<u8>, at: usize| {
            if first + at > 0 {
                out.push(b',');
            }
        };
        let json = match self.kind {
            Kind::Vectors => {
                for (at, row) in float_rows(prediction, "embedding")?.enumerate() {
                    comma(out, at);
                    list(out, row);
                }
                return Ok(());
            }
            Kind::EveryToken => "token_embeddings",
            Kind::Sparse => "sparse",
        };
        for (at, text) in texts(prediction, json)?.into_iter().enumerate() {
            comma(out, at);
            out.extend_from_slice(text.as_bytes());
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        out.push(b']');
    }
}
