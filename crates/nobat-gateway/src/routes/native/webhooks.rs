//! `/api/v1/webhooks`: deliveries shown and repeated, endpoints enabled again.

use actix_web::web::{self, Data, Path, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::{Error, ErrorCode};
use nobat_serving::Predictor;
use nobat_webhooks::delivery::HISTORY_KEPT;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access::{Access, resource};
use crate::error::{Shape, finish, not_allowed};
use crate::routes::docs::Refusals;
use crate::routes::query;

/// Deliveries shown unless the caller says otherwise.
const PAGE: usize = 100;

/// Adds the paths.
pub fn configure(config: &mut ServiceConfig) {
    config
        .service(
            resource("/api/v1/webhooks/deliveries", Access::ADMIN).get(list).default_service(not_allowed("GET, HEAD")),
        )
        .service(
            resource("/api/v1/webhooks/deliveries/{id}/redeliver", Access::ADMIN)
                .post(redeliver)
                .default_service(not_allowed("POST")),
        )
        .service(
            resource("/api/v1/webhooks/endpoints", Access::ADMIN)
                .get(endpoints)
                .default_service(not_allowed("GET, HEAD")),
        )
        .service(
            resource("/api/v1/webhooks/endpoints/enable", Access::ADMIN)
                .post(enable)
                .default_service(not_allowed("POST")),
        );
}

#[derive(Deserialize)]
struct Enable {
    url: String,
}

/// List webhook deliveries
///
/// Pending ones first, the next due first; then those that are over, the newest first.
#[utoipa::path(
    get, path = "/api/v1/webhooks/deliveries", tag = "webhooks", operation_id = "list_deliveries",
    params(("limit" = Option<u32>, Query, description = "Most deliveries shown", minimum = 1, maximum = 1000)),
    responses((status = 200, description = "`deliveries`, without bodies and paths", body = Value), Refusals),
)]
pub(crate) async fn list(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let outcome = async {
        let mut limit = PAGE;
        query::each(request.query_string(), &["limit"], |name, value| {
            limit = query::number(name, value, 1, HISTORY_KEPT)?;
            Ok(())
        })?;
        let shown = predictor.state().webhooks.deliveries(limit).await?;
        Ok(HttpResponse::Ok().json(json!({ "deliveries": shown })))
    };
    let outcome = outcome.await;
    finish(&request, Shape::Problem, outcome)
}

/// Deliver again
///
/// One that is over from its beginning, one that waits at once; the message id stays.
#[utoipa::path(
    post, path = "/api/v1/webhooks/deliveries/{id}/redeliver", tag = "webhooks", operation_id = "redeliver",
    params(("id" = String, Path, description = "The message's id, `msg_…`")),
    responses((status = 202, description = "The delivery", body = Value), Refusals),
)]
pub(crate) async fn redeliver(request: HttpRequest, predictor: Data<Predictor>, id: Path<String>) -> HttpResponse {
    let done = predictor.state().webhooks.redeliver(&id).await;
    finish(&request, Shape::Problem, done.map(|delivery| HttpResponse::Accepted().json(delivery.shown(None))))
}

/// Endpoints that are left alone
///
/// By this gateway's circuit breakers, and URLs that answered 410.
#[utoipa::path(
    get, path = "/api/v1/webhooks/endpoints", tag = "webhooks", operation_id = "list_endpoints",
    responses((status = 200, description = "`left_alone_by_this_gateway` and `disabled`", body = Value), Refusals),
)]
pub(crate) async fn endpoints(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let webhooks = &predictor.state().webhooks;
    let open: Vec<Value> = webhooks
        .left_alone()
        .into_iter()
        .map(|(endpoint, left)| json!({ "endpoint": endpoint, "seconds": left.as_secs() }))
        .collect();
    let answer = webhooks
        .disabled()
        .await
        .map(|urls| HttpResponse::Ok().json(json!({ "left_alone_by_this_gateway": open, "disabled": urls })));
    finish(&request, Shape::Problem, answer)
}

/// Enable a URL that answered 410
#[utoipa::path(
    post, path = "/api/v1/webhooks/endpoints/enable", tag = "webhooks", operation_id = "enable_endpoint",
    request_body(content = Value, description = "`{\"url\": …}`"),
    responses((status = 204, description = "It is sent to again"), Refusals),
)]
pub(crate) async fn enable(request: HttpRequest, predictor: Data<Predictor>, body: web::Bytes) -> HttpResponse {
    let outcome = async {
        let Enable { url } = serde_json::from_slice(&body)
            .map_err(|error| Error::new(ErrorCode::InvalidJson, format!("give {{\"url\": …}}: {error}")))?;
        predictor.state().webhooks.enable(&url).await?;
        Ok(HttpResponse::NoContent().finish())
    };
    finish(&request, Shape::Problem, outcome.await)
}
