//! The OpenAPI document, generated from the handlers, and Swagger UI over it.

use std::sync::LazyLock;

use actix_web::http::header;
use actix_web::web::ServiceConfig;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use utoipa::{IntoParams, OpenApi};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::native::routes as routing;
use super::native::webhooks as webhook;
use super::native::{events, jobs, models, periodic, predict, queues};
use crate::access::{Access, resource};
use crate::error::not_allowed;

mod plain;
mod refusals;
mod security;
mod v2;
mod variants;

use refusals::Components;
pub(crate) use refusals::Refusals;
use security::Security;
use variants::Variants;

const DOCUMENT: &str = "/api/openapi.json";

/// Adds the document and Swagger UI.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(resource(DOCUMENT, Access::OPEN).get(serve).default_service(not_allowed("GET, HEAD")));
    config.service(resource("/docs", Access::OPEN).get(to_slash).default_service(not_allowed("GET, HEAD")));
    let settings = Config::new([DOCUMENT]).try_it_out_enabled(true).display_request_duration(true);
    config.service(SwaggerUi::new("/docs/{_:.*}").config(settings));
    // It has no say on other methods than GET.
    config.service(resource("/docs/{_:.*}", Access::OPEN).default_service(not_allowed("GET, HEAD")));
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
        (name = "open-inference-protocol", description = "The Open Inference Protocol v2 over HTTP, as Triton's and KServe's clients speak it"),
        (name = "sagemaker", description = "The SageMaker container contract"),
        (name = "health", description = "For probes"),
    ),
    paths(
        predict::predict, predict::predict_many,
        jobs::get, jobs::delete, jobs::result, jobs::input, events::events, jobs::cancel, jobs::retry, jobs::list,
        models::list, models::get,
        queues::list, queues::get, queues::pause, queues::resume, queues::dead, queues::redrive, queues::purge,
        routing::list, routing::show, routing::put, routing::remove,
        periodic::list, periodic::show, periodic::run, periodic::pause, periodic::resume,
        webhook::list, webhook::redeliver, webhook::endpoints, webhook::enable,
        plain::tf_predict, plain::tf_classify, plain::tf_regress, plain::tf_status, plain::tf_metadata, plain::tf_list,
        plain::short_predict, plain::invocations, plain::ping, plain::alive, plain::live, plain::ready,
        v2::about, v2::live, v2::ready, v2::list, v2::describe, v2::model_ready, v2::config,
        v2::statistics, v2::all_statistics, v2::infer, v2::index, v2::load, v2::unload,
        v2::system_regions, v2::cuda_regions, v2::trace, v2::change_trace, v2::logging, v2::change_logging,
    ),
    modifiers(&Components, &Variants, &Security),
)]
struct Document;

/// The options of a job.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "describes what `query::JobQuery` reads")]
pub(crate) struct JobParameters {
    /// 0..=255; 10 runs before 1
    #[param(minimum = 0, maximum = 255, required = false)]
    priority: Option<u8>,
    /// How long the result can be read, such as `60s`
    #[param(
        required = false,
        pattern = r"^((0\.[0-9]{0,2}[1-9]|[1-9][0-9]{0,6}(\.[0-9]{1,3})?)s?|[1-9][0-9]{0,8}ms|[1-9][0-9]{0,5}(m|min)|[1-9][0-9]{0,3}h|[1-9][0-9]{0,2}d)$"
    )]
    result_ttl: Option<String>,
    /// Attempts after the first
    #[param(minimum = 0, maximum = 255, required = false)]
    max_retries: Option<u8>,
    /// Delay before a retry, such as `1s`
    #[param(
        required = false,
        pattern = r"^((0|[1-9][0-9]{0,5})(\.[0-9]{1,3})?s?|[1-9][0-9]{0,8}ms|[1-9][0-9]{0,3}(m|min)|[1-9][0-9]{0,2}h)$"
    )]
    retry_delay: Option<String>,
    /// Time within which it must finish, such as `500ms`
    #[param(
        required = false,
        pattern = r"^((0\.[0-9]{0,2}[1-9]|[1-9][0-9]{0,6}(\.[0-9]{1,3})?)s?|[1-9][0-9]{0,8}ms|[1-9][0-9]{0,5}(m|min)|[1-9][0-9]{0,3}h|[1-9][0-9]{0,2}d)$"
    )]
    deadline: Option<String>,
    /// Time before which it must not run, such as `5s`
    #[param(
        required = false,
        pattern = r"^((0|[1-9][0-9]{0,5})(\.[0-9]{1,3})?s?|[1-9][0-9]{0,8}ms|[1-9][0-9]{0,3}(m|min)|[1-9][0-9]{0,2}h)$"
    )]
    delay: Option<String>,
    /// Instant before which it must not run, RFC 3339; within ten years
    #[param(required = false, format = "date-time")]
    run_at: Option<String>,
    /// URL that is told of the job's end (Standard Webhooks)
    #[param(required = false, format = "uri")]
    webhook: Option<String>,
    /// The version wanted
    #[param(required = false)]
    version: Option<String>,
    /// The label wanted
    #[param(required = false)]
    label: Option<String>,
}

/// How long a call that always waits does so.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "describes what `query::JobQuery` reads")]
pub(crate) struct DeadlineParameter {
    /// As `deadline`; the earlier of both counts
    #[param(
        required = false,
        pattern = r"^((0\.[0-9]{0,2}[1-9]|[1-9][0-9]{0,6}(\.[0-9]{1,3})?)s?|[1-9][0-9]{0,8}ms|[1-9][0-9]{0,5}(m|min)|[1-9][0-9]{0,3}h|[1-9][0-9]{0,2}d)$"
    )]
    wait: Option<String>,
}

/// The option of the calls that can wait.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "describes what `query::JobQuery` reads")]
pub(crate) struct WaitParameter {
    /// Wait this long for the answer; seconds, or with a unit
    #[param(
        required = false,
        pattern = r"^((0|[1-9][0-9]{0,5})(\.[0-9]{1,3})?s?|[1-9][0-9]{0,8}ms|[1-9][0-9]{0,3}(m|min)|[1-9][0-9]{0,2}h)$"
    )]
    wait: Option<String>,
}
