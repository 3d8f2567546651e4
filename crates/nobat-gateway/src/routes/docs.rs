//! The OpenAPI document, generated from the handlers, and Swagger UI over it.

use std::sync::LazyLock;

use actix_web::http::header;
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use utoipa::{IntoParams, IntoResponses, OpenApi};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::native::objects::{PlainError, PredictBody, Problem};
use super::native::{events, jobs, models, predict, queues};
use crate::error::not_allowed;
use crate::periodic;
use crate::routing::api as routing;
use crate::webhook::api as webhook;

const DOCUMENT: &str = "/api/openapi.json";

/// Adds the document and Swagger UI.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(web::resource(DOCUMENT).get(serve).head(serve).default_service(not_allowed("GET, HEAD")));
    config.service(web::resource("/docs").get(to_slash).default_service(not_allowed("GET")));
    let settings = Config::new([DOCUMENT]).try_it_out_enabled(true).display_request_duration(true);
    config.service(SwaggerUi::new("/docs/{_:.*}").config(settings));
}

/// The OpenAPI document of every route.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

async fn serve(_request: HttpRequest) -> HttpResponse {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| document().to_json().unwrap_or_default().into());
    HttpResponse::Ok().content_type("application/json").body(TEXT.clone())
}

/// Swagger UI's own links are relative to the folder.
async fn to_slash(_request: HttpRequest) -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, "/docs/")).finish()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "nobat",
        description = "A model server built around a queue. Every prediction is a durable, prioritized job; waiting for it is an option. \
            The promise is at-least-once: an accepted job reaches exactly one terminal state that its caller can read until its ttl.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "predict", description = "Send a prediction"),
        (name = "jobs", description = "Follow your jobs"),
        (name = "models", description = "What is served"),
        (name = "queues", description = "For operators"),
        (name = "routes", description = "Exchanges in front of the models"),
        (name = "periodic", description = "What starts by itself"),
        (name = "webhooks", description = "Who is told of a job's end"),
        (name = "tensorflow-serving", description = "TensorFlow Serving's REST API, and kserve's v1 protocol"),
        (name = "sagemaker", description = "The SageMaker container contract"),
    ),
    paths(
        predict::predict, predict::predict_many,
        jobs::get, jobs::result, events::events, jobs::cancel, jobs::retry, jobs::list,
        models::list, models::get,
        queues::list, queues::get, queues::pause, queues::resume, queues::dead, queues::redrive, queues::purge,
        routing::list, routing::show, routing::put, routing::remove,
        periodic::list, periodic::show, periodic::run, periodic::pause, periodic::resume,
        webhook::list, webhook::redeliver, webhook::endpoints, webhook::enable,
        described::tf_predict, described::tf_status, described::tf_metadata, described::tf_list,
        described::tf_classify, described::tf_regress,
        described::short_predict, described::invocations, described::ping, described::alive,
    ),
)]
struct Document;

/// What may refuse a call of the native API.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "describes what `error::render` answers")]
pub(crate) enum Refusals {
    /// The request is at fault: `invalid_json`, `invalid_parameter`, `invalid_tensor`
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(#[to_schema] Problem),
    /// No usable credentials
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthenticated(#[to_schema] Problem),
    /// The credentials do not cover this
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(#[to_schema] Problem),
    /// No such model, version or job
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(#[to_schema] Problem),
    /// The body stalled
    #[response(status = 408, content_type = "application/problem+json")]
    Timeout(#[to_schema] Problem),
    /// Not in this state: `job_already_finished`, `job_cancelled`, `idempotency_in_progress`
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(#[to_schema] Problem),
    /// The result has outlived its ttl
    #[response(status = 410, content_type = "application/problem+json")]
    Gone(#[to_schema] Problem),
    /// The body or the batch is over a limit
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(#[to_schema] Problem),
    /// The content encoding is not supported
    #[response(status = 415, content_type = "application/problem+json")]
    Encoding(#[to_schema] Problem),
    /// The idempotency key came with another body before
    #[response(status = 422, content_type = "application/problem+json")]
    Mismatch(#[to_schema] Problem),
    /// You are over your limit; see `Retry-After`
    #[response(status = 429, content_type = "application/problem+json")]
    Limited(#[to_schema] Problem),
    /// The job failed, or a fault of ours
    #[response(status = 500, content_type = "application/problem+json")]
    Failed(#[to_schema] Problem),
    /// A worker's result cannot be read
    #[response(status = 502, content_type = "application/problem+json")]
    BadResult(#[to_schema] Problem),
    /// We are saturated or ill; see `Retry-After`
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(#[to_schema] Problem),
    /// The job's deadline passed
    #[response(status = 504, content_type = "application/problem+json")]
    Late(#[to_schema] Problem),
}

/// What may refuse a call of the protocols with plain errors.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "describes what `error::render` answers")]
enum PlainRefusals {
    /// The request is at fault
    #[response(status = 400)]
    BadRequest(#[to_schema] PlainError),
    /// No usable credentials
    #[response(status = 401)]
    Unauthenticated(#[to_schema] PlainError),
    /// The credentials do not cover this
    #[response(status = 403)]
    Forbidden(#[to_schema] PlainError),
    /// No such model or version
    #[response(status = 404)]
    NotFound(#[to_schema] PlainError),
    /// The body stalled
    #[response(status = 408)]
    Timeout(#[to_schema] PlainError),
    /// The body or the batch is over a limit
    #[response(status = 413)]
    TooLarge(#[to_schema] PlainError),
    /// The content encoding is not supported
    #[response(status = 415)]
    Encoding(#[to_schema] PlainError),
    /// You are over your limit; see `Retry-After`
    #[response(status = 429)]
    Limited(#[to_schema] PlainError),
    /// The job failed, or a fault of ours
    #[response(status = 500)]
    Failed(#[to_schema] PlainError),
    /// A worker's result cannot be read
    #[response(status = 502)]
    BadResult(#[to_schema] PlainError),
    /// We are saturated or ill; see `Retry-After`
    #[response(status = 503)]
    Unavailable(#[to_schema] PlainError),
    /// No answer in time
    #[response(status = 504)]
    Late(#[to_schema] PlainError),
}

/// The options of a job.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "describes what `query::JobQuery` reads")]
pub(crate) struct JobParameters {
    /// 0..=255; 10 runs before 1
    #[param(minimum = 0, maximum = 255, required = false)]
    priority: Option<u8>,
    /// How long the result can be read, such as `60s`
    #[param(required = false, pattern = r"^[0-9]+(\.[0-9]+)?(us|ms|s|m|min|h|d)?$")]
    result_ttl: Option<String>,
    /// Attempts after the first
    #[param(minimum = 0, maximum = 255, required = false)]
    max_retries: Option<u8>,
    /// Delay before a retry, such as `1s`
    #[param(required = false, pattern = r"^[0-9]+(\.[0-9]+)?(us|ms|s|m|min|h|d)?$")]
    retry_delay: Option<String>,
    /// Time within which it must finish, such as `500ms`
    #[param(required = false, pattern = r"^[0-9]+(\.[0-9]+)?(us|ms|s|m|min|h|d)?$")]
    deadline: Option<String>,
    /// Time before which it must not run, such as `5s`
    #[param(required = false, pattern = r"^[0-9]+(\.[0-9]+)?(us|ms|s|m|min|h|d)?$")]
    delay: Option<String>,
    /// Instant before which it must not run, RFC 3339
    #[param(required = false)]
    run_at: Option<String>,
    /// URL that is told of the job's end (Standard Webhooks)
    #[param(required = false)]
    webhook: Option<String>,
    /// The version wanted
    #[param(required = false)]
    version: Option<String>,
    /// The label wanted
    #[param(required = false)]
    label: Option<String>,
    /// Wait this long for the answer; seconds, or with a unit
    #[param(required = false, pattern = r"^[0-9]+(\.[0-9]+)?(us|ms|s|m|min|h|d)?$")]
    wait: Option<String>,
}

/// Documentation of routes whose handlers take their paths apart by hand.
#[allow(dead_code, reason = "only their documentation is used")]
mod described {
    use super::{JobParameters, PlainRefusals, PredictBody};

    /// Predict
    ///
    /// Also `/v1/models/{model}/versions/{version}:predict` and `/v1/models/{model}/labels/{label}:predict`.
    #[utoipa::path(
        post, path = "/v1/models/{model}:predict", tag = "tensorflow-serving", operation_id = "tf_predict",
        params(("model" = String, Path, description = "The model's name", example = "digits"), JobParameters),
        request_body = PredictBody,
        responses((status = 200, description = "`predictions` (row form) or `outputs` (column form)", body = Value), PlainRefusals),
    )]
    pub(super) fn tf_predict() {}

    /// Classify
    #[utoipa::path(
        post, path = "/v1/models/{model}:classify", tag = "tensorflow-serving", operation_id = "tf_classify",
        params(("model" = String, Path, description = "The model's name", example = "digits"), JobParameters),
        request_body(content = Value, description = "`{\"examples\": [{\"input\": …}, …]}`"),
        responses((status = 200, description = "`result`: per example the classes with their scores", body = Value), PlainRefusals),
    )]
    pub(super) fn tf_classify() {}

    /// Regress
    #[utoipa::path(
        post, path = "/v1/models/{model}:regress", tag = "tensorflow-serving", operation_id = "tf_regress",
        params(("model" = String, Path, description = "The model's name", example = "digits"), JobParameters),
        request_body(content = Value, description = "`{\"examples\": [{\"input\": …}, …]}`"),
        responses((status = 200, description = "`result`: per example its value", body = Value), PlainRefusals),
    )]
    pub(super) fn tf_regress() {}

    /// A model's status
    ///
    /// TensorFlow Serving's version states, with kserve's `ready`.
    #[utoipa::path(
        get, path = "/v1/models/{model}", tag = "tensorflow-serving", operation_id = "tf_status",
        params(("model" = String, Path, description = "The model's name", example = "digits")),
        responses((status = 200, description = "The status", body = Value), PlainRefusals),
    )]
    pub(super) fn tf_status() {}

    /// A model's metadata
    #[utoipa::path(
        get, path = "/v1/models/{model}/metadata", tag = "tensorflow-serving", operation_id = "tf_metadata",
        params(("model" = String, Path, description = "The model's name", example = "digits")),
        responses((status = 200, description = "The signature", body = Value), PlainRefusals),
    )]
    pub(super) fn tf_metadata() {}

    /// Every model's name
    #[utoipa::path(
        get, path = "/v1/models", tag = "tensorflow-serving", operation_id = "tf_list",
        responses((status = 200, description = "The names", body = Value), PlainRefusals),
    )]
    pub(super) fn tf_list() {}

    /// Predict with the only or default model
    #[utoipa::path(
        post, path = "/predict", tag = "predict", operation_id = "short_predict",
        params(JobParameters), request_body = PredictBody,
        responses((status = 200, description = "`predictions` (row form) or `outputs` (column form)", body = Value), PlainRefusals),
    )]
    pub(super) fn short_predict() {}

    /// Predict with the only or default model
    #[utoipa::path(
        post, path = "/invocations", tag = "sagemaker", operation_id = "invocations",
        params(JobParameters), request_body = PredictBody,
        responses((status = 200, description = "`predictions` (row form) or `outputs` (column form)", body = Value), PlainRefusals),
    )]
    pub(super) fn invocations() {}

    /// Whether the only or default model serves
    #[utoipa::path(
        get, path = "/ping", tag = "sagemaker", operation_id = "ping",
        responses((status = 200, description = "It does", body = Value), PlainRefusals),
    )]
    pub(super) fn ping() {}

    /// Whether the gateway lives
    #[utoipa::path(
        get, path = "/", tag = "models", operation_id = "alive",
        responses((status = 200, description = "It does", body = Value)),
    )]
    pub(super) fn alive() {}
}
