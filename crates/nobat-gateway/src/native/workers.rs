//! `/api/v1/workers`: who runs the models.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use nobat_serving::{Predictor, RequestContext, WorkerInfo};
use utoipa_actix_web::service_config::ServiceConfig;

use super::job_objects::known;
use super::model_objects::{HeldVersionObject, LiveWorkerObject, WorkerList};
use crate::access::Access;
use crate::context;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::Refusals;
use crate::query;

/// Adds the route.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(endpoint!(Access::READ, list));
}

/// List workers
///
/// Those that live, with the versions that each has.
#[utoipa::path(
    get, path = "/api/v1/workers", tag = "models", operation_id = "list_workers",
    responses((status = 200, description = "Every live worker", body = WorkerList), Refusals),
)]
pub(crate) async fn list(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    let context = context::of(&request);
    let registry = predictor.state().registry.load();
    let shown = registry.workers.iter().map(|worker| shown(worker, &context));
    let mut workers: Vec<_> = shown.filter(|worker| context.covers_all() || !worker.models.is_empty()).collect();
    workers.sort_by(|a, b| b.started_at_ms.cmp(&a.started_at_ms).then_with(|| a.id.cmp(&b.id)));
    Ok(HttpResponse::Ok().json(WorkerList { workers }))
}

fn shown(worker: &WorkerInfo, context: &RequestContext) -> LiveWorkerObject {
    let covered = worker.models.iter().filter(|model| context.covers(&model.name));
    LiveWorkerObject {
        id: worker.id.to_string(),
        host: worker.host.clone(),
        started_at: known(worker.started_at_ms),
        started_at_ms: worker.started_at_ms,
        sessions: worker.sessions,
        leases: worker.leases(),
        resident_bytes: worker.resident_bytes(),
        models: covered
            .map(|model| HeldVersionObject {
                name: model.name.to_string(),
                version: model.version.to_string(),
                state: model.state,
            })
            .collect(),
    }
}
