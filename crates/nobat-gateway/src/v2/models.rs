//! What can be asked about models: the list, metadata, readiness,
//! configuration, statistics.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::ErrorCode;
use nobat_serving::Predictor;
use serde_json::json;
use utoipa_actix_web::service_config::ServiceConfig;

use super::names::named;
use super::objects::{ModelMetadata, ModelReady, Statistics};
use super::{config, metadata, statistics};
use crate::access::Access;
use crate::context;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::PlainRefusals;

/// Adds the routes; `stats` is a reserved name among models.
pub(super) fn configure(routes: &mut ServiceConfig) {
    routes
        .service(endpoint!(Access::READ, list))
        .service(endpoint!(Access::READ, all_statistics))
        .service(endpoint!(Access::READ, describe).also_by(&["version"]))
        .service(endpoint!(Access::READ, ready).also_by(&["version"]))
        .service(endpoint!(Access::READ, configuration).also_by(&["version"]))
        .service(endpoint!(Access::READ, model_statistics).also_by(&["version"]));
}

/// Every model's name
#[utoipa::path(
    get, path = "/v2/models", tag = "open-inference-protocol", operation_id = "v2_models",
    responses((status = 200, description = "The names", body = Value), PlainRefusals),
)]
async fn list(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let registry = predictor.state().registry.load();
    let context = context::of(&request);
    let names = registry.models().map(|entry| entry.name.as_str());
    let mut names: Vec<&str> = names.filter(|name| context.covers(name)).collect();
    names.sort_unstable();
    HttpResponse::Ok().json(json!({ "models": names }))
}

/// A model's inputs and outputs
#[utoipa::path(
    get, path = "/v2/models/{model}", tag = "open-inference-protocol", operation_id = "v2_model",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    responses((status = 200, description = "The model", body = ModelMetadata), PlainRefusals),
)]
async fn describe(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    let named = named(&request)?;
    let (entry, target) = predictor.describe(&context::of(&request), &named.model, named.want())?;
    Ok(HttpResponse::Ok().json(metadata::model(&entry, &target)))
}

/// Whether a model serves
#[utoipa::path(
    get, path = "/v2/models/{model}/ready", tag = "open-inference-protocol", operation_id = "v2_model_ready",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    responses(
        (status = 200, description = "It does", body = ModelReady),
        PlainRefusals,
        (status = 503, description = "It does not, or the server is shutting down", body = Value),
    ),
)]
async fn ready(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    let named = named(&request)?;
    let ready = match predictor.resolve(&context::of(&request), Some(&named.model), named.want()) {
        Ok(target) => target.live,
        Err(error) if error.code == ErrorCode::ModelNotReady => false,
        Err(error) => return Err(error.into()),
    };
    let mut response = if ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    Ok(response.json(json!({ "name": named.model, "ready": ready })))
}

/// A model's configuration, as Triton's clients read it
#[utoipa::path(
    get, path = "/v2/models/{model}/config", tag = "open-inference-protocol", operation_id = "v2_config",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    responses((status = 200, description = "The configuration", body = Object), PlainRefusals),
)]
async fn configuration(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    let named = named(&request)?;
    let target = predictor.resolve(&context::of(&request), Some(&named.model), named.want())?;
    Ok(HttpResponse::Ok().json(config::json(&target.signature)))
}

/// A model's statistics
#[utoipa::path(
    get, path = "/v2/models/{model}/stats", tag = "open-inference-protocol", operation_id = "v2_statistics",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    responses((status = 200, description = "The statistics", body = Statistics), PlainRefusals),
)]
async fn model_statistics(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    let named = named(&request)?;
    let version = named.version.as_deref().unwrap_or_default();
    let found = statistics::collect(&predictor, &context::of(&request), &named.model, version).await?;
    Ok(HttpResponse::Ok().json(found))
}

/// Every model's statistics
#[utoipa::path(
    get, path = "/v2/models/stats", tag = "open-inference-protocol", operation_id = "v2_all_statistics",
    responses((status = 200, description = "The statistics", body = Statistics), PlainRefusals),
)]
async fn all_statistics(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    Ok(HttpResponse::Ok().json(statistics::collect(&predictor, &context::of(&request), "", "").await?))
}
