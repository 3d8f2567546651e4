//! `POST /api/v1/predict/{model}`: fire and forget (202), or wait.

use std::time::SystemTime;

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use nobat_core::job::JobState;
use nobat_core::json::Reader;
use nobat_core::tags::Tags;
use nobat_core::{Error, ErrorCode, OwnerId, Result};
use nobat_serving::Accepted;
use nobat_serving::registry::{ResolvedModel, Want};
use nobat_serving::{Answer, Predictor};
use utoipa_actix_web::service_config::ServiceConfig;

use super::answers::{accepted_job, answered, large_head, pending};
use super::inputs;
use super::job_objects::{
    JobErrorObject, JobObject, ManyBody, ManyEntry, ManyJobs, ResultObject, known, owner, result_url,
};
use crate::access::Access;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::idempotency::{self, IDEMPOTENCY_KEY};
use crate::large;
use crate::openapi::{JobParameters, Refusals, WaitParameter};
use crate::prefer::Prefer;
use crate::query::{JOB_OPTIONS, JobQuery, WITH_WAIT};
use crate::rows;
use crate::rows::PredictBody;
use crate::{body, context};

/// Most jobs in one call of the many form.
const MAX_MANY: usize = 10_000;

/// Adds the routes.
pub(crate) fn configure(config: &mut ServiceConfig) {
    config.service(endpoint!(Access::PREDICT, predict).also_files()).service(endpoint!(Access::PREDICT, predict_many));
}

/// Predict, now or later
///
/// Answers 202 with the job at once, or, with `Prefer: wait=N` or `?wait=N`,
/// 200 with the result when it is there within N seconds.
///
/// A model of texts takes any number of `instances` where they are waited for: they run in
/// the background, and the answer is streamed for as long as its caller stays, without `explain`.
///
/// A picture or another file is a body as it is, by its own content type: one row of the
/// model's input of bytes. So is a table (CSV, Arrow, Parquet): its columns are the inputs,
/// and the answer is one record a row.
///
/// With the header `Inference-Header-Content-Length` the body is, as in v2's infer, a
/// JSON document of that many bytes (`inputs` with `binary_data_size`, the names of
/// `outputs`) and then the binary tensors in its order; with 0 it is the bytes of
/// the model's only input. Results are JSON in column form then.
#[utoipa::path(
    post, path = "/api/v1/predict/{model}", tag = "predict", operation_id = "predict",
    params(
        ("model" = String, Path, description = "The model's name", example = "digits"),
        JobParameters, WaitParameter,
        ("Prefer" = Option<String>, Header, description = "`wait=N` (seconds), `respond-async`, or both"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeating a request with the same key returns the same job, for as long as its record is kept"),
    ),
    request_body = PredictBody,
    responses(
        (status = 200, description = "The result, within the wait", body = ResultObject),
        (status = 202, description = "Accepted; the job goes on", body = JobObject,
            headers(("Location" = String, description = "The job"), ("Retry-After" = u32, description = "Seconds"))),
        Refusals,
    ),
)]
pub(crate) async fn predict(
    request: HttpRequest,
    model: Path<String>,
    payload: Payload,
    predictor: Data<Predictor>,
) -> ApiResult {
    let context = context::of(&request);
    let JobCall { mut query, prefer, target, body } = read(&request, WITH_WAIT, &model, payload, &predictor).await?;
    query.options.idempotency = idempotency::read(request.headers(), &model, request.query_string(), &body)?;
    let most = body::limits(&request).max_bytes;
    let (tensors, form) = inputs::read(request.headers(), body, &target.signature, most).await?;

    let wait = query.wait.or(prefer.wait).map(|wait| wait.min(predictor.state().settings.max_wait));
    let wait = wait.map(|wait| wait.saturating_sub(target.waited));
    match wait.filter(|wait| !wait.is_zero()) {
        // One call: the client's leaving cancels the job.
        Some(wait) if !prefer.respond_async => {
            if large::is_large(&target.signature, &tensors) {
                let (options, head) = (query.options, large_head);
                return Ok(large::answered(&predictor, &context, &target, tensors, form, options, head).await?);
            }
            match predictor.call(&context, &target, tensors, query.options, wait).await? {
                Answer::Done(prediction) => {
                    Ok(answered(&prediction, &target.signature.name, form, Some(&target.signature)))
                }
                Answer::Pending(view) => Ok(pending(&view)),
            }
        }
        wait => {
            let scheduled = query.options.delay.is_some_and(|delay| !delay.is_zero());
            let tags = context.tagged(query.options.clone())?.tags;
            let priority = query.options.priority;
            let again = query.options.idempotency.is_some().then(|| (tensors.clone(), query.options.clone()));
            let mut accepted = predictor.enqueue(&context, &target, tensors, query.options).await?;
            if accepted.duplicate {
                // It stands wherever it stands by now: read, not assumed.
                match (predictor.state().queue.get(accepted.id).await?, again) {
                    (Some(view), _) if wait.is_none() => return Ok(pending(&view)),
                    // Its record has gone since the key was looked up: the key names nothing now.
                    (None, Some((tensors, options))) => {
                        accepted = predictor.enqueue(&context, &target, tensors, options).await?;
                    }
                    _ => {}
                }
            }
            // JobCall for async: the job goes on whatever the client does.
            if let Some(wait) = wait {
                let view = predictor.job(&context, &accepted.id.to_string(), wait).await?;
                return match Answer::of(view)? {
                    Answer::Done(prediction) => {
                        Ok(answered(&prediction, &target.signature.name, form, Some(&target.signature)))
                    }
                    Answer::Pending(view) => Ok(pending(&view)),
                };
            }
            let state = if scheduled { JobState::Scheduled } else { JobState::Queued };
            Ok(accepted_response(accepted, &target, state, priority, &tags, context.owner))
        }
    }
}

/// Predict many in one call
///
/// One job per request, enqueued together. All are validated first: one bad
/// request refuses the call, naming it, and nothing is enqueued.
#[utoipa::path(
    post, path = "/api/v1/predict/{model}/many", tag = "predict", operation_id = "predict_many",
    params(("model" = String, Path, description = "The model's name", example = "digits"), JobParameters),
    request_body = ManyBody,
    responses((status = 202, description = "One entry per request", body = ManyJobs), Refusals),
)]
pub(crate) async fn predict_many(
    request: HttpRequest,
    model: Path<String>,
    payload: Payload,
    predictor: Data<Predictor>,
) -> ApiResult {
    let context = context::of(&request);
    if request.headers().contains_key(IDEMPOTENCY_KEY) {
        let message = "Idempotency-Key covers one job; send the requests one by one to use it";
        return Err(Error::new(ErrorCode::InvalidParameter, message).into());
    }
    let JobCall { query, target, body, .. } = read(&request, JOB_OPTIONS, &model, payload, &predictor).await?;
    body::require_json(request.headers(), &body)?;
    let mut requests = Vec::new();
    let mut reader = Reader::new(&body);
    reader.object("the body", |reader, member| {
        if member != "requests" || !requests.is_empty() {
            return Err(Error::new(ErrorCode::InvalidJson, "the body takes one member, `requests`, once"));
        }
        reader.list("requests", |reader, at| {
            let place = format!("requests[{at}]");
            if at == MAX_MANY {
                let message = format!("more than {MAX_MANY} requests; send them in several calls");
                return Err(Error::new(ErrorCode::PayloadTooLarge, message));
            }
            let named = |error: Error| Error { message: format!("{place}: {}", error.message), ..error };
            let (tensors, _) = rows::read_from(reader, &target.signature, "instances", &place).map_err(named)?;
            target.signature.validate(&tensors).map_err(named)?;
            requests.push(tensors);
            Ok(())
        })
    })?;
    reader.end()?;
    if requests.is_empty() {
        return Err(Error::new(ErrorCode::InvalidJson, "`requests` is missing or empty; give at least one").into());
    }
    predictor.state().admission.charge(&context, requests.len()).await?;
    // The queue client sends what is asked for at once in one round trip.
    let enqueued = futures::future::join_all(
        requests.into_iter().map(|tensors| predictor.enqueue(&context, &target, tensors, query.options.clone())),
    )
    .await;
    let jobs = enqueued.into_iter().map(|outcome| match outcome {
        Ok(accepted) => ManyEntry { id: Some(accepted.id.to_string()), error: None },
        Err(error) => ManyEntry { id: None, error: Some(JobErrorObject::new(error.code, &error.message)) },
    });
    Ok(HttpResponse::Accepted().json(ManyJobs { jobs: jobs.collect() }))
}

/// 202 with a job that came in just now.
fn accepted_response(
    accepted: Accepted,
    target: &ResolvedModel,
    state: JobState,
    priority: u8,
    tags: &Tags,
    by: OwnerId,
) -> HttpResponse {
    let id = accepted.id.to_string();
    let job = JobObject {
        result_url: result_url(&id),
        id,
        model: target.signature.name.to_string(),
        state,
        priority,
        attempts: 0,
        created_at: accepted.created_at_ms.and_then(known),
        finished_at: None,
        created_at_ms: accepted.created_at_ms.unwrap_or_default(),
        finished_at_ms: None,
        tags: tags.iter().map(str::to_owned).collect(),
        owner: owner(by),
        parent: None,
        error: None,
        explain: None,
    };
    accepted_job(&job)
}

/// What a caller asks for.
struct JobCall {
    query: JobQuery,
    prefer: Prefer,
    target: ResolvedModel,
    body: Bytes,
}

/// Query, model and body, in the order of what is cheapest to refuse.
async fn read(
    request: &HttpRequest,
    takes: &[&'static str],
    model: &str,
    payload: Payload,
    predictor: &Predictor,
) -> Result<JobCall> {
    let mut query = JobQuery::read(request.query_string(), takes, SystemTime::now())?;
    if let Some(url) = &query.options.webhook {
        // Here and not with each job: a call of many is refused as a whole.
        predictor.state().webhooks.check(url)?;
    }
    let want = match (&query.version, &query.label) {
        (Some(version), _) => Want::Version(version),
        (None, Some(label)) => Want::Label(label),
        (None, None) => Want::Default,
    };
    let config = &predictor.state().settings;
    // What takes no wait is put into the queue, whatever its caller prefers.
    let prefer = Prefer::of(request.headers());
    let waits = takes == WITH_WAIT && !prefer.respond_async;
    let wait = query.wait.or(prefer.wait).filter(|wait| waits && !wait.is_zero());
    let target = match wait.map(|wait| wait.min(config.max_wait)) {
        Some(wait) => {
            let patience = query.options.deadline.map_or(wait, |deadline| deadline.min(wait));
            predictor.resolve_loaded(&context::of(request), Some(model), want, patience).await?
        }
        None => {
            let patience = query.options.deadline.unwrap_or(config.sync_timeout);
            predictor.resolve_known(&context::of(request), Some(model), want, patience).await?
        }
    };
    query.options = target.after_wait(query.options);
    let body = body::read(request, payload, predictor).await?;
    Ok(JobCall { query, prefer, target, body })
}
