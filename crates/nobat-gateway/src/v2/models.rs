//! What can be asked about models: the list, metadata, readiness,
//! configuration, statistics.

use actix_web::http::Method;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::{ErrorCode, Result};
use serde_json::json;

use super::{answer, config, document, metadata, named, serve};
use crate::predict::Predictor;
use crate::registry::Want;

/// Adds the routes; `stats` is a reserved name among models.
pub(super) fn configure(config: &mut ServiceConfig) {
    serve(config, &["/v2/models"], Method::GET, || web::to(list));
    serve(config, &["/v2/models/stats"], Method::GET, || web::to(statistics));
    serve(config, &["/v2/models/{model}", "/v2/models/{model}/versions/{version}"], Method::GET, || web::to(describe));
    let both = |tail: &str| {
        [format!("/v2/models/{{model}}{tail}"), format!("/v2/models/{{model}}/versions/{{version}}{tail}")]
    };
    let [plain, versioned] = both("/ready");
    serve(config, &[&plain, &versioned], Method::GET, || web::to(ready));
    let [plain, versioned] = both("/config");
    serve(config, &[&plain, &versioned], Method::GET, || web::to(configuration));
    let [plain, versioned] = both("/stats");
    serve(config, &[&plain, &versioned], Method::GET, || web::to(statistics));
}

async fn list(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let registry = predictor.shared().registry.load();
    let mut names: Vec<&str> = registry.models().map(|entry| entry.name.as_str()).collect();
    names.sort_unstable();
    answer(&request, document(&json!({"models": names})))
}

async fn describe(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let outcome = || {
        let (model, want) = named(&request);
        let entry = predictor.describe(model)?;
        document(&metadata::model(&entry, &entry.resolve(want)?))
    };
    answer(&request, outcome())
}

async fn ready(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let (model, want) = named(&request);
    let outcome: Result<bool> = match predictor.resolve(Some(model), want) {
        Ok(target) => Ok(target.live),
        Err(error) if error.code == ErrorCode::ModelNotReady => Ok(false),
        Err(error) => Err(error),
    };
    let outcome = outcome.and_then(|ready| {
        let mut response = document(&json!({"name": model, "ready": ready}))?;
        if !ready {
            *response.status_mut() = actix_web::http::StatusCode::SERVICE_UNAVAILABLE;
        }
        Ok(response)
    });
    answer(&request, outcome)
}

async fn configuration(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let (model, want) = named(&request);
    let target = predictor.resolve(Some(model), want);
    answer(&request, target.and_then(|target| document(&config::json(&target.signature))))
}

async fn statistics(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let (model, want) = named(&request);
    let version = match want {
        Want::Version(version) => version,
        Want::Default | Want::Label(_) => "",
    };
    let shared = predictor.shared();
    let outcome = shared.statistics.collect(shared, model, version).await;
    answer(&request, outcome.and_then(|statistics| document(&statistics)))
}
