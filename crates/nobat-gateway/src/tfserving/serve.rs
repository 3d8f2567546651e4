//! The one handler of everything under `/v1/models`.

use actix_web::HttpRequest;
use actix_web::web::{self, Data, Payload};
use nobat_serving::Predictor;
use utoipa_actix_web::service_config::ServiceConfig;

use super::path::{Action, Decoded};
use super::predict::predict_json;
use super::{describe, rank};
use crate::access::{Access, RequireScope};
use crate::context;
use crate::error::{ApiResult, method_not_allowed, nothing_at};

/// Where the protocol lives.
const MODELS: &str = "/v1/models";

/// Adds all that is under `/v1/models/`.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.map(|config| {
        config.service(web::scope(MODELS).wrap(RequireScope(Access::PREDICT)).default_service(web::to(serve)))
    });
}

async fn serve(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    let raw = request.path().strip_prefix(MODELS).and_then(|path| path.strip_prefix('/')).unwrap_or_default();
    let path = Decoded::of(raw);
    let Some(call) = path.call() else { return Ok(nothing_at(&request)) };
    if !call.allow().split(", ").any(|method| method == request.method().as_str()) {
        return Ok(method_not_allowed(&request, call.allow()));
    }
    context::require(&request, call.model)?;
    let model = Some(call.model);
    match call.action {
        Action::Predict => predict_json(&request, payload, &predictor, model, call.want).await,
        // Boxed: the future of the hot route is small without them.
        Action::Classify => Box::pin(rank::classify(&request, payload, &predictor, model, call.want)).await,
        Action::Regress => Box::pin(rank::regress(&request, payload, &predictor, model, call.want)).await,
        Action::Status => describe::status(&context::of(&request), &predictor, call.model, call.want),
        Action::Metadata => describe::metadata(&context::of(&request), &predictor, call.model, call.want),
    }
}
