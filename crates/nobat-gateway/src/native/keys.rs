//! `/api/v1/keys`: API keys shown, made, rotated and revoked in the file that this gateway
//! reads. `nobat keys` does the same on its host.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse, web};
use nobat_core::{Error, ErrorCode, Result, clip};
use nobat_serving::Predictor;
use nobat_serving::auth::{self, KeyRecord, Keyring, NewKey, Scope};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use crate::access::Access;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::{Problem, Refusals};
use crate::{body, context, query};

/// Most keys that calls make: the file is read as a whole.
const KEYS_MAX: usize = 10_000;
const NAME_MAX: usize = 100;
const DAYS_MAX: u64 = 36_500;
const OVERLAP_MAX_S: u64 = 30 * 86_400;

/// Adds the routes.
pub(super) fn configure(config: &mut ServiceConfig) {
    config
        .service(endpoint!(Access::ADMIN, list, make))
        .service(endpoint!(Access::ADMIN, revoke))
        .service(endpoint!(Access::ADMIN, rotate));
}

/// A key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyObject {
    /// Its public half, which is also the owner of its jobs.
    #[schema(example = "0aQk2mXc9TQ")]
    pub id: String,
    /// For people.
    #[schema(example = "ci")]
    pub name: String,
    /// `read`, `predict` or `admin`; each covers those before it.
    #[schema(value_type = String, example = "predict")]
    pub scope: Scope,
    /// Models it may use: names, or prefixes that end in `*`.
    pub models: Vec<String>,
    /// `active`, `rotating` (two secrets are in force), `expired` or `revoked`.
    #[schema(example = "active")]
    pub state: &'static str,
    /// Made, milliseconds since 1970.
    pub created_at_ms: u64,
    /// Not valid from then on, milliseconds since 1970; null: for ever.
    pub expires_at_ms: Option<u64>,
    /// Whether it is the key that asks.
    pub own: bool,
}

/// The keys.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyList {
    /// Whether this server asks for keys; where it does not, there is none to show.
    pub on: bool,
    /// In the order they were made.
    pub keys: Vec<KeyObject>,
}

/// A key that is to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MakeKey {
    /// For people; no other key in force has it.
    #[schema(example = "ci", min_length = 1, max_length = 100)]
    pub name: String,
    /// `read`, `predict` or `admin`.
    #[schema(value_type = String, example = "predict", pattern = "^(read|predict|admin)$")]
    pub scope: Scope,
    /// Models it may use: names, or prefixes that end in `*`; none: all.
    #[serde(default)]
    pub models: Vec<String>,
    /// Valid for so many days; without: for ever.
    #[schema(minimum = 1, maximum = 36500)]
    pub days: Option<u64>,
}

/// A key with its secret, which is shown this once.
#[derive(Serialize, ToSchema)]
pub(crate) struct MadeKey {
    /// The whole key, `nobat_…`; it is stored nowhere.
    pub secret: String,
    /// The key.
    pub key: KeyObject,
}

fn shown(record: &KeyRecord, now_s: u64, own: &str) -> KeyObject {
    let state = match record.expires_at_s {
        _ if record.revoked => "revoked",
        Some(at) if now_s >= at => "expired",
        _ if record.secrets.iter().filter(|secret| secret.until_s.is_none_or(|until| now_s < until)).count() > 1 => {
            "rotating"
        }
        _ => "active",
    };
    KeyObject {
        id: record.id.clone(),
        name: record.name.to_string(),
        scope: record.scope,
        models: record.models.iter().map(ToString::to_string).collect(),
        state,
        created_at_ms: record.created_at_s * 1_000,
        expires_at_ms: record.expires_at_s.map(|at| at.saturating_mul(1_000)),
        own: record.id == own,
    }
}

/// List API keys
///
/// Without secrets: these are stored nowhere.
#[utoipa::path(
    get, path = "/api/v1/keys", tag = "keys", operation_id = "list_keys",
    responses((status = 200, description = "The keys", body = KeyList), Refusals),
)]
pub(crate) async fn list(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    let (ring, own, now_s) = (predictor.state().admission.auth.keys(), own_id(&request), auth::now_s());
    let keys = ring.iter().flat_map(|ring| ring.records()).map(|record| shown(record, now_s, &own)).collect();
    Ok(HttpResponse::Ok().json(KeyList { on: ring.is_some(), keys }))
}

/// Make an API key
///
/// The answer is the only place where its secret is ever shown.
#[utoipa::path(
    post, path = "/api/v1/keys", tag = "keys", operation_id = "make_key",
    request_body = MakeKey,
    responses((status = 201, description = "The key and its secret", body = MadeKey),
        (status = 501, description = "No API keys are asked for here", body = Problem, content_type = "application/problem+json"), Refusals),
)]
pub(crate) async fn make(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    covers_every_model(&request)?;
    let body = body::read_json(&request, payload, &predictor).await?;
    let MakeKey { name, scope, models, days } = body::object(&body).map_err(|error| {
        Error::new(ErrorCode::InvalidJson, format!("{error}; give `name`, `scope`, `models` and `days`"))
    })?;
    if name.trim().is_empty() || name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
        return Err(invalid(format!("name is `{}`; it takes 1 to {NAME_MAX} letters", clip(&name))).into());
    }
    if days.is_some_and(|days| days == 0 || days > DAYS_MAX) {
        return Err(invalid(format!("days takes 1 to {DAYS_MAX}; leave it out for a key without an end")).into());
    }
    // A name that was left blank means no model; a key of none of them would be one of all.
    if models.iter().any(|model| model.trim().is_empty()) {
        let message = "models has an empty name; name models, or leave `models` out for a key of all";
        return Err(invalid(message.to_owned()).into());
    }
    let new = NewKey {
        name: name.trim().into(),
        scope,
        models: models.into_iter().map(Into::into).collect(),
        valid_s: days.map(|days| days * 86_400),
        rate_per_s: 0.0,
        burst: 0,
        max_in_flight: 0,
        tokens_per_min: 0,
        max_priority: None,
    };
    let own = own_id(&request);
    let made = changed(&predictor, move |ring| {
        if ring.records().len() >= KEYS_MAX {
            return Err(invalid(format!("there are {KEYS_MAX} keys; take revoked ones out of the file")));
        }
        let secret = ring.add(new, auth::now_s())?;
        let key = ring.records().last().map(|record| shown(record, auth::now_s(), &own));
        key.map(|key| MadeKey { secret, key }).ok_or_else(|| Error::internal("the key that was made is gone"))
    });
    Ok(HttpResponse::Created().insert_header(("cache-control", "no-store")).json(made.await?))
}

/// Give an API key a new secret
///
/// The one before stays valid for `overlap` more (a day, unless it is given).
#[utoipa::path(
    post, path = "/api/v1/keys/{key}/rotate", tag = "keys", operation_id = "rotate_key",
    params(
        ("key" = String, Path, description = "Its id"),
        ("overlap" = Option<String>, Query, description = "Such as `1h`; up to 30 days"),
    ),
    responses((status = 200, description = "The key and its new secret", body = MadeKey),
        (status = 501, description = "No API keys are asked for here", body = Problem, content_type = "application/problem+json"), Refusals),
)]
pub(crate) async fn rotate(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    covers_every_model(&request)?;
    let mut overlap_s = 86_400;
    query::each(request.query_string(), &["overlap"], |name, value| {
        overlap_s = query::duration(name, value)?.as_secs();
        match overlap_s {
            0..=OVERLAP_MAX_S => Ok(()),
            _ => Err(invalid(format!("overlap is `{}`; it takes up to 30 days", clip(value)))),
        }
    })?;
    let (id, own) = (id.into_inner(), own_id(&request));
    let made = changed(&predictor, move |ring| {
        known(ring, &id)?;
        let secret = ring.rotate(&id, overlap_s, auth::now_s())?;
        Ok(MadeKey { secret, key: shown(known(ring, &id)?, auth::now_s(), &own) })
    });
    Ok(HttpResponse::Ok().insert_header(("cache-control", "no-store")).json(made.await?))
}

/// Revoke an API key
///
/// Refused from now on, and with it the sessions of browsers that signed in with it. Not the
/// key that asks: nobody shuts the door behind themselves by mistake.
#[utoipa::path(
    delete, path = "/api/v1/keys/{key}", tag = "keys", operation_id = "revoke_key",
    params(("key" = String, Path, description = "Its id")),
    responses((status = 200, description = "The key, revoked", body = KeyObject),
        (status = 501, description = "No API keys are asked for here", body = Problem, content_type = "application/problem+json"), Refusals),
)]
pub(crate) async fn revoke(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    covers_every_model(&request)?;
    let (id, own) = (id.into_inner(), own_id(&request));
    if id == own {
        return Err(invalid("this is the key that asks; revoke it with another one".to_owned()).into());
    }
    let revoked = changed(&predictor, move |ring| {
        known(ring, &id)?;
        ring.revoke(&id)?;
        Ok(shown(known(ring, &id)?, auth::now_s(), &own))
    });
    Ok(HttpResponse::Ok().json(revoked.await?))
}

/// Changes the file off this thread.
async fn changed<T: Send + 'static>(
    predictor: &Data<Predictor>,
    change: impl FnOnce(&mut Keyring) -> Result<T> + Send + 'static,
) -> Result<T> {
    let state = predictor.state();
    let (auth, config) = (state.admission.auth.clone(), state.settings.auth.clone());
    let done = web::block(move || auth.change(&config, change)).await;
    done.map_err(|_| Error::new(ErrorCode::Draining, "the gateway stops; ask again"))?
}

fn known<'a>(ring: &'a Keyring, id: &str) -> Result<&'a KeyRecord> {
    ring.records()
        .iter()
        .find(|record| record.id == id)
        .ok_or_else(|| invalid(format!("no key has the id `{}`; GET /api/v1/keys shows them", clip(id))))
}

/// Whether the key that asks covers every model: another one would make itself a key that covers
/// more than it does, or take one over.
fn covers_every_model(request: &HttpRequest) -> Result<()> {
    match &context::of(request).grant {
        Some(grant) if grant.models.iter().all(|model| model != "*") => Err(Error::new(
            ErrorCode::PermissionDenied,
            format!("key `{}` covers some models only; keys are changed with one that covers `*`", clip(&grant.name)),
        )),
        _ => Ok(()),
    }
}

/// The id of the key that asks; empty without one.
fn own_id(request: &HttpRequest) -> String {
    let context = context::of(request);
    context.grant.as_ref().map(|grant| auth::KeyId(grant.owner.0).to_string()).unwrap_or_default()
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidParameter, message)
}
