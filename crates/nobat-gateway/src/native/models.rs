//! `/api/v1/models`: what is served, by whom, and how it does.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::signature::ModelState;
use nobat_core::statistics::{ModelStatistics, WorkerReport};
use nobat_serving::Predictor;
use nobat_serving::WorkerInfo;
use nobat_serving::drift;
use nobat_serving::registry::{ModelEntry, Want};
use utoipa_actix_web::service_config::ServiceConfig;

use super::job_objects::{known, route_url};
use super::model_objects::{ModelDetail, ModelList, ModelObject, QueueObject, VersionObject, WorkerObject};
use crate::access::Access;
use crate::context;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::Refusals;
use crate::query;

/// Adds the routes.
pub(super) fn configure(config: &mut ServiceConfig) {
    config
        .service(endpoint!(Access::READ, list))
        .service(endpoint!(Access::READ, get))
        .service(endpoint!(Access::READ, acknowledge));
}

/// List models
#[utoipa::path(
    get, path = "/api/v1/models", tag = "models", operation_id = "list_models",
    responses((status = 200, description = "Every model with its signature and state", body = ModelList), Refusals),
)]
pub(crate) async fn list(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    let registry = predictor.state().registry.load();
    let context = context::of(&request);
    let covered = registry.models().filter(|model| context.covers(&model.name));
    let mut models: Vec<_> = covered.map(|entry| describe(&predictor, entry)).collect();
    models.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(HttpResponse::Ok().json(ModelList { models }))
}

/// One model
///
/// Signature, state, queue, statistics, and what its workers report: the
/// batching controllers' state among it.
#[utoipa::path(
    get, path = "/api/v1/models/{model}", tag = "models", operation_id = "get_model",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    responses((status = 200, description = "The model", body = ModelDetail), Refusals),
)]
pub(crate) async fn get(request: HttpRequest, name: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    context::require(&request, &name)?;
    let shared = predictor.state();
    let (model, workers): (ModelObject, Vec<WorkerInfo>) = {
        let registry = shared.registry.load();
        let entry = predictor.entry(&context::of(&request), &name)?;
        let has = |worker: &&WorkerInfo| entry.versions.iter().any(|version| version.workers.contains(&worker.id));
        (describe(&predictor, &entry), registry.workers.iter().filter(has).cloned().collect())
    };
    let counts = shared.queue.counts(&predictor.queue_named(&context::of(&request), &name)?).await?;
    Ok(HttpResponse::Ok().json(ModelDetail {
        model,
        queue: QueueObject::new(&name, counts),
        statistics: statistics(&name, &workers),
        drift: shared.drift.statuses(&name),
        workers: workers.into_iter().map(|worker| worker_object(worker, &name)).collect(),
    }))
}

/// Acknowledge a model's drift
///
/// Every gateway begins to watch the model's rows anew: its check recovers within seconds, and
/// fails again when they still leave the profile.
#[utoipa::path(
    post, path = "/api/v1/models/{model}/drift/acknowledge", tag = "models", operation_id = "acknowledge_drift",
    params(("model" = String, Path, description = "The model's name", example = "digits")),
    responses((status = 204, description = "It was written down"), Refusals),
)]
pub(crate) async fn acknowledge(request: HttpRequest, name: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    context::require(&request, &name)?;
    let shared = predictor.state();
    predictor.entry(&context::of(&request), &name)?;
    drift::acknowledge(shared, &name).await?;
    Ok(HttpResponse::NoContent().finish())
}

fn describe(predictor: &Predictor, entry: &ModelEntry) -> ModelObject {
    let default = entry.default_version();
    let route = predictor.route(&entry.name, Want::Default);
    let versions = entry.versions.iter().map(|version| {
        let workers = version.workers.iter().map(|id| id.to_string()).collect();
        VersionObject::new(&version.signature, workers)
    });
    ModelObject {
        name: entry.name.to_string(),
        default_version: default.signature.version.to_string(),
        ready: match &route {
            Some(target) => target.as_ref().is_ok_and(|target| target.live),
            None => default.is_live() && default.signature.state == ModelState::Ready,
        },
        route: route.is_some().then(|| route_url(&entry.name)),
        versions: versions.collect(),
    }
}

/// A model's counters per version, summed over its workers.
fn statistics(model: &str, workers: &[WorkerInfo]) -> Vec<ModelStatistics> {
    let mut sums: Vec<ModelStatistics> = Vec::new();
    for worker in workers {
        // A report of another release may lack them: then there is nothing to sum.
        let report: WorkerReport = serde_json::from_value(worker.report.clone()).unwrap_or_default();
        for counters in report.statistics.iter().filter(|counters| counters.model == model) {
            match sums.iter_mut().find(|sum| sum.version == counters.version) {
                Some(sum) => sum.merge(counters),
                None => sums.push(counters.clone()),
            }
        }
    }
    sums
}

fn worker_object(worker: WorkerInfo, model: &str) -> WorkerObject {
    let report = report_of(worker.report, model);
    WorkerObject {
        id: worker.id.to_string(),
        host: worker.host,
        started_at: known(worker.started_at_ms),
        started_at_ms: worker.started_at_ms,
        sessions: worker.sessions,
        report,
    }
}

/// What a worker reports of one model, beside its statistics: whoever may see that one may not see
/// all that the worker serves.
fn report_of(mut report: serde_json::Value, model: &str) -> serde_json::Value {
    let Some(members) = report.as_object_mut() else { return serde_json::json!({}) };
    members.remove("statistics");
    if let Some(controllers) = members.get_mut("batching").and_then(|all| all.as_array_mut()) {
        controllers.retain(|controller| controller["model"] == model);
    }
    if let Some(loads) = members.get_mut("loads").and_then(|all| all.as_object_mut()) {
        loads.retain(|name, _| name == model);
    }
    report
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::report_of;

    #[test]
    fn a_report_tells_of_no_other_model() {
        let report = json!({
            "nonce": 1,
            "statistics": [{ "model": "other" }],
            "batching": [{ "model": "one", "cap": 8 }, { "model": "other", "cap": 9 }],
            "loads": { "one": { "done": 1 }, "other": { "done": 2 } },
            "leases": 3,
        });
        let own = json!({
            "nonce": 1,
            "batching": [{ "model": "one", "cap": 8 }],
            "loads": { "one": { "done": 1 } },
            "leases": 3,
        });
        assert_eq!(report_of(report, "one"), own);
        assert_eq!(report_of(json!(null), "one"), json!({}));
    }
}
