//! `:predict`: rows or columns in, the same form out.

use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::job::JobOptions;
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::registry::{ResolvedModel, Want};
use nobat_serving::timing::server_timing;
use nobat_serving::{Prediction, Predictor};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::context::SERVER_TIMING;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::large;
use crate::openapi::{DeadlineParameter, JobParameters, PlainRefusals};
use crate::prefer::Prefer;
use crate::query::{JobQuery, WITH_WAIT};
use crate::rows::{self, PredictBody};
use crate::{bodies, body, context};

/// Documents the call; [`super::serve`] serves it.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(endpoint!(document: predict_json).also_files().also_by(&["version", "label"]));
}

/// Predict
#[utoipa::path(
    post, path = "/v1/models/{model}:predict", tag = "tensorflow-serving", operation_id = "tf_predict",
    params(("model" = String, Path, description = "The model's name", example = "digits"), JobParameters, DeadlineParameter),
    request_body = PredictBody,
    responses((status = 200, description = "`predictions` (row form) or `outputs` (column form)", body = Value), PlainRefusals),
)]
pub(crate) async fn predict_json(
    request: &HttpRequest,
    payload: Payload,
    predictor: &Predictor,
    model: Option<&str>,
    want: Want<'_>,
) -> ApiResult {
    let (target, options) = PredictCall::resolve(request, predictor, model, want).await?;
    let body = body::read(request, payload, predictor).await?;
    json_of(request, predictor, PredictCall { target, options, body }).await
}

/// As [`predict_json`], of a body that was read already.
pub(crate) async fn predict_body(
    request: &HttpRequest,
    body: bytes::Bytes,
    predictor: &Predictor,
    model: Option<&str>,
    want: Want<'_>,
) -> ApiResult {
    let (target, options) = PredictCall::resolve(request, predictor, model, want).await?;
    json_of(request, predictor, PredictCall { target, options, body }).await
}

async fn json_of(request: &HttpRequest, predictor: &Predictor, asked: PredictCall) -> ApiResult {
    let most = body::limits(request).max_bytes;
    let signature = asked.target.signature.clone();
    // Not kept while its answer is waited for.
    let PredictCall { target, options, body } = asked;
    let (tensors, form) = bodies::read(request.headers(), body, &signature, most).await?;
    let context = context::of(request);
    if large::is_large(&signature, &tensors) {
        let head: large::Head = |out, _, _| out.push(b'{');
        return Ok(large::answered(predictor, &context, &target, tensors, form, options, head).await?);
    }
    let prediction = predictor.predict(&context, &target, tensors, options).await?;
    let timing = server_timing(&prediction);
    let outputs = &prediction.response.outputs;
    let mut json = Vec::with_capacity(64 + 3 * outputs.iter().map(|output| output.data.len()).sum::<usize>());
    rows::answer(&mut json, outputs, form, Some(&signature));
    Ok(answered(timing, json))
}

/// 200 with a predicting call's JSON.
pub(super) fn answered(timing: String, json: Vec<u8>) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").insert_header((SERVER_TIMING, timing)).body(json)
}

/// A predicting call, its body read and its model found.
pub(super) struct PredictCall {
    pub(super) target: ResolvedModel,
    options: JobOptions,
    pub(super) body: bytes::Bytes,
}

impl PredictCall {
    pub(super) async fn read(
        request: &HttpRequest,
        payload: Payload,
        predictor: &Predictor,
        model: Option<&str>,
        want: Want<'_>,
    ) -> Result<PredictCall> {
        let (target, options) = PredictCall::resolve(request, predictor, model, want).await?;
        let body = body::read_json(request, payload, predictor).await?;
        Ok(PredictCall { target, options, body })
    }

    /// The model that is asked, and the job's options, by path and query.
    async fn resolve(
        request: &HttpRequest,
        predictor: &Predictor,
        model: Option<&str>,
        want: Want<'_>,
    ) -> Result<(ResolvedModel, JobOptions)> {
        let query = match request.query_string() {
            "" => JobQuery::default(),
            query => JobQuery::read(query, WITH_WAIT, std::time::SystemTime::now())?,
        };
        let want = match (want, &query.version, &query.label) {
            (Want::Default, Some(version), _) => Want::Version(version),
            (Want::Default, None, Some(label)) => Want::Label(label),
            (want, None, None) => want,
            (_, _, _) => {
                let message = "the path names the version already; leave `version` and `label` out of the query";
                return Err(Error::new(ErrorCode::InvalidParameter, message));
            }
        };
        let mut options = query.options;
        if query.wait.is_some_and(|wait| wait.is_zero()) {
            let message = "wait is 0, and this call always waits; give 1ms or more, or POST to /api/v1/predict/MODEL";
            return Err(Error::new(ErrorCode::InvalidParameter, message));
        }
        let preferred = || Prefer::of(request.headers()).wait.filter(|wait| !wait.is_zero());
        let wait = query.wait.or_else(preferred);
        options.deadline = options.deadline.into_iter().chain(wait).min();
        let patience = options.deadline.unwrap_or_else(|| predictor.state().settings.sync_timeout);
        let target = predictor.resolve_loaded(&context::of(request), model, want, patience).await?;
        let options = target.after_wait(options);
        Ok((target, options))
    }

    pub(super) async fn predict(
        self,
        request: &HttpRequest,
        predictor: &Predictor,
        tensors: nobat_core::infer::InferRequest,
    ) -> Result<Prediction> {
        predictor.predict(&context::of(request), &self.target, tensors, self.options).await
    }
}
