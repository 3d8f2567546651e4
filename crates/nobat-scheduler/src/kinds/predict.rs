//! A stored request becomes an ordinary job.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use nobat_core::infer::{InferRequest, InferResponse};
use nobat_core::job::{Idempotency, JobOptions, JobState, JobView, NewJob};
use nobat_core::signature::{ModelSignature, ModelState};
use nobat_core::{Error, ErrorCode, JobId, OwnerId, Result};
use nobat_queue::route_jobs;
use nobat_webhooks::subscription;
use serde_json::json;
use smol_str::SmolStr;

use super::file::write_whole;
use super::services::{Done, Services};
use crate::request;
use crate::run::RunRequest;
use crate::schedule::Predict;

/// Longest one wait for a job; waited again until the task's own timeout.
const WAIT: Duration = Duration::from_secs(60);

/// The job of a run's attempt: the first one under the run's own key. A job that
/// ended dead or expired is answered for, and a further one has a key of its own; of
/// these there are as many as the task has retries.
pub(super) async fn predict(services: &Services, kind: &Predict, run: &RunRequest, retries: u32) -> Result<Done> {
    let request = request::decode(&kind.request)?;
    let (queue, request, rows) = match route_jobs::is_route(&*services.metadata, &kind.model).await? {
        // A gateway checks it against the route's signature when it carries it out.
        true => {
            route_jobs::open(&*services.metadata, &kind.model).await?;
            (route_jobs::queue_of(&kind.model), request, 1)
        }
        false => for_model(services, &kind.model, request).await?,
    };
    let payload = Bytes::from(request.encode());
    let result_ttl = Duration::from_secs(u64::from(kind.result_ttl_s));
    let result_ttl = if kind.webhook.is_some() { subscription::result_ttl(result_ttl) } else { result_ttl };
    let job = |key: &str| NewJob {
        model: queue.clone(),
        owner: OwnerId::ANONYMOUS,
        options: JobOptions {
            priority: kind.priority,
            result_ttl,
            // A run that is carried out twice after a crash finds its job there.
            idempotency: Some(Idempotency { key: key.into(), fingerprint: 0 }),
            ..JobOptions::default()
        },
        payload: payload.clone(),
        rows,
        trace: run.key.as_str().into(),
    };
    let mut accepted = services.queue_client.enqueue(job(&run.key)).await?;
    for retry in 1..=retries {
        if !accepted.duplicate || !ended_badly(services, accepted.id).await? {
            break;
        }
        accepted = services.queue_client.enqueue(job(&format!("{}#{retry}", run.key))).await?;
    }
    let id = accepted.id;
    if let Some(url) = &kind.webhook {
        subscription::subscribe(&*services.metadata, id, OwnerId::ANONYMOUS, url).await?;
    }
    let view = loop {
        match services.queue_client.wait(id, WAIT).await? {
            Some(view) if view.state.is_terminal() => break view,
            Some(_) => {}
            None => return Err(Error::new(ErrorCode::ResultExpired, "the job's record is gone; raise result_ttl_s")),
        }
    };
    if view.state != JobState::Succeeded {
        let why = view.error.map_or_else(|| view.state.as_str().to_owned(), |error| error.message);
        return Err(Error::new(ErrorCode::InferenceFailed, format!("job {id}: {why}")));
    }
    if let Some(file) = &kind.write_to {
        write_whole(Path::new(file), &shown(&view)?).await?;
    }
    Ok(Done { job: Some(id.to_string()), ..Done::said(format!("job {id} succeeded")) })
}

/// Whether a job has failed for good by itself; one that somebody cancelled is to stay so.
async fn ended_badly(services: &Services, id: JobId) -> Result<bool> {
    let view = services.queue.get(id).await?;
    Ok(view.is_some_and(|view| matches!(view.state, JobState::Dead | JobState::Expired)))
}

/// A request to a live model, checked; with its queue and its rows.
async fn for_model(services: &Services, target: &str, request: InferRequest) -> Result<(SmolStr, InferRequest, u32)> {
    let (model, version) = target.split_once('/').unwrap_or((target, ""));
    let workers = services.queue.workers().await?;
    let serves = |known: &&ModelSignature| {
        known.name == model && known.state == ModelState::Ready && (version.is_empty() || known.version == version)
    };
    let signature = workers.iter().flat_map(|worker| &worker.models).find(serves).ok_or_else(|| {
        Error::new(ErrorCode::NoWorker, format!("`{target}` is no route, and no live worker serves it; start one"))
    })?;
    let rows = signature.validate(&request)?;
    Ok((model.into(), InferRequest { version: version.into(), ..request }, rows))
}

/// A result as the Open Inference Protocol's JSON, data flat.
fn shown(view: &JobView) -> Result<Vec<u8>> {
    let packed = view.result.as_ref().map(|result| InferResponse::decode(&result.outputs)).transpose()?;
    let outputs: Vec<_> = packed
        .iter()
        .flat_map(|response| &response.outputs)
        .map(|tensor| json!({"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape, "data": request::values(tensor)}))
        .collect();
    let shown = json!({"id": view.id, "model_name": route_jobs::shown(&view.model), "outputs": outputs});
    serde_json::to_vec_pretty(&shown).map_err(|e| Error::internal(format!("a result cannot be written: {e}")))
}
