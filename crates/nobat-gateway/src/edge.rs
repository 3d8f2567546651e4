//! The door: who a request is from, whether it may come in now, and what is
//! said, counted and logged when it leaves.
//!
//! [`guard`] is around every HTTP request: it refuses what a page of another origin
//! sends, and accounts for the answer. [`Edge::enter`] lets a request in by its key
//! and limits; HTTP asks it at the resource that was matched ([`crate::access`]),
//! gRPC at the method that was named (`grpc::gate`). All of that is decided by the
//! head alone, before any body is read or inflated.

use std::net::ToSocketAddrs;
use std::time::{Duration, Instant};

use actix_web::body::EitherBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::web;
use nobat_core::Result;
use nobat_runtime::logging::ACCESS;

use crate::auth::{Authenticator, Scope};
use crate::config::GatewayConfig;
use crate::context::RequestContext;
use crate::error::{self, Shape};
use crate::limits::{Limits, Permit};
use crate::meters::Protocol;
use crate::origin::{Asked, Origins, Preflight};
use crate::predict::Predictor;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Authentication and limits of one gateway.
pub struct Edge {
    /// Checks credentials.
    pub auth: Authenticator,
    /// Counts what is let in.
    pub limits: Limits,
    /// Which web pages may send what.
    pub origins: Origins,
}

impl Edge {
    /// As the configuration says.
    ///
    /// # Errors
    /// `invalid_parameter` for keys that cannot be read.
    pub fn new(config: &GatewayConfig) -> Result<Edge> {
        let auth = Authenticator::new(&config.auth)?;
        let is_local = !auth.is_on() && is_loopback(&config.listen);
        Ok(Edge {
            origins: Origins::new(config.cors.clone(), &config.hosts, &config.listen, is_local),
            limits: Limits::new(config.limits.clone()),
            auth,
        })
    }

    /// Lets a request with this `Authorization` in that needs `scope`, and notes in
    /// its context who it is from and where its limits stand. A prediction's permit
    /// is counted until it is dropped.
    ///
    /// # Errors
    /// `unauthenticated`, `permission_denied`, and the refusals of [`Limits::admit`].
    pub fn enter(
        &self,
        context: &mut RequestContext,
        authorization: Option<&str>,
        scope: Scope,
        now: Instant,
    ) -> Result<Option<Permit>> {
        self.identify(context, authorization, scope)?;
        match scope {
            Scope::Predict => self.limits.admit(context.grant.as_deref(), &context.notes, now).map(Some),
            Scope::Read | Scope::Admin => Ok(None),
        }
    }

    /// Notes who a request is from, and refuses one whose key does not go as far as
    /// `scope`. Nothing is counted.
    ///
    /// # Errors
    /// `unauthenticated`, `permission_denied`.
    pub fn identify(&self, context: &mut RequestContext, authorization: Option<&str>, scope: Scope) -> Result<()> {
        if let Some(grant) = self.auth.authenticate(authorization)? {
            context.owner = grant.owner;
            let judged = grant.require(scope);
            context.grant = Some(grant);
            judged?;
        }
        Ok(())
    }
}

/// Whether a listener's address is reached from its own host only.
fn is_loopback(listen: &str) -> bool {
    listen.to_socket_addrs().is_ok_and(|mut found| found.all(|address| address.ip().is_loopback()))
}

/// Middleware body: refuses what a foreign page sends, and accounts for every
/// request. Wraps inside [`crate::context::attach`].
pub fn guard<S, B>(
    request: ServiceRequest,
    next: &S,
) -> impl Future<Output = Result<ServiceResponse<EitherBody<B>>, actix_web::Error>> + use<S, B>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error>,
{
    let shared = request.app_data::<web::Data<Predictor>>().map(|predictor| predictor.shared().clone());
    let protocol = Protocol::of_path(request.path());
    let preflight = Preflight::of(request.method(), request.headers());
    let judged = shared.as_ref().map_or(Ok(()), |shared| {
        let authority = request.uri().authority().map(|authority| authority.as_str());
        shared.edge.origins.check(Asked::of(request.method(), request.headers(), authority))
    });
    let answer = match judged {
        Ok(()) => Ok(next.call(request)),
        Err(refusal) => {
            let context = RequestContext::of(request.request());
            let shape = Shape::of_path(request.path());
            Err(request.into_response(error::render(&refusal, &context, shape)))
        }
    };
    async move {
        let mut response = match answer {
            Ok(running) => running.await?.map_into_left_body(),
            Err(refused) => refused.map_into_right_body(),
        };
        let context = RequestContext::of(response.request());
        let status = response.status();
        decorate(response.headers_mut(), &context);
        if let Some(shared) = &shared {
            shared.edge.origins.tell(&preflight, status, response.headers_mut());
        }
        let (status, took) = (status.as_u16(), context.started.elapsed());
        if let Some(shared) = &shared {
            shared.meters.http(protocol, status, took);
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
    let Some(quota) = context.notes.quota() else { return };
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
