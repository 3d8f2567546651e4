//! What is around every HTTP request: who may send it from a page, and what is said,
//! counted and logged when it leaves.
//!
//! [`guard`] is around every HTTP request: it refuses what a page of another origin
//! sends, and accounts for the answer. Admission by key and limits comes after it, at
//! the resource that was matched ([`crate::access`]).

use std::time::Duration;

use actix_web::body::EitherBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::web;
use nobat_runtime::logging::ACCESS;
use nobat_serving::RequestContext;

use crate::context;
use crate::error::render;
use crate::metrics::Protocol;
use crate::origin::{Preflight, RequestOrigin};
use crate::state::HttpState;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Middleware body: refuses what a foreign page sends, and accounts for every
/// request. Wraps inside [`crate::context::attach`].
pub fn guard<S, B>(
    request: ServiceRequest,
    next: &S,
) -> impl Future<Output = Result<ServiceResponse<EitherBody<B>>, actix_web::Error>> + use<S, B>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error>,
{
    let state = request.app_data::<web::Data<HttpState>>().cloned();
    let protocol = Protocol::of_path(request.path());
    let preflight = Preflight::of(request.method(), request.headers());
    let judged = state.as_ref().map_or(Ok(()), |state| {
        let authority = request.uri().authority().map(|authority| authority.as_str());
        state.origins.check(RequestOrigin::of(request.method(), request.headers(), authority))
    });
    let answer = match judged {
        Ok(()) => Ok(next.call(request)),
        Err(refusal) => {
            let refused = render(&refusal, request.request());
            Err(request.into_response(refused))
        }
    };
    async move {
        let mut response = match answer {
            Ok(running) => running.await?.map_into_left_body(),
            Err(refused) => refused.map_into_right_body(),
        };
        let context = context::of(response.request());
        let status = response.status();
        decorate(response.headers_mut(), &context);
        if let Some(state) = &state {
            state.origins.tell(&preflight, status, response.headers_mut());
        }
        let (status, took) = (status.as_u16(), context.started.elapsed());
        if let Some(state) = &state {
            state.requests.record(protocol, status, took);
        }
        access(response.request().method(), response.request().path(), status, took, &context);
        context.end_span(status);
        Ok(response)
    }
}

/// One line per request: what failed at `info` and above, the rest at `debug`. So is
/// a 503: under overload most are, and they are counted; causes other than
/// saturation have a line of their own.
fn access(method: &Method, path: &str, status: u16, took: Duration, context: &RequestContext) {
    let level = match status {
        503 => log::Level::Debug,
        500.. => log::Level::Warn,
        400.. => log::Level::Info,
        _ => log::Level::Debug,
    };
    if !log::log_enabled!(target: ACCESS, level) {
        return;
    }
    let ms = (took.as_secs_f64() * 1e6).round() / 1e3;
    log::log!(
        target: ACCESS, level,
        request = context.request_id.as_str(),
        traceparent = context.traceparent.as_str(),
        model = context.notes.model(),
        job = context.notes.job().as_str(),
        key = context.grant.as_ref().map_or("", |grant| grant.name.as_str()),
        status = status,
        ms = ms;
        "{method} {path} {status} {ms:.1} ms"
    );
}

fn decorate(headers: &mut HeaderMap, context: &RequestContext) {
    let cache = context.notes.cache().header();
    if !cache.is_empty() {
        headers.insert(CACHE_STATUS, HeaderValue::from_static(cache));
    }
    let Some(quota) = context.notes.quota.get() else { return };
    for (name, value) in quota.headers() {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

pub(crate) fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    // A header that is not text is malformed, not absent.
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}
