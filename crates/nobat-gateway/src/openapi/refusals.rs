//! What may refuse a call, said once: operations refer to shared responses.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::Ref;
use utoipa::openapi::{ContentBuilder, OpenApi, RefOr};
use utoipa::{IntoResponses, Modify, PartialSchema, ToSchema};

/// Status, and what it means, of each refusal that a call of any protocol may
/// meet.
const EVERYWHERE: [(u16, &str); 11] = [
    (400, "The request is at fault: `invalid_json`, `invalid_parameter`, `invalid_tensor`"),
    (401, "No usable credentials"),
    (403, "The credentials do not cover this"),
    (404, "No such model, version or job"),
    (408, "The body stalled"),
    (413, "The body or the batch is over a limit"),
    (415, "The content encoding is not supported"),
    (429, "You are over your limit; see `Retry-After`"),
    (500, "The job failed, or a fault of ours"),
    (502, "A worker's result cannot be read"),
    (503, "We are saturated or ill, or the model is not ready; see `Retry-After`"),
];
const LATE: (u16, &str) = (504, "The job's deadline passed");
/// Of the native API only.
const OF_JOBS: [(u16, &str); 3] = [
    (409, "Not in this state: `job_already_finished`, `job_cancelled`, `idempotency_in_progress`"),
    (410, "The result has outlived its ttl"),
    (422, "The idempotency key came with another body before"),
];

/// Of text-embeddings-inference's API only.
const OF_TEI: [(u16, &str); 2] = [
    (422, "The request is at fault: a text is too long, a parameter is not known"),
    (424, "The model failed, or does another task"),
];
/// Of OpenAI's API only.
const UNSUPPORTED: (u16, &str) = (501, "This gateway keeps no files: `gateway.files.folder` is not set");

/// What may refuse a call of the native API.
pub(crate) struct Refusals;

/// What may refuse a call of the protocols with plain errors.
pub(crate) struct PlainRefusals;

/// What may refuse a call of OpenAI's API.
pub(crate) struct OpenAiRefusals;

/// What may refuse a call of text-embeddings-inference's API.
pub(crate) struct TeiRefusals;

/// What may refuse a call of the rerankers' APIs.
pub(crate) struct RerankRefusals;

impl IntoResponses for OpenAiRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let conflict = &OF_JOBS[0];
        EVERYWHERE.iter().chain([conflict, &UNSUPPORTED, &LATE]).map(|(status, _)| refer("OpenAi", *status)).collect()
    }
}

impl IntoResponses for TeiRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        EVERYWHERE.iter().chain(&OF_TEI).chain([&LATE]).map(|(status, _)| refer("Tei", *status)).collect()
    }
}

impl IntoResponses for RerankRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        EVERYWHERE.iter().chain([&LATE]).map(|(status, _)| refer("Rerank", *status)).collect()
    }
}

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        EVERYWHERE.iter().chain(&OF_JOBS).chain([&LATE]).map(|(status, _)| refer("Problem", *status)).collect()
    }
}

impl IntoResponses for PlainRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        EVERYWHERE.iter().chain([&LATE]).map(|(status, _)| refer("Plain", *status)).collect()
    }
}

fn refer(family: &str, status: u16) -> (String, RefOr<Response>) {
    (status.to_string(), RefOr::Ref(Ref::from_response_name(format!("{family}{status}"))))
}

/// Adds the shared responses and their schemas to the document.
pub(super) struct Components;

impl Modify for Components {
    fn modify(&self, document: &mut OpenApi) {
        let components = document.components.get_or_insert_default();
        components.schemas.insert(Problem::name().into(), Problem::schema());
        components.schemas.insert(PlainError::name().into(), PlainError::schema());
        components.schemas.insert(OpenAiError::name().into(), OpenAiError::schema());
        components.schemas.insert(OpenAiErrorBody::name().into(), OpenAiErrorBody::schema());
        components.schemas.insert(TeiError::name().into(), TeiError::schema());
        components.schemas.insert(RerankError::name().into(), RerankError::schema());
        let everywhere = || EVERYWHERE.iter().chain([&LATE]);
        let of_openai = [OF_JOBS[0], UNSUPPORTED];
        let families: [(&str, std::borrow::Cow<'static, str>, &str, &[(u16, &str)]); 5] = [
            ("Problem", Problem::name(), "application/problem+json", &OF_JOBS),
            ("Plain", PlainError::name(), "application/json", &[]),
            ("OpenAi", OpenAiError::name(), "application/json", &of_openai),
            ("Tei", TeiError::name(), "application/json", &OF_TEI),
            ("Rerank", RerankError::name(), "application/json", &[]),
        ];
        for (family, schema, content, own) in families {
            for (status, means) in everywhere().chain(own) {
                let schema = schema.clone();
                let content_of = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
                let response = ResponseBuilder::new().description(*means).content(content, content_of).build();
                components.responses.insert(format!("{family}{status}"), response.into());
            }
        }
    }
}

/// An error, RFC 9457.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents what `crate::shape` prints")]
pub(crate) struct Problem {
    /// `urn:nobat:error:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The value at fault and the remedy.
    pub detail: String,
    /// What to match on.
    #[schema(example = "invalid_tensor")]
    pub code: String,
    /// The request's id, as in `x-request-id`.
    pub request_id: String,
    /// The job it is about.
    #[schema(required = false)]
    pub job: Option<String>,
}

/// An error of OpenAI's API.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents what `crate::shape` prints")]
pub(crate) struct OpenAiError {
    /// The error.
    pub error: OpenAiErrorBody,
    /// What to match on.
    pub code: String,
    /// The request's id, as in `x-request-id`.
    pub request_id: String,
}

/// What an error of OpenAI's API says.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents what `crate::shape` prints")]
pub(crate) struct OpenAiErrorBody {
    /// The value at fault and the remedy.
    pub message: String,
    /// `invalid_request_error` and the like.
    #[serde(rename = "type")]
    pub kind: String,
    /// The parameter at fault, where it is known.
    pub param: Option<String>,
    /// What to match on.
    pub code: String,
}

/// An error of text-embeddings-inference's API.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents what `crate::shape` prints")]
pub(crate) struct TeiError {
    /// The value at fault and the remedy.
    pub error: String,
    /// `Validation`, `Backend`, `Overloaded` and the like.
    pub error_type: String,
    /// What to match on.
    pub code: String,
    /// The request's id, as in `x-request-id`.
    pub request_id: String,
}

/// An error of a reranker's API.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents what `crate::shape` prints")]
pub(crate) struct RerankError {
    /// The value at fault and the remedy.
    pub message: String,
    /// The same.
    pub detail: String,
    /// What to match on.
    pub code: String,
    /// The request's id, as in `x-request-id`.
    pub request_id: String,
}

/// An error of TensorFlow Serving, kserve and SageMaker routes.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents what `crate::shape` prints")]
pub(crate) struct PlainError {
    /// The value at fault and the remedy.
    pub detail: String,
    /// `detail`, where the protocol's clients look for it.
    pub error: String,
    /// `urn:nobat:error:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What to match on.
    pub code: String,
    /// The request's id, as in `x-request-id`.
    pub request_id: String,
    /// The job it is about.
    #[schema(required = false)]
    pub job: Option<String>,
}
