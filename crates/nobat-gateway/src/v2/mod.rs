//! The Open Inference Protocol v2: over HTTP here, and what HTTP and gRPC share.
//!
//! A thin translation to `InferRequest` and back. [`json`] and [`binary`] are
//! the two forms of a body, [`parameters`] and [`outputs`] what a request may
//! ask for besides; [`metadata`], [`config`], [`statistics`] and [`repository`]
//! answer about models, as messages that gRPC sends and HTTP writes as JSON.
//!
//! Invariants:
//! - Bodies are read raw: these clients send no content type.
//! - An answer is one buffer with a length, written once.
//! - Every refusal is `{"error": message, …}` with the status of its code.

pub(crate) mod binary;
mod classification;
pub(crate) mod config;
mod infer;
pub(crate) mod json;
pub(crate) mod metadata;
mod models;
pub(crate) mod outputs;
pub(crate) mod parameters;
pub(crate) mod repository;
mod server;
pub(crate) mod settings;
pub(crate) mod statistics;

use std::borrow::Cow;

use actix_web::http::Method;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::ServiceConfig;
use actix_web::{HttpRequest, HttpResponse, Route};
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::registry::Want;
use serde::Serialize;

use crate::access::{Access, resource};
use crate::context;
use crate::error::{Shape, finish, not_allowed};
use crate::routes::path::segment;

/// Adds every route under `/v2`.
pub fn configure(config: &mut ServiceConfig) {
    // What is asked most comes first.
    infer::configure(config);
    // `stats` is a reserved name: before the models.
    server::configure(config);
    models::configure(config);
}

/// Adds the route of one method at several paths; other methods get 405.
fn serve(config: &mut ServiceConfig, access: Access, paths: &[&str], method: Method, route: impl Fn() -> Route) {
    let allow = if method == Method::GET { "GET, HEAD" } else { "POST" };
    for &path in paths {
        let route = route().method(method.clone());
        config.service(resource(path, access).route(route).default_service(not_allowed(allow)));
    }
}

/// Which model version a path names.
struct Named<'a> {
    model: Cow<'a, str>,
    version: Option<Cow<'a, str>>,
}

impl Named<'_> {
    fn want(&self) -> Want<'_> {
        self.version.as_deref().map_or(Want::Default, Want::Version)
    }
}

/// Reads the names in a path.
///
/// # Errors
/// `permission_denied` for a model that the caller's key does not cover.
fn named(request: &HttpRequest) -> Result<Named<'_>> {
    let path = request.match_info();
    let named =
        Named { model: path.get("model").map(segment).unwrap_or_default(), version: path.get("version").map(segment) };
    if !named.model.is_empty() {
        context::require(request, &named.model)?;
    }
    Ok(named)
}

/// Ends a handler: an error takes this protocol's shape.
fn answer(request: &HttpRequest, outcome: Result<HttpResponse>) -> HttpResponse {
    finish(request, Shape::Plain, outcome)
}

/// A JSON answer in one buffer.
///
/// # Errors
/// `internal` when `document` does not serialize.
fn document(document: &impl Serialize) -> Result<HttpResponse> {
    let body = serde_json::to_vec(document)
        .map_err(|error| Error::new(ErrorCode::Internal, format!("an answer could not be written: {error}")))?;
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, "application/json")).body(body))
}
