//! `/api/v1/jobs`: status, result, cancel, retry, list.

use std::time::Duration;

use actix_web::http::header;
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::infer::InferRequest;
use nobat_core::job::{JobState, JobView};
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::timing::server_timing;
use nobat_serving::{Answer, Prediction, Predictor};
use nobat_serving::{ListFilter, Page, shown_model};
use smol_str::SmolStr;

use super::objects::{ExplainObject, InputObject, JobList, JobObject, ResultObject};
use super::predict::{accepted_job, bounded, id_text};
use crate::context;
use crate::context::SERVER_TIMING;
use crate::error::{Shape, finish};
use crate::json::request::Form;
use crate::json::write;
use crate::routes::docs::Refusals;
use crate::routes::prefer::{PREFER, Prefer};
use crate::routes::query;

const MAX_PAGE: usize = 1_000;

/// A job's status
///
/// With `?wait=N` or `Prefer: wait=N`: after its end, or N seconds.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}", tag = "jobs", operation_id = "get_job",
    params(
        ("id" = String, Path, description = "The job's id"),
        ("wait" = Option<String>, Query, description = "Wait this long for its end; seconds, or with a unit", pattern = r"^((0|[1-9][0-9]{0,5})(\.[0-9]{1,3})?s?|[1-9][0-9]{0,8}ms|[1-9][0-9]{0,3}(m|min)|[1-9][0-9]{0,2}h)$"),
    ),
    responses((status = 200, description = "The job", body = JobObject), Refusals),
)]
pub async fn get(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> HttpResponse {
    let outcome = async {
        let (wait, _) = wait_and_form(&request, &["wait"])?;
        let view = predictor.job(&context::of(&request), &id, bounded(&predictor, wait)).await?;
        Ok(HttpResponse::Ok().json(JobObject::from(&view)))
    };
    let outcome = outcome.await;
    finish(&request, Shape::Problem, outcome)
}

/// A job's result
///
/// With `?wait=N` or `Prefer: wait=N` a long poll: answers when the job ends,
/// or after N seconds with 202.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/result", tag = "jobs", operation_id = "get_result",
    params(
        ("id" = String, Path, description = "The job's id"),
        ("wait" = Option<String>, Query, description = "Wait this long for its end; seconds, or with a unit", pattern = r"^((0|[1-9][0-9]{0,5})(\.[0-9]{1,3})?s?|[1-9][0-9]{0,8}ms|[1-9][0-9]{0,3}(m|min)|[1-9][0-9]{0,2}h)$"),
        ("form" = Option<String>, Query, description = "`row` (default) or `column`", pattern = "^(row|column)$"),
    ),
    responses(
        (status = 200, description = "The result", body = ResultObject),
        (status = 202, description = "Not finished yet", body = JobObject),
        Refusals,
    ),
)]
pub async fn result(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> HttpResponse {
    let outcome = async {
        let (wait, form) = wait_and_form(&request, &["wait", "form"])?;
        let view = predictor.job(&context::of(&request), &id, bounded(&predictor, wait)).await?;
        let model = SmolStr::from(shown_model(&view.model));
        match Answer::of(view)? {
            Answer::Done(prediction) => Ok(answered(&prediction, &model, form)),
            Answer::Pending(view) => Ok(pending(&view)),
        }
    };
    let outcome = outcome.await;
    finish(&request, Shape::Problem, outcome)
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
pub async fn input(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> HttpResponse {
    let outcome = async {
        query::each(request.query_string(), &[], |_, _| Ok(()))?;
        let (view, asked) = predictor.job_input(&context::of(&request), &id).await?;
        Ok(HttpResponse::Ok().content_type("application/json").body(printed(&view, &asked)))
    };
    let outcome = outcome.await;
    finish(&request, Shape::Problem, outcome)
}

/// A job's input as JSON: its tensors flat, as v2 takes them.
fn printed(view: &JobView, asked: &InferRequest) -> Vec<u8> {
    let mut json = Vec::with_capacity(256 + 4 * asked.inputs.iter().map(|tensor| tensor.data.len()).sum::<usize>());
    json.extend_from_slice(b"{\"id\":");
    write::string(&mut json, &view.id.to_string());
    json.extend_from_slice(b",\"model\":");
    write::string(&mut json, shown_model(&view.model));
    json.extend_from_slice(b",\"inputs\":[");
    for (at, tensor) in asked.inputs.iter().enumerate() {
        json.extend_from_slice(if at == 0 { b"{\"name\":" } else { b",{\"name\":" });
        write::string(&mut json, &tensor.name);
        json.extend_from_slice(b",\"datatype\":");
        write::string(&mut json, tensor.datatype.as_str());
        // Numbers print as in any JSON.
        json.extend_from_slice(format!(",\"shape\":{:?},\"data\":", tensor.shape.as_slice()).as_bytes());
        write::flat(&mut json, tensor);
        json.push(b'}');
    }
    json.extend_from_slice(b"],\"outputs\":[");
    for (at, name) in asked.outputs.iter().enumerate() {
        json.extend_from_slice(if at == 0 { b"{\"name\":" } else { b",{\"name\":" });
        write::string(&mut json, name);
        json.push(b'}');
    }
    json.extend_from_slice(b"]}");
    json
}

/// Cancel a job
///
/// A job under lease ends cancelled at once; what its worker answers is dropped.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/cancel", tag = "jobs", operation_id = "cancel_job",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 200, description = "The cancelled job", body = JobObject), Refusals),
)]
pub async fn cancel(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> HttpResponse {
    let outcome = async {
        query::each(request.query_string(), &[], |_, _| Ok(()))?;
        let view = predictor.cancel_job(&context::of(&request), &id).await?;
        Ok(HttpResponse::Ok().json(JobObject::from(&view)))
    };
    let outcome = outcome.await;
    finish(&request, Shape::Problem, outcome)
}

/// Cancel a job
///
/// As `POST /api/v1/jobs/{id}/cancel`.
#[utoipa::path(
    delete, path = "/api/v1/jobs/{id}", tag = "jobs", operation_id = "delete_job",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 200, description = "The cancelled job", body = JobObject), Refusals),
)]
pub async fn delete(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> HttpResponse {
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
pub async fn retry(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> HttpResponse {
    let outcome = async {
        query::each(request.query_string(), &[], |_, _| Ok(()))?;
        let view = predictor.retry_job(&context::of(&request), &id).await?;
        Ok(accepted_job(&JobObject::from(&view)))
    };
    let outcome = outcome.await;
    finish(&request, Shape::Problem, outcome)
}

/// List your jobs
///
/// Everybody's, for a key of scope `admin`.
#[utoipa::path(
    get, path = "/api/v1/jobs", tag = "jobs", operation_id = "list_jobs",
    params(
        ("model" = Option<String>, Query, description = "Only this model's"),
        ("state" = Option<super::objects::JobStateName>, Query, description = "Only in this state"),
        ("limit" = Option<u32>, Query, description = "Most jobs in the page", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "The last page's `cursor`"),
    ),
    responses((status = 200, description = "A page of jobs, without results", body = JobList), Refusals),
)]
pub async fn list(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let outcome = async {
        let context = context::of(&request);
        let owner = (!context.administers()).then_some(context.owner);
        let mut filter = ListFilter { owner, ..ListFilter::default() };
        let mut limit = 100;
        let mut cursor = None;
        query::each(request.query_string(), &["model", "state", "limit", "cursor"], |name, value| {
            match name {
                // A name that is neither lists nothing, as it always did.
                "model" => filter.model = Some(predictor.queue_named(value).unwrap_or_else(|_| value.into())),
                "state" => filter.state = Some(state(value)?),
                "limit" => limit = query::number(name, value, 1, MAX_PAGE)?,
                _ => cursor = Some(value.to_owned()),
            }
            Ok(())
        })?;
        Ok(listed(predictor.jobs(&context, &filter, cursor.as_deref(), limit).await?))
    };
    let outcome = outcome.await;
    finish(&request, Shape::Problem, outcome)
}

/// One page of a list as a response.
pub(super) fn listed(page: Page) -> HttpResponse {
    HttpResponse::Ok().json(JobList { jobs: page.jobs.iter().map(JobObject::from).collect(), cursor: page.cursor })
}

/// 200 with a prediction, its explanation and `Server-Timing`.
pub(super) fn answered(prediction: &Prediction, model: &str, form: Form) -> HttpResponse {
    let outputs = &prediction.response.outputs;
    let mut json = Vec::with_capacity(320 + 3 * outputs.iter().map(|output| output.data.len()).sum::<usize>());
    json.extend_from_slice(b"{\"id\":");
    match id_text(prediction.job) {
        Some(id) => write::string(&mut json, &id),
        None => json.extend_from_slice(b"null"),
    }
    json.extend_from_slice(b",\"model\":");
    write::string(&mut json, model);
    json.extend_from_slice(b",\"version\":");
    write::string(&mut json, &prediction.response.version);
    json.extend_from_slice(b",\"state\":\"succeeded\",");
    write::members(&mut json, outputs, form);
    json.extend_from_slice(b",\"explain\":");
    // Writing to a vector cannot fail, and the struct has no map with odd keys.
    let _ = serde_json::to_writer(&mut json, &ExplainObject::of(&prediction.explain, prediction.cache));
    json.push(b'}');
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .insert_header((header::VARY, PREFER.as_str()))
        .insert_header((SERVER_TIMING, server_timing(prediction)))
        .body(json)
}

/// 202 with a job that has not ended; 202 too for a duplicate that has.
pub(super) fn pending(view: &JobView) -> HttpResponse {
    accepted_job(&JobObject::from(view))
}

fn wait_and_form(request: &HttpRequest, known: &[&'static str]) -> Result<(Option<Duration>, Form)> {
    let mut wait = Prefer::of(request.headers()).wait;
    let mut form = Form::Row;
    query::each(request.query_string(), known, |name, value| {
        match (name, value) {
            ("wait", value) => wait = Some(query::wait(value)?),
            (_, "row") => form = Form::Row,
            (_, "column") => form = Form::Column,
            _ => {
                let message = "form takes `row` or `column`".to_owned();
                return Err(Error::new(ErrorCode::InvalidParameter, message));
            }
        }
        Ok(())
    })?;
    Ok((wait, form))
}

fn state(value: &str) -> Result<JobState> {
    JobState::parse(value).ok_or_else(|| {
        let states: Vec<_> = JobState::ALL.iter().map(|state| state.as_str()).collect();
        let shown: String = value.chars().take(40).collect();
        Error::new(ErrorCode::InvalidParameter, format!("state is `{shown}`; it takes one of {}", states.join(", ")))
    })
}
