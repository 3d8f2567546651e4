//! The SageMaker container contract: `GET /ping` and `POST /invocations`; and
//! `POST /predict`, the shortest way to the only or default model. Both take
//! and give what TensorFlow Serving's `:predict` does.

use actix_web::web::{Data, Payload, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::{Error, ErrorCode};
use nobat_serving::Predictor;
use nobat_serving::registry::Want;

use super::tfserving::predict_json;
use crate::access::{Access, resource};
use crate::error::{Shape, finish, not_allowed};

/// Adds `/ping`, `/invocations` and `/predict`.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(resource("/predict", Access::PREDICT).post(predict).default_service(not_allowed("POST")));
    config.service(resource("/invocations", Access::PREDICT).post(predict).default_service(not_allowed("POST")));
    config.service(resource("/ping", Access::OPEN).get(ping).default_service(not_allowed("GET, HEAD")));
}

async fn predict(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> HttpResponse {
    let outcome = predict_json(&request, payload, &predictor, None, Want::Default).await;
    finish(&request, Shape::Plain, outcome)
}

/// Healthy when the model that `/invocations` would use is ready and served.
async fn ping(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let outcome = predictor.resolve(None, Want::Default).and_then(|target| target.require_live());
    let outcome = outcome.map_err(|error| match error.code {
        // To this contract a container without its model is not healthy yet.
        ErrorCode::ModelNotFound => Error { code: ErrorCode::ModelNotReady, ..error },
        _ => error,
    });
    finish(&request, Shape::Plain, outcome.map(|()| HttpResponse::Ok().content_type("application/json").body("{}")))
}
