//! What can be asked about models: the list, metadata, readiness,
//! configuration, statistics.

use actix_web::http::Method;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::ErrorCode;
use nobat_serving::Predictor;
use serde_json::json;

use super::{answer, config, document, metadata, named, serve};
use crate::access::Access;
use crate::context;

/// Adds the routes; `stats` is a reserved name among models.
pub(super) fn configure(config: &mut ServiceConfig) {
    serve(config, Access::READ, &["/v2/models"], Method::GET, || web::to(list));
    serve(config, Access::READ, &["/v2/models/stats"], Method::GET, || web::to(statistics));
    serve(config, Access::READ, &["/v2/models/{model}", "/v2/models/{model}/versions/{version}"], Method::GET, || {
        web::to(describe)
    });
    let both = |tail: &str| {
        [format!("/v2/models/{{model}}{tail}"), format!("/v2/models/{{model}}/versions/{{version}}{tail}")]
    };
    let [plain, versioned] = both("/ready");
    serve(config, Access::READ, &[&plain, &versioned], Method::GET, || web::to(ready));
    let [plain, versioned] = both("/config");
    serve(config, Access::READ, &[&plain, &versioned], Method::GET, || web::to(configuration));
    let [plain, versioned] = both("/stats");
    serve(config, Access::READ, &[&plain, &versioned], Method::GET, || web::to(statistics));
}

async fn list(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let registry = predictor.state().registry.load();
    let context = context::of(&request);
    let names = registry.models().map(|entry| entry.name.as_str());
    let mut names: Vec<&str> = names.filter(|name| context.covers(name)).collect();
    names.sort_unstable();
    answer(&request, document(&json!({"models": names})))
}

async fn describe(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let outcome = || {
        let named = named(&request)?;
        let (entry, target) = predictor.describe(&named.model, named.want())?;
        document(&metadata::model(&entry, &target))
    };
    answer(&request, outcome())
}

async fn ready(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let outcome = named(&request).and_then(|named| {
        let ready = match predictor.resolve(Some(&named.model), named.want()) {
            Ok(target) => target.live,
            Err(error) if error.code == ErrorCode::ModelNotReady => false,
            Err(error) => return Err(error),
        };
        let mut response = document(&json!({"name": named.model, "ready": ready}))?;
        if !ready {
            *response.status_mut() = actix_web::http::StatusCode::SERVICE_UNAVAILABLE;
        }
        Ok(response)
    });
    answer(&request, outcome)
}

async fn configuration(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let target = named(&request).and_then(|named| predictor.resolve(Some(&named.model), named.want()));
    answer(&request, target.and_then(|target| document(&config::json(&target.signature))))
}

async fn statistics(request: HttpRequest, predictor: Data<Predictor>) -> HttpResponse {
    let context = context::of(&request);
    let outcome = match named(&request) {
        Ok(named) => {
            let version = named.version.as_deref().unwrap_or_default();
            super::statistics::collect(&predictor, &context, &named.model, version).await
        }
        Err(error) => Err(error),
    };
    answer(&request, outcome.and_then(|statistics| document(&statistics)))
}
