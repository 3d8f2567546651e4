//! `/api/v1/periodic`: periodic tasks shown, run, paused and resumed. Scheduling
//! itself is `nobat_scheduler`, in whichever processes it lives; these calls
//! speak to its schedules in the metadata store.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::Result;
use nobat_scheduler::ScheduleStore;
use nobat_serving::Predictor;
use serde_json::json;
use utoipa_actix_web::service_config::ServiceConfig;

use crate::access::Access;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::Refusals;
use crate::query;

/// Runs shown unless the caller says otherwise, and most runs kept.
const PAGE: usize = 20;
const MOST: usize = 100;

/// Adds the routes.
pub(super) fn configure(config: &mut ServiceConfig) {
    config
        .service(endpoint!(Access::ADMIN, list))
        .service(endpoint!(Access::ADMIN, show))
        .service(endpoint!(Access::ADMIN, run))
        .service(endpoint!(Access::ADMIN, pause))
        .service(endpoint!(Access::ADMIN, resume));
}

/// List periodic tasks
///
/// Every declared task with its schedule in words, its next tick and its newest run.
#[utoipa::path(
    get, path = "/api/v1/periodic", tag = "periodic", operation_id = "list_periodic",
    responses((status = 200, description = "`tasks`", body = Value), Refusals),
)]
pub(crate) async fn list(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    let tasks = ScheduleStore::new(predictor.state().queue.metadata()).list().await?;
    Ok(HttpResponse::Ok().json(json!({ "tasks": tasks })))
}

/// One periodic task
///
/// Its declaration, next tick and newest runs: outcome, duration, attempts, exit
/// code and the end of its output.
#[utoipa::path(
    get, path = "/api/v1/periodic/{name}", tag = "periodic", operation_id = "get_periodic",
    params(
        ("name" = String, Path, description = "The task's name", example = "refresh"),
        ("limit" = Option<u32>, Query, description = "Most runs shown", minimum = 1, maximum = 100),
    ),
    responses((status = 200, description = "The task and its `runs`, the newest first", body = Value), Refusals),
)]
pub(crate) async fn show(request: HttpRequest, predictor: Data<Predictor>, name: Path<String>) -> ApiResult {
    let mut limit = PAGE;
    query::each(request.query_string(), &["limit"], |name, value| {
        limit = query::number(name, value, 1, MOST)?;
        Ok(())
    })?;
    let (task, runs) = ScheduleStore::new(predictor.state().queue.metadata()).show(&name, limit).await?;
    let mut shown = json!(task);
    shown["runs"] = json!(runs);
    Ok(HttpResponse::Ok().json(shown))
}

/// Run a periodic task now
///
/// Beside its schedule; a scheduler takes it up within seconds, also when paused.
#[utoipa::path(
    post, path = "/api/v1/periodic/{name}/run", tag = "periodic", operation_id = "run_periodic",
    params(("name" = String, Path, description = "The task's name", example = "refresh")),
    responses((status = 202, description = "`run`: the request's id", body = Value), Refusals),
)]
pub(crate) async fn run(request: HttpRequest, predictor: Data<Predictor>, name: Path<String>) -> ApiResult {
    query::none(&request)?;
    let id = ScheduleStore::new(predictor.state().queue.metadata()).run_now(&name).await?;
    Ok(HttpResponse::Accepted().json(json!({ "run": id })))
}

/// Pause a periodic task
#[utoipa::path(
    post, path = "/api/v1/periodic/{name}/pause", tag = "periodic", operation_id = "pause_periodic",
    params(("name" = String, Path, description = "The task's name", example = "refresh")),
    responses((status = 200, description = "`paused`", body = Value), Refusals),
)]
pub(crate) async fn pause(request: HttpRequest, predictor: Data<Predictor>, name: Path<String>) -> ApiResult {
    Ok(set_paused(&request, &predictor, &name, true).await?)
}

/// Resume a periodic task
///
/// What came due while it was paused is not made up for.
#[utoipa::path(
    post, path = "/api/v1/periodic/{name}/resume", tag = "periodic", operation_id = "resume_periodic",
    params(("name" = String, Path, description = "The task's name", example = "refresh")),
    responses((status = 200, description = "`paused`", body = Value), Refusals),
)]
pub(crate) async fn resume(request: HttpRequest, predictor: Data<Predictor>, name: Path<String>) -> ApiResult {
    Ok(set_paused(&request, &predictor, &name, false).await?)
}

async fn set_paused(request: &HttpRequest, predictor: &Predictor, name: &str, paused: bool) -> Result<HttpResponse> {
    query::none(request)?;
    ScheduleStore::new(predictor.state().queue.metadata()).set_paused(name, paused).await?;
    Ok(HttpResponse::Ok().json(json!({ "paused": paused })))
}
