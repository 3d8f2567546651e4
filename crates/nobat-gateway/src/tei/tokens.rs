//! `/tokenize` and `/decode`: the model's tokenizer, asked where the model is.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::infer::InferRequest;
use nobat_core::parameters::Parameter;
use nobat_core::task::TaskKind;
use nobat_core::{Error, ErrorCode, Result};
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
use crate::text::answers::gather;
use crate::text::model::find;
use crate::text::outputs::texts;
use crate::text::texts::{TEXT, TEXT_PAIR, Texts};
use crate::{body, context, query};

/// Adds the routes.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(endpoint!(Access::PREDICT, tokenize)).service(endpoint!(Access::PREDICT, decode));
}

/// Texts to take apart.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({ "inputs": "hello" }))]
#[allow(dead_code, reason = "documents what `Members` reads")]
struct TeiTokenizeBody {
    /// A text, or a list of texts.
    #[schema(value_type = Value)]
    inputs: Value,
    /// The model; the only one, or the default one, of any task on texts when left out.
    #[schema(required = false)]
    model: Option<String>,
    /// Whether the special tokens are among them; they are when left out.
    #[schema(required = false)]
    add_special_tokens: Option<bool>,
    /// A prompt of the model, put before each text.
    #[schema(required = false)]
    prompt_name: Option<String>,
}

/// Token ids to put together.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({ "ids": [5, 6] }))]
#[allow(dead_code, reason = "documents what `Members` reads")]
struct TeiDecodeBody {
    /// Token ids, or a list of lists of them.
    #[schema(value_type = Value)]
    ids: Value,
    /// The model; the only one, or the default one, of any task on texts when left out.
    #[schema(required = false)]
    model: Option<String>,
    /// Whether the special tokens are left out; they are when left out.
    #[schema(required = false)]
    skip_special_tokens: Option<bool>,
}

/// Tokens of texts
#[utoipa::path(
    post, path = "/tokenize", tag = "tei", operation_id = "tei_tokenize", request_body = TeiTokenizeBody,
    responses((status = 200, description = "For each text `id`, `text`, `special`, `start` and `stop` of its tokens", body = Value), TeiRefusals),
)]
async fn tokenize(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    operate(&request, payload, &predictor, "tokenize", "inputs", &["add_special_tokens", "prompt_name"]).await
}

/// Texts of tokens
#[utoipa::path(
    post, path = "/decode", tag = "tei", operation_id = "tei_decode", request_body = TeiDecodeBody,
    responses((status = 200, description = "A text for each list of token ids", body = Value), TeiRefusals),
)]
async fn decode(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    operate(&request, payload, &predictor, "decode", "ids", &["skip_special_tokens"]).await
}

async fn operate(
    request: &HttpRequest,
    payload: Payload,
    predictor: &Predictor,
    operation: &'static str,
    given: &'static str,
    known: &[&str],
) -> ApiResult {
    query::none(request)?;
    let context = context::of(request);
    let body = body::read_json(request, payload, predictor).await?;
    let mut inputs = None;
    let Members { model, mut parameters } = Members::read(&body, known, |reader, member| {
        if member == given {
            inputs = Some(Texts::read(reader, given)?);
        }
        Ok(member == given)
    })?;
    let inputs = inputs.ok_or_else(|| missing(given))?;
    if inputs.is_ids != (operation == "decode") {
        let takes = if operation == "decode" { "token ids" } else { "texts" };
        return Err(Error::invalid(format!("{given} takes {takes}")).into());
    }
    // Any model that reads texts has a tokenizer.
    let kinds: Vec<TaskKind> = TaskKind::ALL.iter().copied().filter(|kind| kind.reads_texts()).collect();
    let model = find(predictor, &context, model.as_deref(), &kinds, ErrorCode::Unsupported).await?;
    parameters.set("operation", Parameter::Text(operation.into()));
    let rows = inputs.rows;
    let mut asked = inputs.request(parameters);
    pair(
        &mut asked,
        &model.target.signature.inputs.iter().map(|spec| (spec.name.as_str(), spec.optional)).collect::<Vec<_>>(),
        rows,
    );
    let mut out = vec![b'['];
    let take = |first: usize, prediction: &Prediction| -> Result<()> {
        for (at, text) in texts(prediction, "result")?.into_iter().enumerate() {
            if first + at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(text.as_bytes());
        }
        Ok(())
    };
    gather(predictor, &context, &model, asked, rows, take).await?;
    out.push(b']');
    Ok(HttpResponse::Ok().content_type("application/json").body(out))
}

/// A task that takes two texts is given an empty second one, where it insists.
fn pair(request: &mut InferRequest, inputs: &[(&str, bool)], rows: usize) {
    for (name, is_optional) in inputs {
        if *name != TEXT && !is_optional {
            let filler = if *name == TEXT_PAIR { "" } else { "[\"\"]" };
            request.inputs.push(Texts::repeated(filler, rows).tensor(name));
        }
    }
}
