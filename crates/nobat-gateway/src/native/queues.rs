//! `/api/v1/queues`: counts, pause and resume, dead letters. For operators:
//! these routes see every caller's jobs.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::{Error, JobId, Result};
use nobat_serving::Counts;
use nobat_serving::Predictor;
use nobat_serving::dead_letters::GroupMove;
use utoipa_actix_web::service_config::ServiceConfig;

use super::answers::listed;
use super::job_objects::JobList;
use super::model_objects::{DeadGroupList, Moved, QueueList, QueueObject};
use crate::access::Access;
use crate::context;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::Refusals;
use crate::query;

/// Most dead letters moved by one call.
const MAX_MOVED: usize = 10_000;

/// Adds the routes.
pub(super) fn configure(config: &mut ServiceConfig) {
    config
        .service(endpoint!(Access::READ, list))
        .service(endpoint!(Access::READ, get))
        .service(endpoint!(Access::READ, pause))
        .service(endpoint!(Access::READ, resume))
        .service(endpoint!(Access::READ, dead, purge))
        .service(endpoint!(Access::READ, groups))
        .service(endpoint!(Access::READ, redrive));
}

/// List queues
#[utoipa::path(
    get, path = "/api/v1/queues", tag = "queues", operation_id = "list_queues",
    responses((status = 200, description = "One queue per model", body = QueueList), Refusals),
)]
pub(crate) async fn list(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    let queues = predictor.queues(&context::of(&request)).await?;
    let queues = queues.into_iter().map(|(name, counts)| QueueObject::new(&name, counts)).collect();
    Ok(HttpResponse::Ok().json(QueueList { queues }))
}

/// One queue
#[utoipa::path(
    get, path = "/api/v1/queues/{model}", tag = "queues", operation_id = "get_queue",
    params(("model" = String, Path, description = "The model whose queue it is", example = "digits")),
    responses((status = 200, description = "The queue", body = QueueObject), Refusals),
)]
pub(crate) async fn get(request: HttpRequest, model: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    Ok(shown(&model, predictor.queue(&context::of(&request), &model).await?))
}

/// Pause a queue
///
/// Workers lease from it no more; it goes on accepting.
#[utoipa::path(
    post, path = "/api/v1/queues/{model}/pause", tag = "queues", operation_id = "pause_queue",
    params(("model" = String, Path, description = "The model whose queue it is", example = "digits")),
    responses((status = 200, description = "The queue", body = QueueObject), Refusals),
)]
pub(crate) async fn pause(request: HttpRequest, model: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    Ok(set_paused(&request, &model, &predictor, true).await?)
}

/// Resume a queue
#[utoipa::path(
    post, path = "/api/v1/queues/{model}/resume", tag = "queues", operation_id = "resume_queue",
    params(("model" = String, Path, description = "The model whose queue it is", example = "digits")),
    responses((status = 200, description = "The queue", body = QueueObject), Refusals),
)]
pub(crate) async fn resume(request: HttpRequest, model: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    Ok(set_paused(&request, &model, &predictor, false).await?)
}

/// List dead letters
#[utoipa::path(
    get, path = "/api/v1/queues/{model}/dead", tag = "queues", operation_id = "list_dead",
    params(
        ("model" = String, Path, description = "The model whose queue it is", example = "digits"),
        ("limit" = Option<u32>, Query, description = "Most jobs in the page", minimum = 1, maximum = 10000),
        ("cursor" = Option<String>, Query, description = "The last page's `cursor`"),
    ),
    responses((status = 200, description = "A page of dead letters", body = JobList), Refusals),
)]
pub(crate) async fn dead(request: HttpRequest, model: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    let mut limit = 100;
    let mut cursor = None;
    query::each(request.query_string(), &["limit", "cursor"], |name, value| {
        match name {
            "limit" => limit = query::number(name, value, 1, MAX_MOVED)?,
            _ => cursor = Some(value.to_owned()),
        }
        Ok(())
    })?;
    Ok(listed(predictor.dead_letters(&context::of(&request), &model, cursor.as_deref(), limit).await?))
}

/// Group dead letters
///
/// By what they died of: the code of their error, and its words but for what holds a digit.
/// The newest 10,000 are looked through.
#[utoipa::path(
    get, path = "/api/v1/queues/{model}/dead/groups", tag = "queues", operation_id = "group_dead",
    params(("model" = String, Path, description = "The model whose queue it is", example = "digits")),
    responses((status = 200, description = "The groups, the largest first", body = DeadGroupList), Refusals),
)]
pub(crate) async fn groups(request: HttpRequest, model: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    let found = predictor.dead_groups(&context::of(&request), &model).await?;
    Ok(HttpResponse::Ok().json(DeadGroupList::from(found)))
}

/// Redrive dead letters
///
/// Sends them back to their queue with their attempts forgotten.
#[utoipa::path(
    post, path = "/api/v1/queues/{model}/dead/redrive", tag = "queues", operation_id = "redrive_dead",
    params(
        ("model" = String, Path, description = "The model whose queue it is", example = "digits"),
        ("limit" = Option<u32>, Query, description = "The oldest so many, when no ids are given", minimum = 1, maximum = 10000),
        ("ids" = Option<String>, Query, description = "Only these jobs, separated by commas"),
        ("group" = Option<String>, Query, description = "Only this group, by its `id`, all of it"),
    ),
    responses((status = 200, description = "How many went", body = Moved), Refusals),
)]
pub(crate) async fn redrive(request: HttpRequest, model: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    let context = context::of(&request);
    let count = match selection(&request)? {
        Selection::Jobs(ids, limit) => predictor.redrive(&context, &model, &ids, limit).await?,
        Selection::Group(group) => predictor.move_dead_group(&context, &model, &group, GroupMove::Redrive).await?,
    };
    Ok(HttpResponse::Ok().json(Moved { count }))
}

/// Purge dead letters
///
/// Deletes them for good.
#[utoipa::path(
    delete, path = "/api/v1/queues/{model}/dead", tag = "queues", operation_id = "purge_dead",
    params(
        ("model" = String, Path, description = "The model whose queue it is", example = "digits"),
        ("limit" = Option<u32>, Query, description = "The oldest so many, when no ids are given", minimum = 1, maximum = 10000),
        ("ids" = Option<String>, Query, description = "Only these jobs, separated by commas"),
        ("group" = Option<String>, Query, description = "Only this group, by its `id`, all of it"),
    ),
    responses((status = 200, description = "How many went", body = Moved), Refusals),
)]
pub(crate) async fn purge(request: HttpRequest, model: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    let context = context::of(&request);
    let count = match selection(&request)? {
        Selection::Jobs(ids, limit) => predictor.purge(&context, &model, &ids, limit).await?,
        Selection::Group(group) => predictor.move_dead_group(&context, &model, &group, GroupMove::Purge).await?,
    };
    Ok(HttpResponse::Ok().json(Moved { count }))
}

async fn set_paused(request: &HttpRequest, model: &str, predictor: &Predictor, paused: bool) -> Result<HttpResponse> {
    query::none(request)?;
    Ok(shown(model, predictor.set_queue_paused(&context::of(request), model, paused).await?))
}

fn shown(name: &str, counts: Counts) -> HttpResponse {
    HttpResponse::Ok().json(QueueObject::new(name, counts))
}

/// Which dead letters a call is about.
enum Selection {
    /// These, or the oldest so many.
    Jobs(Vec<JobId>, usize),
    /// All of a group.
    Group(String),
}

fn selection(request: &HttpRequest) -> Result<Selection> {
    let (mut ids, mut limit, mut group) = (Vec::new(), None, None);
    query::each(request.query_string(), &["limit", "ids", "group"], |name, value| {
        match name {
            "limit" => limit = Some(query::number(name, value, 1, MAX_MOVED)?),
            "group" => group = Some(value.to_owned()),
            _ => {
                for text in value.split(',') {
                    ids.push(text.parse().map_err(|_| {
                        let shown: String = text.chars().take(60).collect();
                        Error::invalid(format!("ids names `{shown}`, which is not a job id"))
                    })?);
                }
            }
        }
        Ok(())
    })?;
    match group {
        None => Ok(Selection::Jobs(ids, limit.unwrap_or(100))),
        Some(group) if ids.is_empty() && limit.is_none() => Ok(Selection::Group(group)),
        Some(_) => Err(Error::invalid("give `group`, which means all of it, or `ids` or `limit`, not both")),
    }
}
