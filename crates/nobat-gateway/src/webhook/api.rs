//! `/api/v1/webhooks`: deliveries shown and repeated, endpoints enabled again.

use actix_web::web::{self, Data, Path, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::{Error, ErrorCode, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{DELIVERIES, DISABLED, Delivery, HISTORY, HISTORY_KEPT, Outcome, Webhooks, now_ms, rfc3339};
use crate::access::{Access, resource};
use crate::error::{Shape, finish, not_allowed};
use crate::predict::Predictor;
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
        let shown = predictor.shared().webhooks.deliveries(limit).await?;
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
    let done = predictor.shared().webhooks.redeliver(&id).await;
    finish(&request, Shape::Problem, done.map(|delivery| HttpResponse::Accepted().json(shown(&delivery, None))))
}

/// Endpoints that are left alone
///
/// By this gateway's circuit breakers, and URLs that answered 410.
#[utoipa::path(
    get, path = "/api/v1/webhooks/endpoints", tag = "webhooks", operation_id = "list_endpoints",
    responses((status = 200, description = "`left_alone_by_this_gateway` and `disabled`", body = Value), Refusals),
)]
pub(crate) async fn endpoints(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let webhooks = &predictor.shared().webhooks;
    let disabled = webhooks.inner.metadata.documents(DISABLED).await;
    let open: Vec<Value> = webhooks
        .inner
        .breakers
        .open(now_ms())
        .into_iter()
        .map(|(endpoint, left)| json!({ "endpoint": endpoint, "seconds": left.as_secs() }))
        .collect();
    let answer = disabled.map(|disabled| {
        let urls: Vec<String> = disabled.into_iter().map(|(url, _)| url).collect();
        HttpResponse::Ok().json(json!({ "left_alone_by_this_gateway": open, "disabled": urls }))
    });
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
        match predictor.shared().webhooks.inner.metadata.remove(DISABLED, &url).await? {
            true => Ok(HttpResponse::NoContent().finish()),
            false => Err(Error::new(
                ErrorCode::RouteNotFound,
                "that URL is not disabled; GET /api/v1/webhooks/endpoints lists those that are",
            )),
        }
    };
    finish(&request, Shape::Problem, outcome.await)
}

impl Webhooks {
    /// Pending deliveries, the next due first, then those that are over, the newest first.
    async fn deliveries(&self, limit: usize) -> Result<Vec<Value>> {
        let metadata = &self.inner.metadata;
        let mut found = Vec::new();
        for (due, left) in metadata.timers(DELIVERIES, limit).await? {
            if let Ok(delivery) = serde_json::from_slice::<Delivery>(&due.value) {
                found.push(shown(&delivery, Some(left.as_secs())));
            }
        }
        for entry in metadata.tail(HISTORY, limit.saturating_sub(found.len())).await? {
            if let Ok(delivery) = serde_json::from_slice::<Delivery>(&entry) {
                found.push(shown(&delivery, None));
            }
        }
        Ok(found)
    }

    /// Sends a delivery again: one that is over from its beginning, one that
    /// waits at once. The message id stays.
    ///
    /// # Errors
    /// `route_not_found` when the history no longer has it.
    pub async fn redeliver(&self, id: &str) -> Result<Delivery> {
        let metadata = &self.inner.metadata;
        let waiting = metadata.timers(DELIVERIES, HISTORY_KEPT).await?.into_iter().find(|(due, _)| due.key == id);
        if let Some((due, _)) = waiting
            && let Ok(delivery) = serde_json::from_slice::<Delivery>(&due.value)
        {
            metadata.move_timer(DELIVERIES, id, &due.value, std::time::Duration::ZERO).await?;
            self.inner.work.notify_one();
            return Ok(delivery);
        }
        let history = metadata.tail(HISTORY, HISTORY_KEPT).await?;
        let found = history
            .iter()
            .filter_map(|entry| serde_json::from_slice::<Delivery>(entry).ok())
            .find(|over| over.id == id);
        let Some(over) = found else {
            return Err(Error::new(
                ErrorCode::RouteNotFound,
                format!(
                    "there is no delivery `{id}`; the newest {HISTORY_KEPT} are kept, GET /api/v1/webhooks/deliveries lists them"
                ),
            ));
        };
        let fresh = Delivery { attempts: 0, last: String::new(), outcome: Outcome::Pending, ..over };
        self.deliver(&fresh).await?;
        Ok(fresh)
    }
}

/// A delivery without its URL's path and its body: both may hold secrets.
fn shown(delivery: &Delivery, due_in_s: Option<u64>) -> Value {
    json!({
        "id": delivery.id,
        "event": delivery.event,
        "job": delivery.job,
        "endpoint": crate::outbound::guard::host_of(&delivery.url),
        "attempts": delivery.attempts,
        "outcome": delivery.outcome,
        "last": delivery.last,
        "created_at": rfc3339(delivery.created_at_ms),
        "due_in_s": due_in_s,
    })
}
