//! `/api/v1/jobs`: status, result, cancel, retry, list.

use std::time::Duration;

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::registry::Want;
use nobat_serving::shown_model;
use nobat_serving::{Answer, Predictor};
use smol_str::SmolStr;
use utoipa_actix_web::service_config::ServiceConfig;

use super::answers::{accepted_job, answered, bounded, listed, pending, printed};
use super::events::{__path_events, events};
use super::job_filter::{FilterParameters, JobFilter};
use super::job_objects::{InputObject, JobList, JobObject, ResultObject};
use crate::access::Access;
use crate::context;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::{EndParameter, Refusals};
use crate::prefer::Prefer;
use crate::query;
use crate::rows::Format;

const MAX_PAGE: usize = 1_000;
const LISTED_BY: &[&str] =
    &["model", "state", "priority", "owner", "error", "tag", "q", "since", "until", "limit", "cursor"];

/// Adds the routes.
pub(super) fn configure(config: &mut ServiceConfig) {
    config
        .service(endpoint!(Access::PREDICT, list))
        .service(endpoint!(Access::PREDICT, get, delete))
        .service(endpoint!(Access::PREDICT, result))
        .service(endpoint!(Access::PREDICT, input))
        .service(endpoint!(Access::PREDICT, events))
        .service(endpoint!(Access::PREDICT, cancel))
        .service(endpoint!(Access::PREDICT, retry));
}

/// A job's status
///
/// With `?wait=N` or `Prefer: wait=N`: after its end, or N seconds.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}", tag = "jobs", operation_id = "get_job",
    params(
        ("id" = String, Path, description = "The job's id"),
        EndParameter,
    ),
    responses((status = 200, description = "The job", body = JobObject), Refusals),
)]
pub(crate) async fn get(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    let (wait, _) = wait_and_form(&request, &["wait"])?;
    let view = predictor.job(&context::of(&request), &id, bounded(&predictor, wait)).await?;
    Ok(HttpResponse::Ok().json(JobObject::from(&view)))
}

/// A job's result
///
/// With `?wait=N` or `Prefer: wait=N` a long poll: answers when the job ends,
/// or after N seconds with 202.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/result", tag = "jobs", operation_id = "get_result",
    params(
        ("id" = String, Path, description = "The job's id"),
        EndParameter,
        ("form" = Option<String>, Query, description = "`row` (default), `column`, or `record` as tables are answered", pattern = "^(row|column|record)$"),
    ),
    responses(
        (status = 200, description = "The result", body = ResultObject),
        (status = 202, description = "Not finished yet", body = JobObject),
        Refusals,
    ),
)]
pub(crate) async fn result(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    let (wait, form) = wait_and_form(&request, &["wait", "form"])?;
    let view = predictor.job(&context::of(&request), &id, bounded(&predictor, wait)).await?;
    let model = SmolStr::from(shown_model(&view.model));
    match Answer::of(view)? {
        Answer::Done(prediction) => {
            let version = &prediction.response.version;
            let entry = predictor.entry(&model).ok();
            // The version that answered may be gone: another says as much of its outputs.
            let known = entry.as_ref().map(|entry| {
                entry.find(Want::Version(version)).unwrap_or_else(|_| entry.default_version()).signature.clone()
            });
            Ok(answered(&prediction, &model, form, known.as_deref()))
        }
        Answer::Pending(view) => Ok(pending(&view)),
    }
}

/// A job's input
///
/// As it was sent, in the form of a v2 inference request, which can be sent again.
/// There while the job may run: until it ends, and of a dead letter as long as that
/// is kept.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/input", tag = "jobs", operation_id = "get_input",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 200, description = "The input", body = InputObject), Refusals),
)]
pub(crate) async fn input(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    let (view, asked) = predictor.job_input(&context::of(&request), &id).await?;
    Ok(HttpResponse::Ok().content_type("application/json").body(printed(&view, &asked)))
}

/// Cancel a job
///
/// A job under lease ends cancelled at once; what its worker answers is dropped.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/cancel", tag = "jobs", operation_id = "cancel_job",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 200, description = "The cancelled job", body = JobObject), Refusals),
)]
pub(crate) async fn cancel(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    let view = predictor.cancel_job(&context::of(&request), &id).await?;
    Ok(HttpResponse::Ok().json(JobObject::from(&view)))
}

/// Cancel a job
///
/// As `POST /api/v1/jobs/{id}/cancel`.
#[utoipa::path(
    delete, path = "/api/v1/jobs/{id}", tag = "jobs", operation_id = "delete_job",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 200, description = "The cancelled job", body = JobObject), Refusals),
)]
pub(crate) async fn delete(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    cancel(request, id, predictor).await
}

/// Retry a dead letter
///
/// Sends it back to its queue with its attempts forgotten.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/retry", tag = "jobs", operation_id = "retry_job",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 202, description = "The job, queued again", body = JobObject), Refusals),
)]
pub(crate) async fn retry(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    let view = predictor.retry_job(&context::of(&request), &id).await?;
    Ok(accepted_job(&JobObject::from(&view)))
}

/// List your jobs
///
/// Everybody's, for a key of scope `admin`. The newest first. A page may be short or empty
/// while the cursor goes on: a call looks at so many jobs.
#[utoipa::path(
    get, path = "/api/v1/jobs", tag = "jobs", operation_id = "list_jobs",
    params(
        FilterParameters,
        ("limit" = Option<u32>, Query, description = "Most jobs in the page", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "The last page's `cursor`"),
    ),
    responses((status = 200, description = "A page of jobs, without results", body = JobList), Refusals),
)]
pub(crate) async fn list(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    let context = context::of(&request);
    let mut filter = JobFilter::of(&context);
    let mut limit = 100;
    let mut cursor = None;
    query::each(request.query_string(), LISTED_BY, |name, value| {
        match name {
            "limit" => limit = query::number(name, value, 1, MAX_PAGE)?,
            "cursor" => cursor = Some(value.to_owned()),
            _ => filter.read(&predictor, name, value)?,
        }
        Ok(())
    })?;
    let filter = filter.into_inner();
    Ok(listed(predictor.jobs(&context, &filter, cursor.as_deref(), limit).await?))
}

fn wait_and_form(request: &HttpRequest, known: &[&'static str]) -> Result<(Option<Duration>, Format)> {
    let mut wait = Prefer::of(request.headers()).wait;
    let mut form = Format::Row;
    query::each(request.query_string(), known, |name, value| {
        match (name, value) {
            ("wait", value) => wait = Some(query::wait(value)?),
            (_, "row") => form = Format::Row,
            (_, "column") => form = Format::Column,
            (_, "record") => form = Format::Record,
            _ => {
                let message = "form takes `row`, `column` or `record`".to_owned();
                return Err(Error::new(ErrorCode::InvalidParameter, message));
            }
        }
        Ok(())
    })?;
    Ok((wait, form))
}
