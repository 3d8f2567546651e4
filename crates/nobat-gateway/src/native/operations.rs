//! `/api/v1/jobs/operations`: many jobs cancelled, retried or deleted in the background.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::{Error, ErrorCode, clip};
use nobat_serving::limits::Holder;
use nobat_serving::operations::{Operation, OperationAction, OperationState};
use nobat_serving::{JobCount, Predictor};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::job_filter::{FilterParameters, JobFilter};
use crate::access::Access;
use crate::context;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::Refusals;
use crate::query;

const ASKED_BY: &[&str] = &[
    "action", "dry_run", "all", "model", "state", "priority", "owner", "error", "tag", "parent", "q", "since", "until",
];

/// Adds the routes.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(endpoint!(Access::PREDICT, list, begin)).service(endpoint!(Access::PREDICT, get, stop));
}

/// A change of many jobs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OperationObject {
    /// Its id.
    #[schema(example = "5f0c1d9b8a7e6f43")]
    pub id: String,
    /// `cancel`, `retry` or `delete`.
    #[schema(value_type = String, example = "cancel")]
    pub action: OperationAction,
    /// Which jobs, as it was asked for.
    #[schema(example = "tag=team%3Dvision")]
    pub filter: String,
    /// `running`, `finished`, `cancelled`, `failed`, or `interrupted`: its gateway is gone, and
    /// asking anew does what is left.
    #[schema(value_type = String, example = "finished")]
    pub state: OperationState,
    /// Jobs that it changed.
    pub done: u64,
    /// Jobs that had ended, or moved on, before it came to them.
    pub skipped: u64,
    /// Jobs that it could not change.
    pub failed: u64,
    /// Why the last of those, or the operation, failed.
    pub error: Option<String>,
    /// Name of the key that asked for it; null where no keys are asked for.
    pub by: Option<String>,
    /// Begun, milliseconds since 1970: jobs enqueued later are not touched.
    pub started_at_ms: u64,
    /// Over, milliseconds since 1970.
    pub finished_at_ms: Option<u64>,
}

impl From<Operation> for OperationObject {
    fn from(operation: Operation) -> OperationObject {
        OperationObject {
            id: operation.id,
            action: operation.action,
            filter: operation.filter,
            state: operation.state,
            done: operation.done,
            skipped: operation.skipped,
            failed: operation.failed,
            error: operation.error,
            by: operation.by.map(|name| name.to_string()),
            started_at_ms: operation.started_at_ms,
            finished_at_ms: operation.finished_at_ms,
        }
    }
}

/// What an operation would change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OperationCount {
    /// Jobs that it would change now: all of them, or those that were counted.
    pub count: u64,
    /// Whether there may be more than those: over 10000 are counted only where the filter is a
    /// model and a state, and no more than some 100000 are looked at.
    pub more: bool,
}

/// The operations, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OperationList {
    /// The newest 50 that are over, and those at work.
    pub operations: Vec<OperationObject>,
}

/// Change many jobs
///
/// Cancels, retries or deletes whatever the filter finds, in the background: `cancel` those
/// that have not ended, `retry` and `delete` dead letters. Jobs enqueued after the call are
/// not touched. With `dry_run=true` they are counted, and nothing is changed. The operation
/// ends with its gateway; asking anew does what is left. Four are at work at a time, over all
/// gateways, and no caller has more of them than are free for others.
#[utoipa::path(
    post, path = "/api/v1/jobs/operations", tag = "jobs", operation_id = "begin_operation",
    params(
        ("action" = String, Query, description = "`cancel`, `retry` or `delete`", pattern = "^(cancel|retry|delete)$"),
        ("dry_run" = Option<bool>, Query, description = "Only count"),
        ("all" = Option<bool>, Query, description = "Needed where no filter is given"),
        FilterParameters,
    ),
    responses(
        (status = 202, description = "The operation", body = OperationObject),
        (status = 200, description = "The count, with `dry_run`", body = OperationCount),
        Refusals,
    ),
)]
pub(crate) async fn begin(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    let context = context::of(&request);
    let mut filter = JobFilter::of(&context);
    let (mut action, mut dry_run, mut all) = (None, false, false);
    let mut text = form_urlencoded::Serializer::new(String::new());
    query::each(request.query_string(), ASKED_BY, |name, value| {
        match name {
            "action" => action = Some(action_of(value)?),
            "dry_run" => dry_run = truth(name, value)?,
            "all" => all = truth(name, value)?,
            // A list without a search shows all; a change of all is not begun by a search for nothing.
            "q" if value.trim().is_empty() => {
                return Err(invalid("q is empty; say what to find, or leave it out".to_owned()));
            }
            _ => {
                text.append_pair(name, value);
                filter.read(&predictor, name, value)?;
            }
        }
        Ok(())
    })?;
    let text = text.finish();
    let action = action.ok_or_else(|| invalid("give `action`: cancel, retry or delete".to_owned()))?;
    if text.is_empty() && !all {
        return Err(invalid("no filter is given; give one, or `all=true`".to_owned()).into());
    }
    let filter = filter.into_inner();
    if dry_run {
        let JobCount { count, more } = predictor.count_jobs(&context, &filter, action).await?;
        return Ok(HttpResponse::Ok().json(OperationCount { count, more }));
    }
    let holder = Holder::of(context.grant.as_deref(), request.peer_addr().map(|peer| peer.ip()));
    let operation = predictor.begin_operation(&context, holder, &filter, text, action).await?;
    Ok(HttpResponse::Accepted().json(OperationObject::from(operation)))
}

/// List operations
///
/// Your own; everybody's, for a key of scope `admin`.
#[utoipa::path(
    get, path = "/api/v1/jobs/operations", tag = "jobs", operation_id = "list_operations",
    responses((status = 200, description = "The operations", body = OperationList), Refusals),
)]
pub(crate) async fn list(request: HttpRequest, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    let operations = predictor.operations(&context::of(&request)).await?;
    Ok(HttpResponse::Ok().json(OperationList { operations: operations.into_iter().map(Into::into).collect() }))
}

/// How far an operation is
#[utoipa::path(
    get, path = "/api/v1/jobs/operations/{id}", tag = "jobs", operation_id = "get_operation",
    params(("id" = String, Path, description = "The operation's id")),
    responses((status = 200, description = "The operation", body = OperationObject), Refusals),
)]
pub(crate) async fn get(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    let operation = predictor.operation(&context::of(&request), &id).await?;
    Ok(HttpResponse::Ok().json(OperationObject::from(operation)))
}

/// Stop an operation
///
/// Jobs that it has changed stay so.
#[utoipa::path(
    delete, path = "/api/v1/jobs/operations/{id}", tag = "jobs", operation_id = "stop_operation",
    params(("id" = String, Path, description = "The operation's id")),
    responses((status = 202, description = "The operation, which stops", body = OperationObject), Refusals),
)]
pub(crate) async fn stop(request: HttpRequest, id: Path<String>, predictor: Data<Predictor>) -> ApiResult {
    query::none(&request)?;
    let operation = predictor.stop_operation(&context::of(&request), &id).await?;
    Ok(HttpResponse::Accepted().json(OperationObject::from(operation)))
}

fn action_of(value: &str) -> nobat_core::Result<OperationAction> {
    match value {
        "cancel" => Ok(OperationAction::Cancel),
        "retry" => Ok(OperationAction::Retry),
        "delete" => Ok(OperationAction::Delete),
        _ => Err(invalid(format!("action is `{}`; it takes cancel, retry or delete", clip(value)))),
    }
}

fn truth(name: &str, value: &str) -> nobat_core::Result<bool> {
    value.parse().map_err(|_| invalid(format!("{name} is `{}`; it takes true or false", clip(value))))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidParameter, message)
}
