//! `/api/v1/routes`: routes shown, declared and removed.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::{Error, ErrorCode};
use nobat_serving::Predictor;
use nobat_serving::routing::promotion::{self, PromotionRequest, RolloutMargins};
use nobat_serving::routing::{BoundRoute, Route, Routes, no_route};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::access::Access;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::Refusals;
use crate::{body, context, query};

/// Largest route body.
const MAX_BODY: usize = 64 << 10;

/// Adds the routes.
pub(super) fn configure(config: &mut ServiceConfig) {
    config
        .service(endpoint!(Access::READ, list))
        .service(endpoint!(Access::READ, show, put, remove))
        .service(endpoint!(Access::READ, promote))
        .service(endpoint!(Access::ADMIN, pairs));
}

/// List routes
///
/// Each with its rule, its signature, or why it cannot serve, the targets that it
/// passes over for now (`missing`), and for a shadow what this gateway counted. One route
/// by itself shows too whether its canary or its copies may take over (`rollouts`).
#[utoipa::path(
    get, path = "/api/v1/routes", tag = "routes", operation_id = "list_routes",
    responses((status = 200, description = "`routes`", body = Value), Refusals),
)]
pub(crate) async fn list(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let context = context::of(&request);
    let routes = &predictor.state().routes;
    let bound = routes.load();
    let shown: Vec<Value> = bound
        .table()
        .routes()
        .into_iter()
        .filter(|route| context.covers(&route.name))
        .filter_map(|route| Some(shown(routes, route, bound.get(&route.name)?)))
        .collect();
    HttpResponse::Ok().json(json!({ "routes": shown }))
}

/// One route
#[utoipa::path(
    get, path = "/api/v1/routes/{name}", tag = "routes", operation_id = "get_route",
    params(("name" = String, Path, description = "The route's name", example = "both")),
    responses((status = 200, description = "The route", body = Value), Refusals),
)]
pub(crate) async fn show(request: HttpRequest, predictor: Data<Predictor>, name: Path<String>) -> ApiResult {
    context::require(&request, &name)?;
    let routes = &predictor.state().routes;
    let bound = routes.load();
    match (bound.table().get(&name), bound.get(&name)) {
        (Some(route), Some(state)) => {
            let mut value = shown(routes, route, state);
            let rollouts = promotion::judge_all(predictor.state(), route);
            if !rollouts.is_empty() {
                value["rollouts"] = json!(rollouts);
            }
            Ok(HttpResponse::Ok().json(value))
        }
        _ => Err(no_route(&name).into()),
    }
}

/// Declare or replace a route
///
/// For every gateway, over the configuration, until it is removed. Refused: a
/// cycle, an unknown target, a topic that matches nothing, weights that do not add
/// up to 100, models whose signatures differ. A target that loses its workers later
/// takes the route down only where the route needs it: a copy is skipped, a weighted
/// share goes to the others (`on_missing`), a child goes by `on_failure`.
#[utoipa::path(
    put, path = "/api/v1/routes/{name}", tag = "routes", operation_id = "put_route",
    params(("name" = String, Path, description = "The route's name", example = "both")),
    request_body(
        content = Value,
        description = "One rule: `direct`, `topic`, `fanout`, `weighted`, `shadow` or `chain`",
        example = json!({"fanout": {"targets": ["digits", "digits-next"], "join": "majority", "on_failure": "skip"}}),
    ),
    responses((status = 200, description = "The route as it serves now", body = Value), Refusals),
)]
pub(crate) async fn put(
    request: HttpRequest,
    predictor: Data<Predictor>,
    name: Path<String>,
    payload: Payload,
) -> ApiResult {
    context::require(&request, &name)?;
    let body = body::read(&request, payload, &predictor).await?;
    if body.len() > MAX_BODY {
        let message = format!("a route has at most {MAX_BODY} bytes; this one has {}", body.len());
        return Err(Error::new(ErrorCode::PayloadTooLarge, message).into());
    }
    let state = predictor.state();
    state.routes.put(&state.registry, parse(&name, &body)?).await?;
    show(request, predictor, name).await
}

/// Remove a route
#[utoipa::path(
    delete, path = "/api/v1/routes/{name}", tag = "routes", operation_id = "remove_route",
    params(("name" = String, Path, description = "The route's name", example = "both")),
    responses((status = 204, description = "It is gone"), Refusals),
)]
pub(crate) async fn remove(request: HttpRequest, predictor: Data<Predictor>, name: Path<String>) -> ApiResult {
    context::require(&request, &name)?;
    let state = predictor.state();
    state.routes.remove(&state.registry, &name).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Promote a canary or a copy
///
/// Where it is shown to be safe, the route goes to it alone, at every gateway and for good; where it
/// is shown to be unsafe, not, and with `roll_back` the route goes to the old target alone. What is
/// not shown yet changes nothing: ask again, as often as you like; the chance of a wrong verdict
/// is 5 % over all questions together.
#[utoipa::path(
    post, path = "/api/v1/routes/{name}/promote", tag = "routes", operation_id = "promote_route",
    params(("name" = String, Path, description = "The route's name", example = "both")),
    request_body(
        content = Value,
        description = "Nothing, or `candidate` (the target), `margins` (what still counts as safe), `roll_back`",
        example = json!({"margins": {"failures": 0.01, "classes": 0.05, "disagreement": 0.01}, "roll_back": true}),
    ),
    responses(
        (status = 200, description = "`outcome`: `promoted`, `refused`, `rolled_back` or `undecided`, and why", body = Value),
        Refusals
    ),
)]
pub(crate) async fn promote(
    request: HttpRequest,
    predictor: Data<Predictor>,
    name: Path<String>,
    payload: Payload,
) -> ApiResult {
    query::none(&request)?;
    context::require(&request, &name)?;
    let body = body::read(&request, payload, &predictor).await?;
    let invalid = |error: serde_json::Error| Error::new(ErrorCode::InvalidJson, format!("not a promotion: {error}"));
    let asked: Promote = match body.trim_ascii() {
        [] => Promote::default(),
        body => body::object(body).map_err(invalid)?,
    };
    let Promote { candidate, margins, roll_back } = asked;
    let asked = PromotionRequest { candidate: candidate.map(Into::into), margins, roll_back };
    Ok(HttpResponse::Ok().json(promotion::promote(predictor.state(), &name, &asked).await?))
}

/// Pairs of a copy
///
/// The newest 2,000 answers of a shadow route beside a copy's, as this gateway saw them: class, score
/// and time of both. No inputs, and no outputs beyond that.
#[utoipa::path(
    get, path = "/api/v1/routes/{name}/pairs", tag = "routes", operation_id = "route_pairs",
    params(
        ("name" = String, Path, description = "The route's name", example = "both"),
        ("copy" = String, Query, description = "The copy's target", example = "digits/2"),
        ("after" = Option<u64>, Query, description = "Only pairs after this number", minimum = 0),
    ),
    responses((status = 200, description = "`pairs`, the oldest first", body = Value), Refusals),
)]
pub(crate) async fn pairs(request: HttpRequest, predictor: Data<Predictor>, name: Path<String>) -> ApiResult {
    context::require(&request, &name)?;
    let (mut copy, mut after) = (String::new(), 0);
    query::each(request.query_string(), &["copy", "after"], |name, value| {
        match name {
            "copy" => value.clone_into(&mut copy),
            _ => after = query::number(name, value, 0, u64::MAX)?,
        }
        Ok(())
    })?;
    let routes = &predictor.state().routes;
    if routes.load().get(&name).is_none() {
        return Err(no_route(&name).into());
    }
    Ok(HttpResponse::Ok().json(json!({ "pairs": routes.pairs(&name, &copy, after) })))
}

/// What a promotion may say.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Promote {
    candidate: Option<String>,
    margins: RolloutMargins,
    roll_back: bool,
}

/// A route from a body whose `name` may be left out: the path names it.
fn parse(name: &str, body: &[u8]) -> Result<Route, Error> {
    let invalid = |why: String| Error::new(ErrorCode::InvalidJson, format!("not a route: {why}"));
    let mut value: Value = serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))?;
    let members = value.as_object_mut().ok_or_else(|| invalid("give an object with one rule".into()))?;
    match members.get("name").and_then(Value::as_str) {
        Some(other) if other != name => {
            return Err(Error::new(
                ErrorCode::InvalidParameter,
                format!("the body names route `{other}` and the path `{name}`; leave the body's name out"),
            ));
        }
        _ => drop(members.insert("name".into(), name.into())),
    }
    serde_json::from_value(value)
        .map_err(|error| Error::new(ErrorCode::InvalidParameter, format!("not a route: {error}")))
}

fn shown(routes: &Routes, route: &Route, state: &BoundRoute) -> Value {
    let mut value = serde_json::to_value(route).unwrap_or_default();
    if let Some(members) = value.as_object_mut() {
        match &state.signature {
            Ok(signature) => {
                members.insert("serves".into(), true.into());
                members.insert("inputs".into(), json!(signature.inputs));
                members.insert("outputs".into(), json!(signature.outputs));
            }
            Err(error) => {
                members.insert("serves".into(), false.into());
                members.insert("reason".into(), error.message.clone().into());
            }
        }
        if !state.missing.is_empty() {
            let missing = state.missing.iter();
            let missing = missing.map(|missing| json!({"target": missing.target, "reason": missing.error.message}));
            members.insert("missing".into(), missing.collect());
        }
        if route.topic.is_some() {
            members.insert("members".into(), json!(state.members));
        }
        if route.shadow.is_some() {
            let counts = routes.shadows.of(&route.name);
            let counts: serde_json::Map<_, _> =
                counts.into_iter().map(|(target, counts)| (target.to_string(), json!(counts))).collect();
            members.insert("copies_of_this_gateway".into(), counts.into());
        }
    }
    value
}
