//! The door: who a request is from, whether it may come in now, and what is
//! said, counted and logged when it leaves. Runs before any body is read.
//!
//! The same [`Edge::enter`] serves HTTP (through [`guard`]) and gRPC.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::body::EitherBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpResponse, web};
use nobat_core::Result;

use crate::auth::keyring::Grant;
use crate::auth::{Authenticator, Scope, scope};
use crate::context::{REQUEST_ID, RequestContext};
use crate::error::{self, Shape};
use crate::limits::{Limits, Permit};
use crate::meters::Protocol;
use crate::predict::Predictor;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Authentication and limits of one gateway.
pub struct Edge {
    /// Checks credentials.
    pub auth: Authenticator,
    /// Counts what is let in.
    pub limits: Limits,
}

/// A request that may go on; its permit is counted until this is dropped.
pub struct Entry {
    /// What its caller may do; `None` when authentication is off.
    pub grant: Option<Arc<Grant>>,
    /// The caller's place among those in flight; only predictions take one.
    pub permit: Option<Permit>,
}

impl Edge {
    /// Lets a request with this `Authorization` in that needs `scope` (`None`:
    /// open to everybody).
    ///
    /// # Errors
    /// `unauthenticated`, `permission_denied`, and the refusals of [`Limits::admit`].
    pub fn enter(&self, authorization: Option<&str>, scope: Option<Scope>, now: Instant) -> Result<Entry> {
        let Some(scope) = scope else { return Ok(Entry { grant: None, permit: None }) };
        let grant = self.auth.authenticate(authorization)?;
        if let Some(grant) = &grant {
            grant.require(scope)?;
        }
        let permit = match scope {
            Scope::Predict => Some(self.limits.admit(grant.as_deref(), now)?),
            Scope::Read | Scope::Admin => None,
        };
        Ok(Entry { grant, permit })
    }
}

/// Middleware body: lets a request in or refuses it, and accounts for it. Wraps
/// inside [`crate::context::attach`].
pub fn guard<S, B>(
    request: ServiceRequest,
    next: &S,
) -> impl Future<Output = Result<ServiceResponse<EitherBody<B>>, actix_web::Error>> + use<S, B>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error>,
{
    let shared = request.app_data::<web::Data<Predictor>>().map(|predictor| predictor.shared().clone());
    let is_write = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let protocol = Protocol::of_path(request.path());
    let authorization = text(request.headers(), header::AUTHORIZATION);
    let scope = scope::required(is_write, request.path());
    let entry = match &shared {
        Some(shared) => shared.edge.enter(authorization, scope, Instant::now()),
        None => Ok(Entry { grant: None, permit: None }),
    };
    let context = {
        let mut extensions = request.extensions_mut();
        if let (Some(context), Ok(Entry { grant: Some(grant), .. })) = (extensions.get_mut::<RequestContext>(), &entry)
        {
            context.owner = grant.owner;
            context.grant = Some(grant.clone());
        }
        extensions.get::<RequestContext>().cloned().unwrap_or_else(RequestContext::anonymous)
    };
    let rated = matches!(&entry, Ok(Entry { permit: Some(permit), .. }) if permit.has_shared_rate());
    let asked = rated.then(|| (request.method().clone(), request.path().to_owned()));
    let (answer, mut permit) = match entry {
        Ok(entry) => (Ok(next.call(request)), entry.permit),
        Err(refusal) => {
            let shape = Shape::of_path(request.path());
            (Err(request.into_response(error::render(&refusal, &context, shape))), None)
        }
    };
    async move {
        if let (Some((method, path)), Some(permit), Some(shared)) = (asked, &mut permit, &shared)
            && let Err(refusal) = permit.settle_rate(&*shared.queue).await
        {
            // The request is its handler's by now, which has not been polled and
            // never will be; its refusal goes out as an error.
            let response = error::render(&refusal, &context, Shape::of_path(&path));
            let (status, took) = (response.status().as_u16(), context.started.elapsed());
            shared.meters.http(protocol, status, took);
            access(&method, &path, status, took, &context);
            context.end_span(status);
            return Err(with_id(response, &context));
        }
        let mut response = match answer {
            Ok(running) => running.await?.map_into_left_body(),
            Err(refused) => refused.map_into_right_body(),
        };
        decorate(response.headers_mut(), &context, permit.as_ref());
        let status = response.status().as_u16();
        let took = context.started.elapsed();
        if let Some(shared) = &shared {
            shared.meters.http(protocol, status, took);
        }
        access(response.request().method(), response.request().path(), status, took, &context);
        context.end_span(status);
        drop(permit);
        Ok(response)
    }
}

/// Where access lines go; its level is set like any module's.
const ACCESS: &str = "nobat::access";

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

/// A refusal as an error, with the id that [`crate::context::attach`] gives to answers.
fn with_id(mut response: HttpResponse, context: &RequestContext) -> actix_web::Error {
    if let Ok(id) = HeaderValue::from_str(&context.request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    InternalError::from_response("rate_limited", response).into()
}

fn decorate(headers: &mut HeaderMap, context: &RequestContext, permit: Option<&Permit>) {
    let cache = context.notes.cache().header();
    if !cache.is_empty() {
        headers.insert(CACHE_STATUS, HeaderValue::from_static(cache));
    }
    if let Some((rate, decision)) = permit.and_then(|permit| permit.rate) {
        let (burst, window) = (rate.burst(), rate.window().as_secs_f64().ceil());
        let policy = format!("\"default\";q={burst};w={window}");
        let state = format!("\"default\";r={};t={}", decision.remaining, decision.reset.as_secs_f64().ceil());
        for (name, value) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, state)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    // A header that is not text is malformed, not absent.
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}
