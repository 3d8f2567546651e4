//! Health for probes and people: `/livez`, `/readyz`, `/api/v1/status`.
//!
//! Live: this process answers. Ready: it can take predictions ([`nobat_serving::readiness`]):
//! its start is over, its store takes jobs and it is not draining. A missing worker
//! is no reason to take the gateway out of rotation: jobs can be queued.

use actix_web::http::header;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::{Error, ErrorCode};
use nobat_serving::monitor::{CheckStatus, State};
use nobat_serving::shown_model;
use nobat_serving::state::ServingState;
use nobat_serving::{Predictor, RequestContext};
use serde_json::json;
use utoipa_actix_web::service_config::ServiceConfig;

use crate::access::Access;
use crate::context;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::Refusals;
use crate::query;

/// Adds the routes.
pub(crate) fn configure(config: &mut ServiceConfig) {
    config
        .service(endpoint!(Access::OPEN, live))
        .service(endpoint!(Access::OPEN, ready))
        .service(endpoint!(Access::READ, status))
        .service(endpoint!(Access::READ, timeseries));
}

/// Whether the process lives
#[utoipa::path(
    get, path = "/livez", tag = "health", operation_id = "livez",
    responses((status = 200, description = "It does", body = Value)),
)]
async fn live() -> HttpResponse {
    answer(true, &json!({ "live": true }))
}

/// Whether predictions can be taken
#[utoipa::path(
    get, path = "/readyz", tag = "health", operation_id = "readyz",
    params(("verbose" = Option<String>, Query, description = "Show what was checked")),
    responses(
        (status = 200, description = "They can", body = Value),
        (status = 503, description = "They cannot", body = Value),
    ),
)]
async fn ready(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let shared = predictor.state();
    let ready = shared.is_ready();
    let verbose = request.query_string().split('&').any(|part| part == "verbose" || part.starts_with("verbose="));
    let mut body = json!({ "ready": ready });
    // Details name models and addresses: with authentication on, they are for
    // callers of /api/v1/status.
    if verbose && !shared.admission.auth.is_on() {
        body["starting"] = (!shared.readiness.is_started()).into();
        body["draining"] = shared.is_draining().into();
        body["checks"] = json!(shared.status.checks());
    } else if verbose {
        let checks = shared.status.checks();
        body["checks"] = states(&checks);
    }
    answer(ready, &body)
}

/// How the deployment does
///
/// The monitor's checks, every queue as it was seen last, the caches and what is in
/// flight in this gateway.
#[utoipa::path(
    get, path = "/api/v1/status", tag = "health", operation_id = "status",
    responses((status = 200, description = "`checks`, `queues`, `caches` and more", body = Value), Refusals),
)]
async fn status(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    answer(true, &status_of(predictor.state(), &context::of(&request)))
}

/// How the deployment does, as far as this caller may see it.
pub(crate) fn status_of(shared: &ServingState, context: &RequestContext) -> serde_json::Value {
    let checks = shared.status.checks();
    let failing = checks.iter().any(|check| check.state == State::Failing);
    // What a check says may name any model.
    let shown = match context.covers_all() {
        true => json!(checks),
        false => states(&checks),
    };
    let caches = shared.caches.stats().into_iter().filter(|(model, _)| context.covers(model));
    let caches: serde_json::Map<_, _> = caches.map(|(model, stats)| (model.to_string(), json!(stats))).collect();
    let queues = shared.status.queues().into_iter().filter(|(queue, _)| context.covers(shown_model(queue)));
    let queues: serde_json::Map<_, _> = queues.map(|(model, counts)| (model.to_string(), json!(counts))).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": if failing { State::Failing } else { State::Ok },
        "ready": shared.is_ready(),
        "starting": !shared.readiness.is_started(),
        "draining": shared.is_draining(),
        "workers": shared.registry.load().workers.len(),
        "in_flight": shared.admission.limits.in_flight(),
        "checks": shown,
        "queues": queues,
        "caches": caches,
    })
}

/// The last 15 minutes
///
/// As this gateway saw them, a point each time its monitor looks (`monitor.every_s`): rates
/// and latencies of predictions that were waited for, rates of jobs, how queues stood. For
/// keys that cover every model.
#[utoipa::path(
    get, path = "/api/v1/timeseries", tag = "health", operation_id = "timeseries",
    params(("since_ms" = Option<u64>, Query, description = "Only points after this instant, milliseconds since 1970")),
    responses((status = 200, description = "`points`, the oldest first", body = Value), Refusals),
)]
async fn timeseries(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    let mut since_ms = 0;
    query::each(request.query_string(), &["since_ms"], |name, value| {
        since_ms = query::number(name, value, 0, i64::MAX as u64)?;
        Ok(())
    })?;
    if !context::of(&request).covers_all() {
        let message = "these are sums over all models, which this API key does not cover; /api/v1/queues has its own";
        return Err(Error::new(ErrorCode::PermissionDenied, message).into());
    }
    Ok(answer(true, &json!({ "points": predictor.state().series.since(since_ms) })))
}

/// Checks without what they say.
fn states(checks: &[CheckStatus]) -> serde_json::Value {
    checks.iter().map(|check| json!({ "name": check.name, "state": check.state })).collect()
}

fn answer(good: bool, body: &serde_json::Value) -> HttpResponse {
    let mut response = if good { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(body.to_string())
}
