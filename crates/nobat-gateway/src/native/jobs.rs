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

use super::answers::{accepted_job, answered, bounded, listed, pending, previewed, printed};
use super::events::{__path_events, events};
use super::job_filter::{FilterParameters, JobFilter};
use super::job_objects::{InputObject, JobList, JobObject, ResultObject};
use super::tensor_views;
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
    &["model", "state", "priority", "owner", "error", "tag", "parent", "q", "since", "until", "limit", "cursor"];

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
    let wait = reading(&request, &["wait"])?.wait;
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
        ("form" = Option<String>, Query, description = "`row` (default), `column`, or `record` as tables are answered; `preview`: the first values of each output, and how many it has", pattern = "^(row|column|record|preview)$"),
        ("tensor" = Option<String>, Query, description = "Only the output of this name, as a file: NumPy's, or JSON of texts"),
    ),
    responses(
        (status = 200, description = "The result", body = ResultObject),
        (status = 202, description = "Not finished yet", body = JobObject),
        Refusals,
    ),
)]
pub(crate) async fn result(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    let Reading { wait, form, tensor } = reading(&request, &["wait", "form", "tensor"])?;
    let context = context::of(&request);
    let view = predictor.job(&context, &id, bounded(&predictor, wait)).await?;
    let model = SmolStr::from(shown_model(&view.model));
    match Answer::of(view)? {
        Answer::Done(prediction) => {
            if let Some(name) = tensor {
                return Ok(tensor_views::file(&prediction.response.outputs, &name)?);
            }
            let Some(form) = form else { return Ok(previewed(&prediction, &model)) };
            let version = &prediction.response.version;
            let entry = predictor.entry(&context, &model).ok();
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
    params(
        ("id" = String, Path, description = "The job's id"),
        ("form" = Option<String>, Query, description = "`preview`: the first values of each tensor, and how many it has", pattern = "^preview$"),
        ("tensor" = Option<String>, Query, description = "Only the input of this name, as a file: NumPy's, or JSON of texts"),
    ),
    responses((status = 200, description = "The input", body = InputObject), Refusals),
)]
pub(crate) async fn input(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    let (mut whole, mut tensor) = (true, None);
    query::each(request.query_string(), &["form", "tensor"], |name, value| {
        match (name, value) {
            ("tensor", name) => tensor = Some(name.to_owned()),
            (_, "preview") => whole = false,
            _ => return Err(Error::new(ErrorCode::InvalidParameter, "form takes `preview`, or is left out")),
        }
        Ok(())
    })?;
    let (view, asked) = predictor.job_input(&context::of(&request), &id).await?;
    match tensor {
        Some(name) => Ok(tensor_views::file(&asked.inputs, &name)?),
        None => Ok(HttpResponse::Ok().content_type("application/json").body(printed(&view, &asked, whole))),
    }
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

/// How a job or its result is read.
struct Reading {
    wait: Option<Duration>,
    /// `None`: a preview.
    form: Option<Format>,
    /// The one output that is wanted.
    tensor: Option<String>,
}

fn reading(request: &HttpRequest, known: &[&'static str]) -> Result<Reading> {
    let wait = Prefer::of(request.headers()).wait;
    let mut read = Reading { wait, form: Some(Format::Row), tensor: None };
    query::each(request.query_string(), known, |name, value| {
        match (name, value) {
            ("wait", value) => read.wait = Some(query::wait(value)?),
            ("tensor", name) => read.tensor = Some(name.to_owned()),
            (_, "row") => read.form = Some(Format::Row),
            (_, "column") => read.form = Some(Format::Column),
            (_, "record") => read.form = Some(Format::Record),
            (_, "preview") => read.form = None,
            _ => {
                let message = "form takes `row`, `column`, `record` or `preview`".to_owned();
                return Err(Error::new(ErrorCode::InvalidParameter, message));
            }
        }
        Ok(())
    })?;
    Ok(read)
}
