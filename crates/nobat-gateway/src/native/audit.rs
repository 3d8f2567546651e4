//! `/api/v1/audit`: who changed what.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use nobat_serving::Predictor;
use nobat_serving::audit::AuditEntry;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use crate::access::Access;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::Refusals;
use crate::query;

/// Entries shown unless the caller says otherwise, and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

/// Adds the route.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(endpoint!(Access::ADMIN, list));
}

/// One change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditObject {
    /// When it was answered, milliseconds since 1970.
    pub at_ms: u64,
    /// Id of the key; null where no keys are asked for.
    pub key: Option<String>,
    /// Name of the key.
    #[schema(example = "alice")]
    pub name: Option<String>,
    /// `console`, `cli` or `api`.
    #[schema(example = "console")]
    pub by: String,
    /// Method and pattern of the path, or the gRPC call.
    #[schema(example = "POST /api/v1/queues/{model}/pause")]
    pub action: String,
    /// The path, with the query of what was done, or what the gRPC call names.
    #[schema(example = "/api/v1/queues/digits/pause")]
    pub target: String,
    /// HTTP status of the answer, or the one that its gRPC status stands for.
    pub status: u16,
    /// The request's id.
    pub request_id: String,
}

impl From<AuditEntry> for AuditObject {
    fn from(entry: AuditEntry) -> AuditObject {
        AuditObject {
            at_ms: entry.at_ms,
            key: entry.key,
            name: entry.name.map(|name| name.to_string()),
            by: entry.by.to_string(),
            action: entry.action,
            target: entry.target,
            status: entry.status,
            request_id: entry.request_id.to_string(),
        }
    }
}

/// The log of changes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditList {
    /// The newest first.
    pub entries: Vec<AuditObject>,
    /// Changes that this gateway could not write down since it started.
    pub lost: u64,
}

/// Who changed what
///
/// Changes of jobs, queues, models, routes, tasks, webhooks and keys that were let in,
/// by the console, the command line or the API; predictions are none. Kept as
/// `gateway.audit` says.
#[utoipa::path(
    get, path = "/api/v1/audit", tag = "health", operation_id = "list_audit",
    params(("limit" = Option<u32>, Query, description = "Most entries shown", minimum = 1, maximum = 1000)),
    responses((status = 200, description = "The newest changes", body = AuditList), Refusals),
)]
pub(crate) async fn list(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    let mut limit = PAGE;
    query::each(request.query_string(), &["limit"], |name, value| {
        limit = query::number(name, value, 1, PAGE_MAX)?;
        Ok(())
    })?;
    let state = predictor.state();
    let entries = state.audit.newest(&*state.queue.metadata(), limit).await?;
    let entries = entries.into_iter().map(Into::into).collect();
    Ok(HttpResponse::Ok().json(AuditList { entries, lost: state.audit.lost() }))
}
