//! Which HTTP requests are changes that the audit log tells of, and what it tells.

use actix_web::HttpMessage;
use actix_web::dev::ServiceResponse;
use actix_web::http::{Method, header};
use actix_web::web::Data;
use nobat_serving::audit::AuditEntry;
use nobat_serving::{Predictor, RequestContext};

use crate::cookie;
use crate::error::{ApiError, http_status};

/// What begins the path of a change. Predictions, and asking by a POST, are none.
const CHANGED: &[&str] = &[
    "/api/v1/jobs",
    "/api/v1/queues",
    "/api/v1/routes",
    "/api/v1/webhooks",
    "/api/v1/periodic",
    "/api/v1/keys",
    "/api/v1/models",
    "/v2/repository/models",
];

/// Answers 200 where it only counted: what it begins it answers 202.
const COUNTED: &str = "/api/v1/jobs/operations";

/// Notes an answered change.
pub(crate) fn note<B>(response: &ServiceResponse<B>) {
    let request = response.request();
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return;
    }
    let Some(pattern) =
        request.match_pattern().filter(|pattern| CHANGED.iter().any(|begin| pattern.starts_with(begin)))
    else {
        return;
    };
    let Some(predictor) = request.app_data::<Data<Predictor>>().filter(|predictor| predictor.state().audit.is_on())
    else {
        return;
    };
    // A refusal is rendered after this.
    let refused = response.response().error().and_then(|error| error.as_error::<ApiError>());
    let status = refused.map_or(response.status(), |refused| http_status(refused.0.code)).as_u16();
    if pattern == COUNTED && status == 200 {
        return;
    }
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let is_ours = header(header::USER_AGENT.as_str()).is_some_and(|agent| agent.starts_with("nobat-cli/"));
    let by = match header(cookie::OWN_PAGE) {
        Some(_) => "console",
        None if is_ours => "cli",
        None => "api",
    };
    let extensions = request.extensions();
    let Some(context) = extensions.get::<RequestContext>() else { return };
    let action = format!("{} {pattern}", request.method());
    let mut target = request.path().to_owned();
    // Which of many jobs stands in the query. What was refused may hold anything.
    if status < 400 && !request.query_string().is_empty() {
        target.push('?');
        target.push_str(request.query_string());
    }
    predictor.state().audit.note(AuditEntry::of(context, by, action, &target, status));
}
