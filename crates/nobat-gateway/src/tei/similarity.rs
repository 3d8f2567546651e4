//! `/similarity`: cosines of one text's vector with others'.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::Result;
use nobat_core::json::Reader;
use nobat_core::parameters::Parameter;
use nobat_core::task::TaskKind;
use nobat_core::{Error, ErrorCode, clip};
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
use crate::text::outputs::{float_rows, floats};
use crate::text::texts::Texts;
use crate::{body, context, query};

/// Adds the route.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(endpoint!(Access::PREDICT, similarity));
}

/// Texts to compare.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({ "inputs": { "source_sentence": "a", "sentences": ["b", "c"] } }))]
#[allow(dead_code, reason = "documents what `Members` reads")]
struct TeiSimilarityBody {
    /// One text, and those to compare it with.
    inputs: SimilarityInputs,
    /// The model; the only one, or the default one, of this task when left out.
    #[schema(required = false)]
    model: Option<String>,
    /// `truncate`, `truncation_direction` and `prompt_name`.
    #[schema(required = false, value_type = Option<Object>)]
    parameters: Option<Value>,
}

/// One text, and those to compare it with.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents what `Members` reads")]
struct SimilarityInputs {
    /// The text that is compared.
    source_sentence: String,
    /// The others.
    #[schema(min_items = 1)]
    sentences: Vec<String>,
}

/// Compare texts
#[utoipa::path(
    post, path = "/similarity", tag = "tei", operation_id = "tei_similarity", request_body = TeiSimilarityBody,
    responses((status = 200, description = "A cosine for each text", body = Value), TeiRefusals),
)]
async fn similarity(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    let context = context::of(&request);
    let body = body::read_json(&request, payload, &predictor).await?;
    let (mut source, mut sentences, mut settings) = (None, None, None);
    let Members { model, mut parameters } = Members::read(&body, &[], |reader, member| {
        match member {
            "inputs" => read_inputs(reader, &mut source, &mut sentences)?,
            "parameters" if reader.null() => {}
            "parameters" => settings = Some(reader.raw("parameters")?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let source = source.ok_or_else(|| missing("inputs.source_sentence"))?;
    let sentences = sentences.ok_or_else(|| missing("inputs.sentences"))?;
    sentences.require_list("inputs.sentences")?;
    if let Some(settings) = settings {
        let known = ["truncate", "truncation_direction", "prompt_name"];
        parameters = Members::read(settings.get().as_bytes(), &known, |_, _| Ok(false))?.parameters;
    }
    let model = find(&predictor, &context, model.as_deref(), &[TaskKind::Embed], ErrorCode::Unsupported).await?;
    if model.takes("normalize") {
        parameters.set("normalize", Parameter::Bool(true));
    }
    let mut texts = Texts::default();
    texts.push(&source);
    texts.extend(&sentences);
    let rows = texts.rows;
    let (mut own, mut cosines) = (Vec::new(), Vec::with_capacity(rows));
    let take = |first: usize, prediction: &Prediction| -> Result<()> {
        for (at, row) in float_rows(prediction, "embedding")?.enumerate() {
            match first + at {
                0 => own = floats(row).collect(),
                _ => cosines.push(cosine(&own, row)),
            }
        }
        Ok(())
    };
    gather(&predictor, &context, &model, texts.request(parameters), rows, take).await?;
    Ok(HttpResponse::Ok().json(cosines))
}

fn read_inputs<'a>(
    reader: &mut Reader<'a>,
    source: &mut Option<std::borrow::Cow<'a, str>>,
    sentences: &mut Option<Texts>,
) -> Result<()> {
    reader.object("inputs", |reader, member| {
        match &*member {
            "source_sentence" => *source = Some(reader.string("inputs.source_sentence")?),
            "sentences" => *sentences = Some(Texts::read(reader, "inputs.sentences")?),
            other => {
                let message = format!("inputs.{} is not known; it takes source_sentence and sentences", clip(other));
                return Err(Error::new(ErrorCode::InvalidParameter, message));
            }
        }
        Ok(())
    })
}

/// The cosine of two vectors, whatever their lengths are.
fn cosine(own: &[f32], row: &[u8]) -> f32 {
    let (mut dot, mut a, mut b) = (0.0f64, 0.0f64, 0.0f64);
    for (x, y) in own.iter().zip(floats(row)) {
        let (x, y) = (f64::from(*x), f64::from(y));
        dot += x * y;
        a += x * x;
        b += y * y;
    }
    (dot / (a * b).sqrt().max(1e-12)) as f32
}
