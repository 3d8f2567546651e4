//! `/v2` itself: metadata, health, the repository, and the extensions that can
//! only be asked about.

use actix_web::http::Method;
use actix_web::web::{self, Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::Predictor;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa_actix_web::service_config::ServiceConfig;

use super::names::named;
use super::objects::{IndexBody, IndexRow, LoadBody, ServerMetadata};
use super::{metadata, repository, settings};
use crate::access::Access;
use crate::endpoint::{Endpoint, endpoint};
use crate::error::ApiResult;
use crate::openapi::{PlainError, PlainRefusals};
use crate::{body, context};

/// Adds the routes.
pub(super) fn configure(routes: &mut ServiceConfig) {
    routes
        .service(endpoint!(Access::READ, about))
        .service(endpoint!(Access::OPEN, live))
        .service(endpoint!(Access::OPEN, ready))
        .service(endpoint!(Access::ASK, index))
        .service(endpoint!(Access::READ, load))
        .service(endpoint!(Access::READ, unload))
        .service(endpoint!(Access::READ, system_regions))
        .service(endpoint!(Access::READ, cuda_regions))
        .service(endpoint!(Access::READ, trace, change_trace))
        .service(
            Endpoint::hidden(Access::READ, "/v2/models/{model}/trace/setting")
                .route(Method::GET, || web::to(trace))
                .route(Method::POST, || web::to(change_trace)),
        )
        .service(endpoint!(Access::READ, log_settings, change_log));
    for kind in ["system", "cuda"] {
        let hidden = |access, tail: &str| Endpoint::hidden(access, &format!("/v2/{kind}sharedmemory{tail}"));
        routes
            .service(hidden(Access::READ, "/region/{region}/status").route(Method::GET, || web::to(no_regions)))
            .service(hidden(Access::ASK, "/region/{region}/register").route(Method::POST, || web::to(register)))
            .service(hidden(Access::ASK, "/region/{region}/unregister").route(Method::POST, || web::to(unregister)))
            .service(hidden(Access::ASK, "/unregister").route(Method::POST, || web::to(unregister)));
    }
}

/// The server's name, version and extensions
#[utoipa::path(
    get, path = "/v2", tag = "open-inference-protocol", operation_id = "v2_server",
    responses((status = 200, description = "The server", body = ServerMetadata), PlainRefusals),
)]
async fn about() -> HttpResponse {
    HttpResponse::Ok().json(metadata::server())
}

/// Whether the server lives
#[utoipa::path(
    get, path = "/v2/health/live", tag = "open-inference-protocol", operation_id = "v2_live",
    responses((status = 200, description = "It does", body = Value)),
)]
async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "live": true }))
}

/// Whether the server can take predictions
#[utoipa::path(
    get, path = "/v2/health/ready", tag = "open-inference-protocol", operation_id = "v2_ready",
    responses(
        (status = 200, description = "It can", body = Value),
        (status = 503, description = "It cannot", body = Value),
    ),
)]
async fn ready(predictor: Data<Predictor>) -> HttpResponse {
    let ready = predictor.state().is_ready();
    let mut response = if ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.json(json!({ "ready": ready }))
}

#[derive(Default, Deserialize)]
struct IndexRequest {
    #[serde(default)]
    ready: bool,
}

/// Every model version and its state
#[utoipa::path(
    post, path = "/v2/repository/index", tag = "open-inference-protocol", operation_id = "v2_index",
    request_body(content = Option<IndexBody>),
    responses((status = 200, description = "The versions", body = Vec<IndexRow>), PlainRefusals),
)]
async fn index(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    let wanted: IndexRequest = small_body(&request, payload, &predictor).await?;
    let index = repository::index(predictor.state(), &context::of(&request), wanted.ready);
    Ok(HttpResponse::Ok().json(index.models))
}

#[derive(Default, Deserialize)]
struct LoadRequest {
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// Load a model, or load it again
///
/// Answers when it serves.
#[utoipa::path(
    post, path = "/v2/repository/models/{model}/load", tag = "open-inference-protocol", operation_id = "v2_load",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    request_body(content = Option<LoadBody>),
    responses(
        (status = 200, description = "It serves", body = Value),
        PlainRefusals,
        (status = 501, description = "Models do not come with the request", body = PlainError),
    ),
)]
async fn load(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    let wanted: LoadRequest = small_body(&request, payload, &predictor).await?;
    repository::check_load_parameters(wanted.parameters.keys().map(String::as_str))?;
    repository::load(predictor.state(), &named(&request)?.model).await?;
    Ok(nothing())
}

/// Unload a model
#[utoipa::path(
    post, path = "/v2/repository/models/{model}/unload", tag = "open-inference-protocol", operation_id = "v2_unload",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    request_body(content = Option<LoadBody>),
    responses((status = 200, description = "No worker serves it", body = Value), PlainRefusals),
)]
async fn unload(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    let _: LoadRequest = small_body(&request, payload, &predictor).await?;
    repository::unload(predictor.state(), &context::of(&request), &named(&request)?.model).await?;
    Ok(nothing())
}

/// Done, and nothing to say of it.
fn nothing() -> HttpResponse {
    HttpResponse::Ok().json(json!({}))
}

/// Reads a body that may be empty.
async fn small_body<T: Default + for<'de> Deserialize<'de>>(
    request: &HttpRequest,
    payload: Payload,
    predictor: &Predictor,
) -> Result<T> {
    let body = body::read(request, payload, predictor).await?;
    let refused = |reason: &dyn std::fmt::Display| {
        Error::new(ErrorCode::InvalidJson, format!("the body is not what this call takes: {reason}"))
    };
    // Members that are not known are passed over, but they are text too.
    let text = std::str::from_utf8(&body).map_err(|error| refused(&error))?.trim_ascii();
    match text {
        "" | "null" => Ok(T::default()),
        // A structure could be read from a list as well.
        text if text.starts_with('{') => serde_json::from_str(text).map_err(|error| refused(&error)),
        _ => Err(refused(&"it takes an object")),
    }
}

/// System shared memory: none is kept
#[utoipa::path(
    get, path = "/v2/systemsharedmemory/status", tag = "open-inference-protocol", operation_id = "v2_system_memory",
    responses((status = 200, description = "No regions", body = Vec<Value>), PlainRefusals),
)]
async fn system_regions() -> HttpResponse {
    no_regions().await
}

/// CUDA shared memory: none is kept
#[utoipa::path(
    get, path = "/v2/cudasharedmemory/status", tag = "open-inference-protocol", operation_id = "v2_cuda_memory",
    responses((status = 200, description = "No regions", body = Vec<Value>), PlainRefusals),
)]
async fn cuda_regions() -> HttpResponse {
    no_regions().await
}

async fn no_regions() -> HttpResponse {
    HttpResponse::Ok().json([(); 0])
}

async fn register() -> ApiResult {
    Err(settings::no_shared_memory().into())
}

/// Clients unregister what may be left of an earlier run before they begin.
async fn unregister() -> HttpResponse {
    nothing()
}

/// Trace settings: tracing of this kind is off
#[utoipa::path(
    get, path = "/v2/trace/setting", tag = "open-inference-protocol", operation_id = "v2_trace",
    responses((status = 200, description = "The settings", body = Object), PlainRefusals),
)]
async fn trace() -> HttpResponse {
    let shown = |value, name| if name == "trace_level" { json!([value]) } else { json!(value) };
    let settings = settings::TRACE.iter().map(|&(name, value)| (name.to_owned(), shown(value, name)));
    HttpResponse::Ok().json(settings.collect::<Map<_, _>>())
}

/// Change trace settings: not here
#[utoipa::path(
    post, path = "/v2/trace/setting", tag = "open-inference-protocol", operation_id = "v2_change_trace",
    responses((status = 501, description = "They are set where the server is started", body = PlainError), PlainRefusals),
)]
async fn change_trace() -> ApiResult {
    Err(settings::read_only("trace").into())
}

/// Log settings
#[utoipa::path(
    get, path = "/v2/logging", tag = "open-inference-protocol", operation_id = "v2_logging",
    responses((status = 200, description = "The settings", body = Object), PlainRefusals),
)]
async fn log_settings() -> HttpResponse {
    let mut settings = Map::new();
    settings.insert("log_file".into(), json!(""));
    settings.extend(settings::log_levels().map(|(name, on)| (name.to_owned(), json!(on))));
    settings.insert("log_verbose_level".into(), json!(0));
    settings.insert("log_format".into(), json!("default"));
    HttpResponse::Ok().json(settings)
}

/// Change log settings: not here
#[utoipa::path(
    post, path = "/v2/logging", tag = "open-inference-protocol", operation_id = "v2_change_logging",
    responses((status = 501, description = "They are set where the server is started", body = PlainError), PlainRefusals),
)]
async fn change_log() -> ApiResult {
    Err(settings::read_only("log").into())
}
