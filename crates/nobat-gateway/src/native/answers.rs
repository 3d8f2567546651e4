//! The native API's answers about jobs, where several calls give them.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header;
use nobat_core::JobId;
use nobat_core::infer::InferRequest;
use nobat_core::job::JobView;
use nobat_core::json::encode;
use nobat_core::signature::ModelSignature;
use nobat_serving::Page;
use nobat_serving::shown_model;
use nobat_serving::timing::server_timing;
use nobat_serving::{Prediction, Predictor};

use super::job_objects::{ExplainObject, JobList, JobObject, job_url};
use super::tensor_views;
use crate::context::SERVER_TIMING;
use crate::prefer::{PREFER, PREFERENCE_APPLIED};
use crate::rows::{self, Format};

/// One page of a list as a response.
pub(super) fn listed(page: Page) -> HttpResponse {
    HttpResponse::Ok().json(JobList { jobs: page.jobs.iter().map(JobObject::from).collect(), cursor: page.cursor })
}

/// 200 with a prediction, its explanation and `Server-Timing`.
pub(super) fn answered(
    prediction: &Prediction,
    model: &str,
    form: Format,
    signature: Option<&ModelSignature>,
) -> HttpResponse {
    let outputs = &prediction.response.outputs;
    let room = 320 + 3 * outputs.iter().map(|output| output.data.len()).sum::<usize>();
    told(prediction, model, room, |json| rows::members(json, outputs, form, signature))
}

/// 200 with the first values of each output.
pub(super) fn previewed(prediction: &Prediction, model: &str) -> HttpResponse {
    told(prediction, model, 4096, |json| {
        json.extend_from_slice(b"\"outputs\":");
        tensor_views::preview(json, &prediction.response.outputs);
    })
}

fn told(prediction: &Prediction, model: &str, room: usize, outputs: impl FnOnce(&mut Vec<u8>)) -> HttpResponse {
    let mut json = Vec::with_capacity(room);
    head(&mut json, prediction.job, model, &prediction.response.version);
    outputs(&mut json);
    json.extend_from_slice(b",\"explain\":");
    // Writing to a vector cannot fail, and the struct has no map with odd keys.
    let _ = serde_json::to_writer(&mut json, &ExplainObject::of(&prediction.timings, prediction.cache));
    json.push(b'}');
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .insert_header((header::VARY, PREFER.as_str()))
        .insert_header((SERVER_TIMING, server_timing(prediction)))
        .body(json)
}

fn head(json: &mut Vec<u8>, job: Option<JobId>, model: &str, version: &str) {
    json.extend_from_slice(b"{\"id\":");
    match id_text(job) {
        Some(id) => encode::string(json, &id),
        None => json.extend_from_slice(b"null"),
    }
    json.extend_from_slice(b",\"model\":");
    encode::string(json, model);
    json.extend_from_slice(b",\"version\":");
    encode::string(json, version);
    json.extend_from_slice(b",\"state\":\"succeeded\",");
}

/// What comes before the rows of an answer that many jobs make.
pub(super) fn large_head(json: &mut Vec<u8>, signature: &ModelSignature, prediction: &Prediction) {
    head(json, None, &signature.name, &prediction.response.version);
}

/// 202 with a job that has not ended; 202 too for a duplicate that has.
pub(super) fn pending(view: &JobView) -> HttpResponse {
    accepted_job(&JobObject::from(view))
}

/// A job's input as JSON: its tensors flat, as v2 takes them, or the beginning of each.
pub(super) fn printed(view: &JobView, asked: &InferRequest, whole: bool) -> Vec<u8> {
    let bytes = asked.inputs.iter().map(|tensor| tensor.data.len()).sum::<usize>();
    let mut json = Vec::with_capacity(256 + if whole { 4 * bytes } else { 4096 });
    json.extend_from_slice(b"{\"id\":");
    encode::string(&mut json, &view.id.to_string());
    json.extend_from_slice(b",\"model\":");
    encode::string(&mut json, shown_model(&view.model));
    json.extend_from_slice(b",\"inputs\":");
    if whole {
        json.push(b'[');
        for (at, tensor) in asked.inputs.iter().enumerate() {
            json.extend_from_slice(if at == 0 { b"{" } else { b",{" });
            encode::header(&mut json, tensor);
            json.extend_from_slice(b",\"data\":");
            encode::flat(&mut json, tensor);
            json.push(b'}');
        }
        json.push(b']');
    } else {
        tensor_views::preview(&mut json, &asked.inputs);
    }
    json.extend_from_slice(b",\"outputs\":[");
    for (at, name) in asked.outputs.iter().enumerate() {
        json.extend_from_slice(if at == 0 { b"{\"name\":" } else { b",{\"name\":" });
        encode::string(&mut json, name);
        json.push(b'}');
    }
    json.extend_from_slice(b"]}");
    json
}

/// 202 that points at a job.
pub(super) fn accepted_job(job: &JobObject) -> HttpResponse {
    HttpResponse::build(StatusCode::ACCEPTED)
        .insert_header((header::LOCATION, job_url(&job.id)))
        .insert_header((header::RETRY_AFTER, "1"))
        .insert_header((header::VARY, PREFER.as_str()))
        .insert_header((PREFERENCE_APPLIED, "respond-async"))
        .json(job)
}

/// A job's id, for messages of other modules.
pub(super) fn id_text(id: Option<JobId>) -> Option<String> {
    id.map(|id| id.to_string())
}

/// A wait cut to what the configuration allows.
pub(super) fn bounded(predictor: &Predictor, wait: Option<Duration>) -> Duration {
    wait.unwrap_or_default().min(predictor.state().settings.max_wait)
}
