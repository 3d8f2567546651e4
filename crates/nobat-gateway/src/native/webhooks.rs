//! `/api/v1/webhooks`: deliveries shown and repeated, endpoints enabled again.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::{Error, ErrorCode};
use nobat_serving::Predictor;
use nobat_webhooks::delivery::HISTORY_KEPT;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::access::Access;
use crate::body;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::Refusals;
use crate::query;

/// Deliveries shown unless the caller says otherwise.
const PAGE: usize = 100;

/// Adds the routes.
pub(super) fn configure(config: &mut ServiceConfig) {
    config
        .service(endpoint!(Access::ADMIN, list))
        .service(endpoint!(Access::ADMIN, redeliver))
        .service(endpoint!(Access::ADMIN, endpoints))
        .service(endpoint!(Access::ADMIN, enable));
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
    params(
        ("limit" = Option<u32>, Query, description = "Most deliveries shown", minimum = 1, maximum = 1000),
        ("job" = Option<String>, Query, description = "Only those of the job of this id"),
    ),
    responses((status = 200, description = "`deliveries`, without bodies and paths", body = Value), Refusals),
)]
pub(crate) async fn list(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    let (mut limit, mut job) = (PAGE, None);
    query::each(request.query_string(), &["limit", "job"], |name, value| {
        match name {
            "job" => job = Some(value.to_owned()),
            _ => limit = query::number(name, value, 1, HISTORY_KEPT)?,
        }
        Ok(())
    })?;
    let webhooks = &predictor.state().webhooks;
    let shown = match job {
        None => webhooks.deliveries(limit).await?,
        Some(job) => {
            let mut shown = webhooks.deliveries(HISTORY_KEPT).await?;
            shown.retain(|delivery| delivery["job"] == job.as_str());
            shown.truncate(limit);
            shown
        }
    };
    Ok(HttpResponse::Ok().json(json!({ "deliveries": shown })))
}

/// Deliver again
///
/// One that is over from its beginning, one that waits at once; the message id stays.
#[utoipa::path(
    post, path = "/api/v1/webhooks/deliveries/{id}/redeliver", tag = "webhooks", operation_id = "redeliver",
    params(("id" = String, Path, description = "The message's id, `msg_…`")),
    responses((status = 202, description = "The delivery", body = Value), Refusals),
)]
pub(crate) async fn redeliver(predictor: Data<Predictor>, id: Path<String>) -> ApiResult {
    let delivery = predictor.state().webhooks.redeliver(&id).await?;
    Ok(HttpResponse::Accepted().json(delivery.shown(None)))
}

/// Endpoints that are left alone
///
/// By this gateway's circuit breakers, and URLs that answered 410.
#[utoipa::path(
    get, path = "/api/v1/webhooks/endpoints", tag = "webhooks", operation_id = "list_endpoints",
    responses((status = 200, description = "`left_alone_by_this_gateway` and `disabled`", body = Value), Refusals),
)]
pub(crate) async fn endpoints(predictor: Data<Predictor>) -> ApiResult {
    let webhooks = &predictor.state().webhooks;
    let open: Vec<Value> = webhooks
        .left_alone()
        .into_iter()
        .map(|(endpoint, left)| json!({ "endpoint": endpoint, "seconds": left.as_secs() }))
        .collect();
    let disabled = webhooks.disabled().await?;
    Ok(HttpResponse::Ok().json(json!({ "left_alone_by_this_gateway": open, "disabled": disabled })))
}

/// Enable a URL that answered 410
#[utoipa::path(
    post, path = "/api/v1/webhooks/endpoints/enable", tag = "webhooks", operation_id = "enable_endpoint",
    request_body(content = Value, description = "`{\"url\": …}`"),
    responses((status = 204, description = "It is sent to again"), Refusals),
)]
pub(crate) async fn enable(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    let body = body::read(&request, payload, &predictor).await?;
    let Enable { url } = body::object(&body)
        .map_err(|error| Error::new(ErrorCode::InvalidJson, format!("give {{\"url\": …}}: {error}")))?;
    predictor.state().webhooks.enable(&url).await?;
    Ok(HttpResponse::NoContent().finish())
}
