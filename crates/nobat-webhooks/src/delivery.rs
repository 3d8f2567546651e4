//! One message to one receiver: what it says of a job, and how it is kept.

use nobat_core::infer::InferResponse;
use nobat_core::job::{JobState, JobView};
use nobat_core::tensor::Tensor;
use nobat_core::{Error, ErrorCode, JobId, Result};
use nobat_queue::route_jobs;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// Timers of deliveries, by message id.
pub(crate) const DELIVERIES: &str = "webhook-delivery";
/// Log of deliveries that are over.
pub(crate) const HISTORY: &str = "webhook-history";
/// Deliveries kept in the history; one that has left it cannot be repeated.
pub const HISTORY_KEPT: usize = 1_000;
/// URLs that answered 410, until an admin enables them again.
pub(crate) const DISABLED: &str = "webhook-disabled";

/// How the API shows a job's result; a message repeats it so.
#[derive(Clone, Copy)]
pub struct ResultView {
    /// Its path, by the job's id.
    pub url: fn(&str) -> String,
    /// Its outputs as a JSON object.
    pub json: fn(&[Tensor]) -> Vec<u8>,
}

/// How messages speak of results.
pub(crate) struct Results {
    pub(crate) max_bytes: usize,
    pub(crate) base: String,
    pub(crate) view: ResultView,
}

/// One message to one receiver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// The `webhook-id`: the same over all attempts.
    pub id: String,
    /// Where to.
    pub url: String,
    /// Such as `job.succeeded`.
    pub event: SmolStr,
    /// The job's public id.
    pub job: String,
    /// The exact body, as signed.
    pub body: String,
    /// Attempts made.
    pub attempts: u32,
    /// When it came to be, milliseconds since 1970.
    pub created_at_ms: u64,
    /// What the last attempt ended with.
    #[serde(default)]
    pub last: String,
    /// Whether it is over, and how.
    #[serde(default)]
    pub outcome: Outcome,
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Waits for its first or next attempt.
    #[default]
    Pending,
    /// A receiver answered 2xx.
    Delivered,
    /// The schedule ran out, the address is forbidden, or the receiver said 410.
    GivenUp,
}

impl Delivery {
    /// As the metadata store keeps it.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|error| Error::internal(format!("a webhook record cannot be written: {error}")))
    }

    /// The message about a job's transition to `view.state`.
    pub(crate) fn of(view: &JobView, url: &str, now_ms: u64, results: &Results) -> Result<Delivery> {
        let event = event_of(view.state)?;
        let mut body = serde_json::json!({
            "type": event,
            "timestamp": rfc3339(view.finished_at_ms.unwrap_or(now_ms)),
            "data": {
                "id": view.id,
                "model": route_jobs::shown(&view.model),
                "state": view.state,
                "attempts": view.attempts,
                "priority": view.priority,
                "created_at": (view.created_at_ms > 0).then(|| rfc3339(view.created_at_ms)),
                "finished_at": view.finished_at_ms.map(rfc3339),
                "error": view.error,
            }
        });
        if view.state == JobState::Succeeded {
            body["data"]["result_url"] = format!("{}{}", results.base, (results.view.url)(&view.id.to_string())).into();
            if let Some(result) = results.of(view) {
                body["data"]["result"] = result;
            }
        }
        Ok(Delivery::new(view.id, event, view.attempts, url, body.to_string(), now_ms))
    }

    /// The message about a job whose record was gone before it could be read: how it
    /// ended nobody knows any more, so none of the other events is claimed.
    pub(crate) fn of_lost(id: JobId, url: &str, now_ms: u64) -> Delivery {
        let body = serde_json::json!({
            "type": "job.gone",
            "timestamp": rfc3339(now_ms),
            "data": {
                "id": id,
                "state": null,
                "error": {
                    "code": ErrorCode::ResultExpired,
                    "message": "the job has no record any more: it was purged, or it ended and outlived its ttl before its end could be told",
                },
            }
        });
        Delivery::new(id, "job.gone", 0, url, body.to_string(), now_ms)
    }

    fn new(id: JobId, event: &'static str, attempts: u32, url: &str, body: String, now_ms: u64) -> Delivery {
        // Two failed attempts of one job are two messages.
        let id_text =
            if event == "job.failed" { format!("msg_{id}_{event}_{attempts}") } else { format!("msg_{id}_{event}") };
        Delivery {
            id: id_text,
            url: url.to_owned(),
            event: event.into(),
            job: id.to_string(),
            body,
            attempts: 0,
            created_at_ms: now_ms,
            last: String::new(),
            outcome: Outcome::Pending,
        }
    }
}

impl Results {
    /// A job's result as `GET` of its `result_url` tells it, if it is small enough.
    /// One that cannot be shown keeps no message back: the receiver is told there.
    fn of(&self, view: &JobView) -> Option<serde_json::Value> {
        // Packed values are hardly ever longer than printed ones: what is much larger
        // than the bound is not printed to find that out.
        let result = view.result.as_ref().filter(|result| result.outputs.len() <= 4 * self.max_bytes)?;
        let response = InferResponse::decode(&result.outputs).ok()?;
        let json = (self.view.json)(&response.outputs);
        if json.len() > self.max_bytes {
            return None;
        }
        let mut shown: serde_json::Value = serde_json::from_slice(&json).ok()?;
        shown["version"] = response.version.as_str().into();
        Some(shown)
    }
}

fn event_of(state: JobState) -> Result<&'static str> {
    match state {
        JobState::Succeeded => Ok("job.succeeded"),
        JobState::Failed => Ok("job.failed"),
        JobState::Dead => Ok("job.dead"),
        JobState::Cancelled => Ok("job.cancelled"),
        JobState::Expired => Ok("job.expired"),
        JobState::Scheduled | JobState::Queued | JobState::Leased => {
            Err(Error::internal(format!("no event for a job that is {}", state.as_str())))
        }
    }
}

/// An instant, milliseconds since 1970, as text (RFC 3339).
pub fn rfc3339(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(chrono::DateTime::from_timestamp_millis).unwrap_or_default();
    at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
