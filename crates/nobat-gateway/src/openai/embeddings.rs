//! `POST /v1/embeddings`.

use actix_web::HttpRequest;
use actix_web::web::{Data, Payload};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nobat_core::infer::InferRequest;
use nobat_core::job::{Idempotency, JobOptions};
use nobat_core::json::{Reader, encode};
use nobat_core::parameters::{Parameter, Parameters};
use nobat_core::task::TaskKind;
use nobat_core::{Error, ErrorCode, Result, clip};
use nobat_serving::{Prediction, Predictor, RequestContext};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use crate::access::Access;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::OpenAiRefusals;
use crate::text::answers::{PrintRows, answered, gather_parts};
use crate::text::model::{TaskModel, find};
use crate::text::outputs::{float_rows, list, tokens};
use crate::text::texts::Texts;
use crate::{body, context, query};

/// Where it lives.
pub(super) const PATH: &str = "/v1/embeddings";

/// Adds the route.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(endpoint!(Access::PREDICT, embeddings));
}

/// Texts to embed.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({ "model": "all-MiniLM-L6-v2", "input": "hello" }))]
#[allow(dead_code, reason = "documents what `Call` reads")]
struct EmbeddingsBody {
    /// The model; the only one, or the default one, of this task when left out.
    #[schema(required = false)]
    model: Option<String>,
    /// A text, a list of texts, token ids, or a list of lists of token ids; any number of them.
    #[schema(value_type = Value)]
    input: Value,
    /// `float` or `base64`.
    #[schema(required = false)]
    encoding_format: Option<String>,
    /// Cut to so many numbers, and normalized again.
    #[schema(required = false, minimum = 1)]
    dimensions: Option<u32>,
    /// Whom it is for; not looked at.
    #[schema(required = false)]
    user: Option<String>,
    /// A prompt of the model, put before each text. Not of OpenAI's API; so also below.
    #[schema(required = false)]
    prompt_name: Option<String>,
    /// Cut texts that are too long, or refuse them.
    #[schema(required = false)]
    truncate: Option<bool>,
    /// Whether vectors have length 1.
    #[schema(required = false)]
    normalize: Option<bool>,
}

/// Embed texts
///
/// A request may have any number of texts: a large one is split into jobs that run in the
/// background, and its answer is streamed.
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "openai", operation_id = "openai_embeddings",
    request_body = EmbeddingsBody,
    responses((status = 200, description = "The vectors, and the tokens that were read", body = Value), OpenAiRefusals),
)]
async fn embeddings(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    let context = context::of(&request);
    let body = body::read_json(&request, payload, &predictor).await?;
    let Asked { model, request, rows, print } = Asked::read(&predictor, &context, &body).await?;
    Ok(answered(&predictor, &context, model, request, rows, print).await?)
}

/// Most inputs of a batch's line, whose answer is held whole. OpenAI's limit, too.
const MOST_OF_LINE: usize = 2_048;

/// The answer to a body whose jobs run in the background under `key`.
///
/// # Errors
/// As the route's.
pub(super) async fn answer_line(
    predictor: &Predictor,
    context: &RequestContext,
    body: &str,
    key: &str,
) -> Result<Vec<u8>> {
    let Asked { model, request, rows, mut print } = Asked::read(predictor, context, body.as_bytes()).await?;
    if rows > MOST_OF_LINE {
        let message = format!("the line has {rows} inputs; a line of a batch takes {MOST_OF_LINE}: use more lines");
        return Err(Error::new(ErrorCode::PayloadTooLarge, message));
    }
    let fingerprint = xxhash_rust::xxh3::xxh3_128(body.as_bytes());
    let idempotency = Some(Idempotency { key: key.into(), fingerprint });
    let options = JobOptions { idempotency, ..model.options() };
    let mut out = Vec::new();
    print.begin(&mut out);
    let print_rows = |first: usize, prediction: &Prediction| print.rows(&mut out, first, prediction);
    gather_parts(predictor, context, &model, request, rows, options, print_rows).await?;
    print.end(&mut out);
    Ok(out)
}

/// A call that was read: its model, and what that is asked.
struct Asked {
    model: TaskModel,
    request: InferRequest,
    rows: usize,
    print: EmbeddingsPrinter,
}

impl Asked {
    async fn read(predictor: &Predictor, context: &RequestContext, body: &[u8]) -> Result<Asked> {
        let Call { model, texts, is_base64, parameters } = Call::read(body)?;
        let model = find(predictor, context, model.as_deref(), &[TaskKind::Embed], ErrorCode::InvalidParameter).await?;
        let (asked, most) = (parameters.count("dimensions")?, model.task.dimensions);
        if let (Some(asked), Some(most)) = (asked, most)
            && asked > u64::from(most)
        {
            let message =
                format!("dimensions is {asked}, and model `{}` has {most}; ask for 1 to {most}", model.name());
            return Err(Error::invalid(message));
        }
        let print = EmbeddingsPrinter { model: model.name().to_owned(), is_base64, tokens: 0 };
        Ok(Asked { rows: texts.rows, request: texts.request(parameters), model, print })
    }
}

/// What a body says.
#[derive(Debug, Default)]
struct Call {
    model: Option<String>,
    texts: Texts,
    is_base64: bool,
    parameters: Parameters,
}

impl Call {
    fn read(body: &[u8]) -> Result<Call> {
        let mut call = Call::default();
        let mut has_input = false;
        let mut reader = Reader::new(body);
        reader.object("the body", |reader, member| {
            match &*member {
                "input" => {
                    call.texts = Texts::read(reader, "input")?;
                    has_input = true;
                }
                // Left out.
                _ if reader.null() => {}
                "model" => call.model = Some(reader.string("model")?.into_owned()),
                "user" => reader.skip_value("user")?,
                "encoding_format" => {
                    call.is_base64 = match &*reader.string("encoding_format")? {
                        "float" => false,
                        "base64" => true,
                        other => {
                            let message = format!("encoding_format is `{}`; it takes float or base64", clip(other));
                            return Err(Error::invalid(message));
                        }
                    }
                }
                "dimensions" => {
                    let value: Value = reader.parse("dimensions")?;
                    let dimensions = value.as_i64().filter(|&dimensions| dimensions > 0).ok_or_else(|| {
                        Error::invalid(format!(
                            "dimensions is {}; it takes a whole number of 1 or more",
                            clip(&value.to_string())
                        ))
                    })?;
                    call.parameters.set("dimensions", Parameter::Int64(dimensions));
                }
                "prompt_name" => {
                    let name = reader.string("prompt_name")?;
                    call.parameters.set("prompt_name", Parameter::Text((&*name).into()));
                }
                name @ ("truncate" | "normalize") => {
                    let value = reader.boolean().ok_or_else(|| reader.unexpected("true or false", name))?;
                    call.parameters.set(name, Parameter::Bool(value));
                }
                other => {
                    let message = format!("unrecognized request argument `{}`; leave it out", clip(other));
                    return Err(Error::invalid(message));
                }
            }
            Ok(())
        })?;
        reader.end()?;
        match has_input {
            true => Ok(call),
            false => Err(Error::new(ErrorCode::InvalidJson, "input is missing; give a text or a list of texts")),
        }
    }
}

/// Prints `{"object":"list","data":[…],"model":…,"usage":…}`.
struct EmbeddingsPrinter {
    model: String,
    is_base64: bool,
    tokens: u64,
}

impl PrintRows for EmbeddingsPrinter {
    fn begin(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"object\":\"list\",\"data\":[");
    }

    fn rows(&mut self, out: &mut Vec<u8>, first: usize, prediction: &Prediction) -> Result<()> {
        self.tokens += tokens(prediction);
        let rows = float_rows(prediction, "embedding")?;
        out.reserve(rows.len() * (rows.clone().next().map_or(0, <[u8]>::len) * 3 + 64));
        for (at, row) in rows.enumerate() {
            let index = first + at;
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(format!("{{\"object\":\"embedding\",\"index\":{index},\"embedding\":").as_bytes());
            match self.is_base64 {
                true => encode::string(out, &STANDARD.encode(row)),
                false => list(out, row),
            }
            out.push(b'}');
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"],\"model\":");
        encode::string(out, &self.model);
        let tokens = self.tokens;
        let usage = format!(",\"usage\":{{\"prompt_tokens\":{tokens},\"total_tokens\":{tokens}}}}}");
        out.extend_from_slice(usage.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_and_what_is_wrong_is_named() {
        let call =
            Call::read(br#"{"model":"m","input":["a","b"],"encoding_format":"base64","dimensions":2,"user":null}"#);
        let call = call.expect("a call");
        assert_eq!((call.model.as_deref(), call.texts.rows, call.is_base64), (Some("m"), 2, true));
        assert_eq!(call.parameters.count("dimensions").expect("a count"), Some(2));
        for (body, named) in [
            ("{}", "input is missing"),
            (r#"{"input":[]}"#, "input is empty"),
            (r#"{"input":{}}"#, "input"),
            (r#"{"input":"a","encoding_format":"hex"}"#, "encoding_format is `hex`"),
            (r#"{"input":"a","dimensions":0}"#, "dimensions is 0"),
            (r#"{"input":"a","dimensions":"2"}"#, "dimensions is \"2\""),
            (r#"{"input":"a","truncate":1}"#, "truncate"),
            (r#"{"input":"a","inputs":"b"}"#, "`inputs`"),
            (r#"{"input":"a","model":5}"#, "model"),
        ] {
            let error = Call::read(body.as_bytes()).expect_err(body);
            assert!(error.message.contains(named), "{body}: {error}");
        }
    }
}
