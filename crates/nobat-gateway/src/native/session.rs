//! `/api/v1/session`: signing in with an API key, for browsers. The key is sent once; from
//! then on a cookie stands in for it ([`crate::cookie`]).

use actix_web::http::header;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::Predictor;
use nobat_serving::auth::keyring::Grant;
use nobat_serving::auth::session::LONGEST_S;
use nobat_serving::auth::{Credential, Scope};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use crate::access::Access;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::Refusals;
use crate::state::HttpState;
use crate::{body, cookie, query};

/// Adds the route.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(endpoint!(Access::ANYONE, show, begin, end));
}

/// Who asks, as the server sees it.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct SessionObject {
    /// Whether this server asks for API keys.
    pub keys: bool,
    /// The key's name; null without one.
    #[schema(example = "alice")]
    pub name: Option<String>,
    /// How far it goes: `read`, `predict` or `admin`; null without a key where one is
    /// asked for, `admin` where none is.
    #[schema(value_type = Option<String>, example = "admin")]
    pub scope: Option<Scope>,
    /// Models that it covers: names, or prefixes that end in `*`.
    pub models: Vec<String>,
}

impl SessionObject {
    fn of(grant: Option<&Grant>) -> SessionObject {
        match grant {
            None => SessionObject { keys: false, name: None, scope: Some(Scope::Admin), models: vec!["*".into()] },
            Some(grant) => SessionObject {
                keys: true,
                name: Some(grant.name.to_string()),
                scope: Some(grant.scope),
                models: grant.models.iter().map(ToString::to_string).collect(),
            },
        }
    }
}

/// A key that a person typed in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignIn {
    /// The API key, `nobat_…`; without one the session that the request came with is
    /// renewed.
    pub key: Option<String>,
    /// Path under which the browser sees this server, with a slash at its end.
    #[serde(default = "whole_server")]
    #[schema(example = "/")]
    pub path: String,
}

fn whole_server() -> String {
    "/".into()
}

/// Who is signed in
///
/// Also without a key: says whether one is asked for.
#[utoipa::path(
    get, path = "/api/v1/session", tag = "health", operation_id = "get_session",
    responses((status = 200, description = "Who asks", body = SessionObject), Refusals),
)]
pub(crate) async fn show(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    let shown = match predictor.state().admission.auth.authenticate(credential(&request)?) {
        Ok(grant) => SessionObject::of(grant.as_deref()),
        // Asking is no mistake: the answer is that nobody is signed in.
        Err(_) => SessionObject { keys: true, ..SessionObject::default() },
    };
    Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(shown))
}

/// Sign in
///
/// Takes an API key and sets the cookie `nobat-session`, which browsers then send in its
/// place: for reading as it is, for changes only from the server's own pages and with the
/// header `nobat-console`. It ends an hour after it was last renewed, which a call without
/// a key does, 12 hours after it began, and with the key.
#[utoipa::path(
    post, path = "/api/v1/session", tag = "health", operation_id = "begin_session",
    request_body = SignIn,
    responses((status = 200, description = "Who is signed in", body = SessionObject), Refusals),
)]
pub(crate) async fn begin(
    request: HttpRequest,
    payload: Payload,
    predictor: Data<Predictor>,
    state: Data<HttpState>,
) -> ApiResult {
    query::none(&request)?;
    let body = body::read_json(&request, payload, &predictor).await?;
    // What was sent holds a key, or most of one: the refusal does not repeat it.
    let SignIn { key, path } = body::object(&body).map_err(|_| {
        let message =
            "give {\"key\": \"nobat_…\"}, or {} to renew a session, and optionally `path`, where the server is seen";
        Error::new(ErrorCode::InvalidJson, message)
    })?;
    checked(&path)?;
    let auth = &predictor.state().admission.auth;
    let begun = match key {
        Some(key) => auth.begin_session(&format!("Bearer {}", key.trim()))?,
        None => auth.renew_session(credential(&request)?)?,
    };
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    let Some((session, grant)) = begun else { return Ok(response.json(SessionObject::of(None))) };
    let cookie = cookie::set(&session, &path, LONGEST_S, is_secure(&request, &state));
    Ok(response.insert_header((header::SET_COOKIE, cookie)).json(SessionObject::of(Some(&grant))))
}

/// Sign out
///
/// Has the browser forget its session.
#[utoipa::path(
    delete, path = "/api/v1/session", tag = "health", operation_id = "end_session",
    params(("path" = Option<String>, Query, description = "The path given when it began", example = "/")),
    responses((status = 204, description = "The cookie is taken back"), Refusals),
)]
pub(crate) async fn end(request: HttpRequest, state: Data<HttpState>) -> ApiResult {
    let mut path = whole_server();
    query::each(request.query_string(), &["path"], |_, value| {
        path = checked(value)?.to_owned();
        Ok(())
    })?;
    let gone = cookie::set("", &path, 0, is_secure(&request, &state));
    Ok(HttpResponse::NoContent().insert_header((header::SET_COOKIE, gone)).finish())
}

fn credential(request: &HttpRequest) -> Result<Credential<'_>> {
    let authority = request.uri().authority().map(|authority| authority.as_str());
    cookie::credential(request.method(), request.headers(), authority)
}

fn checked(path: &str) -> Result<&str> {
    let wrong = || {
        let shown: String = path.chars().take(60).collect();
        Error::invalid(format!("path is `{shown}`; give the path where the browser sees this server, such as `/`"))
    };
    cookie::is_path(path).then_some(path).ok_or_else(wrong)
}

/// Whether the page came over TLS, ended here or by a proxy before.
fn is_secure(request: &HttpRequest, state: &HttpState) -> bool {
    let origin = request.headers().get(header::ORIGIN).map(|origin| origin.as_bytes());
    state.config.tls.is_on() || origin.is_some_and(|origin| origin.starts_with(b"https://"))
}
