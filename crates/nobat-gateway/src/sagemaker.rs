//! The SageMaker container contract: `GET /ping` and `POST /invocations`; and
//! `POST /predict`, the shortest way to the only or default model. Both take
//! and give what TensorFlow Serving's `:predict` does.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::{Error, ErrorCode};
use nobat_serving::registry::Want;
use nobat_serving::{Predictor, RequestContext};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::access::Access;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::{DeadlineParameter, JobParameters, PlainRefusals};
use crate::rows::PredictBody;
use crate::tfserving::predict::{predict_body, predict_json};
use crate::{body, tei};

/// Adds `/ping`, `/invocations` and `/predict`.
pub(crate) fn configure(config: &mut ServiceConfig) {
    config
        .service(endpoint!(Access::PREDICT, short_predict).also_files())
        .service(endpoint!(Access::PREDICT, invocations).also_files())
        .service(endpoint!(Access::OPEN, ping));
}

/// Predict with the only or default model
///
/// A model with labels for texts also takes the body of text-embeddings-inference's
/// `/predict`, `{"inputs": …}` and no `instances`, and answers in its form.
#[utoipa::path(
    post, path = "/predict", tag = "predict", operation_id = "short_predict",
    params(JobParameters, DeadlineParameter), request_body = PredictBody,
    responses((status = 200, description = "`predictions` (row form) or `outputs` (column form)", body = Value), PlainRefusals),
)]
async fn short_predict(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    // A model of texts: its callers may speak another API here.
    let reads_texts =
        predictor.state().registry.load().models().any(|model| model.default_version().signature.task.is_some());
    if !reads_texts {
        return predict_json(&request, payload, &predictor, None, Want::Default).await;
    }
    let body = body::read(&request, payload, &predictor).await?;
    match tei::is_call(&request, &predictor, &body).await {
        true => tei::predict(&request, &predictor, &body).await,
        false => predict_body(&request, body, &predictor, None, Want::Default).await,
    }
}

/// Predict with the only or default model
#[utoipa::path(
    post, path = "/invocations", tag = "sagemaker", operation_id = "invocations",
    params(JobParameters, DeadlineParameter), request_body = PredictBody,
    responses((status = 200, description = "`predictions` (row form) or `outputs` (column form)", body = Value), PlainRefusals),
)]
async fn invocations(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    predict_json(&request, payload, &predictor, None, Want::Default).await
}

/// Whether the only or default model serves
#[utoipa::path(
    get, path = "/ping", tag = "sagemaker", operation_id = "ping",
    responses((status = 200, description = "It does", body = Value), PlainRefusals),
)]
async fn ping(predictor: Data<Predictor>) -> ApiResult {
    let ready =
        predictor.resolve(&RequestContext::anonymous(), None, Want::Default).and_then(|target| target.require_live());
    // To this contract a container without its model is not healthy yet. Anybody may ask, so nobody
    // is told what models there are.
    let code = match ready.map_err(|error| error.code) {
        Ok(()) => return Ok(HttpResponse::Ok().content_type("application/json").body("{}")),
        Err(ErrorCode::ModelNotFound) => ErrorCode::ModelNotReady,
        Err(code) => code,
    };
    Err(Error::new(code, "the only or default model does not serve; with a key GET /api/v1/models says why").into())
}
