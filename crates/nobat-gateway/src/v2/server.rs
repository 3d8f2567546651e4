//! `/v2` itself: metadata, health, the repository, and the extensions that can
//! only be asked about.

use actix_web::http::Method;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::Predictor;
use serde::Deserialize;
use serde_json::json;

use super::{answer, document, metadata, repository, serve, settings};
use crate::access::{Access, resource};
use crate::{body, context};

/// Adds the routes.
pub(super) fn configure(config: &mut ServiceConfig) {
    serve(config, Access::READ, &["/v2", "/v2/"], Method::GET, || web::to(about));
    serve(config, Access::OPEN, &["/v2/health/live"], Method::GET, || web::to(live));
    serve(config, Access::OPEN, &["/v2/health/ready"], Method::GET, || web::to(ready));
    serve(config, Access::ASK, &["/v2/repository/index"], Method::POST, || web::to(index));
    serve(config, Access::READ, &["/v2/repository/models/{model}/load"], Method::POST, || web::to(load));
    serve(config, Access::READ, &["/v2/repository/models/{model}/unload"], Method::POST, || web::to(unload));
    for kind in ["system", "cuda"] {
        let path = |tail: &str| format!("/v2/{kind}sharedmemory{tail}");
        serve(config, Access::READ, &[&path("/status"), &path("/region/{region}/status")], Method::GET, || {
            web::to(no_regions)
        });
        serve(config, Access::ASK, &[&path("/region/{region}/register")], Method::POST, || web::to(register));
        serve(config, Access::ASK, &[&path("/unregister"), &path("/region/{region}/unregister")], Method::POST, || {
            web::to(unregister)
        });
    }
    for path in ["/v2/trace/setting", "/v2/models/{model}/trace/setting"] {
        config.service(resource(path, Access::READ).get(trace).post(change_trace).default_service(allow_both()));
    }
    config.service(
        resource("/v2/logging", Access::READ).get(log_settings).post(change_log).default_service(allow_both()),
    );
}

fn allow_both() -> actix_web::Route {
    crate::error::not_allowed("GET, HEAD, POST")
}

async fn about(request: HttpRequest) -> HttpResponse {
    answer(&request, document(&metadata::server()))
}

async fn live() -> HttpResponse {
    HttpResponse::Ok().insert_header((CONTENT_TYPE, "application/json")).body(r#"{"live":true}"#)
}

async fn ready(predictor: Data<Predictor>) -> HttpResponse {
    let ready = predictor.state().is_ready();
    let mut response = if ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.insert_header((CONTENT_TYPE, "application/json")).body(format!(r#"{{"ready":{ready}}}"#))
}

#[derive(Default, Deserialize)]
struct IndexRequest {
    #[serde(default)]
    ready: bool,
}

async fn index(request: HttpRequest, payload: web::Payload, predictor: Data<Predictor>) -> HttpResponse {
    let outcome = async {
        let wanted: IndexRequest = small_body(&request, payload, &predictor).await?;
        document(&repository::index(predictor.state(), &context::of(&request), wanted.ready).models)
    };
    let outcome = outcome.await;
    answer(&request, outcome)
}

#[derive(Default, Deserialize)]
struct LoadRequest {
    #[serde(default)]
    parameters: serde_json::Map<String, serde_json::Value>,
}

async fn load(request: HttpRequest, payload: web::Payload, predictor: Data<Predictor>) -> HttpResponse {
    let outcome = async {
        let wanted: LoadRequest = small_body(&request, payload, &predictor).await?;
        repository::check_load_parameters(wanted.parameters.keys().map(String::as_str))?;
        repository::load(predictor.state(), &super::named(&request)?.model).await?;
        document(&json!({}))
    };
    let outcome = outcome.await;
    answer(&request, outcome)
}

async fn unload(request: HttpRequest, payload: web::Payload, predictor: Data<Predictor>) -> HttpResponse {
    let outcome = async {
        let _: LoadRequest = small_body(&request, payload, &predictor).await?;
        repository::unload(predictor.state(), &super::named(&request)?.model).await?;
        document(&json!({}))
    };
    let outcome = outcome.await;
    answer(&request, outcome)
}

/// Reads a body that may be empty.
async fn small_body<T: Default + for<'de> Deserialize<'de>>(
    request: &HttpRequest,
    payload: web::Payload,
    predictor: &Predictor,
) -> Result<T> {
    let body = body::read(request, payload, predictor).await?;
    let refused = |reason: &dyn std::fmt::Display| {
        Error::new(ErrorCode::InvalidJson, format!("the body is not what this call takes: {reason}"))
    };
    // Members that are not known are passed over, but they are text too.
    let text = std::str::from_utf8(&body).map_err(|error| refused(&error))?.trim_ascii();
    match text {
        "" | "null" => Ok(T::default()),
        // A structure could be read from a list as well.
        text if text.starts_with('{') => serde_json::from_str(text).map_err(|error| refused(&error)),
        _ => Err(refused(&"it takes an object")),
    }
}

async fn no_regions() -> HttpResponse {
    HttpResponse::Ok().insert_header((CONTENT_TYPE, "application/json")).body("[]")
}

async fn register(request: HttpRequest) -> HttpResponse {
    answer(&request, Err(settings::no_shared_memory()))
}

/// Clients unregister what may be left of an earlier run before they begin.
async fn unregister(request: HttpRequest) -> HttpResponse {
    answer(&request, document(&json!({})))
}

async fn trace(request: HttpRequest) -> HttpResponse {
    let settings: serde_json::Map<_, _> = settings::TRACE
        .iter()
        .map(|&(name, value)| (name.to_owned(), if name == "trace_level" { json!([value]) } else { json!(value) }))
        .collect();
    answer(&request, document(&settings))
}

async fn change_trace(request: HttpRequest) -> HttpResponse {
    answer(&request, Err(settings::read_only("trace")))
}

async fn log_settings(request: HttpRequest) -> HttpResponse {
    let mut settings = serde_json::Map::new();
    settings.insert("log_file".into(), json!(""));
    settings.extend(settings::log_levels().map(|(name, on)| (name.to_owned(), json!(on))));
    settings.insert("log_verbose_level".into(), json!(0));
    settings.insert("log_format".into(), json!("default"));
    answer(&request, document(&settings))
}

async fn change_log(request: HttpRequest) -> HttpResponse {
    answer(&request, Err(settings::read_only("log")))
}
