//! Webhooks on jobs: who asked to be told of a job's end is told, at least once.
//!
//! Owns the watch over jobs ([`watch`]), the deliveries and their sending
//! ([`sender`]), the retry schedule and the circuit breaker ([`pace`]), and the
//! calls that show and repeat deliveries ([`api`]). Signing and the guard over
//! addresses are [`outbound`](crate::outbound)'s.
//!
//! A caller's 202 comes after the watch is in the metadata store, so a gateway killed at
//! any point loses no delivery:
//!
//! ```text
//! enqueue -> watch (timer) -> answer        … job ends …
//! watch due -> delivery (timer, same id however often) -> watch removed
//! delivery due -> POST -> 2xx: log, removed | else: due again by the schedule
//! ```
//!
//! Invariants:
//! - A taken timer comes back when its taker dies: at-least-once, and a receiver
//!   tells repetitions by `webhook-id`, which never changes.
//! - What is stored and logged is the URL as given; what is shown is its host.

pub mod api;
pub mod pace;
pub mod sender;
pub mod watch;

use std::sync::Arc;
use std::time::Duration;

use nobat_core::infer::InferResponse;
use nobat_core::job::{JobState, JobView};
use nobat_core::secret::Secret;
use nobat_core::{Error, ErrorCode, JobId, Result};
use nobat_queue::{MetadataStore, route_jobs};
use nobat_runtime::Metrics;
use prometheus::{IntCounterVec, opts};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use tokio::sync::Notify;

use crate::json::request::Form;
use crate::json::write;
use crate::outbound::{AddressPolicy, Outbound, WebhookSecret};
use crate::routes::native::objects::result_url;
use pace::Breakers;

/// Timers of deliveries, by message id.
const DELIVERIES: &str = "webhook-delivery";
/// Log of deliveries that are over.
const HISTORY: &str = "webhook-history";
/// Deliveries kept in the history; one that has left it cannot be repeated.
const HISTORY_KEPT: usize = 1_000;
/// URLs that answered 410, until an admin enables them again.
const DISABLED: &str = "webhook-disabled";

/// What an operator may set about webhooks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookSettings {
    /// `whsec_…` secrets, the newest first. While there are two, deliveries
    /// carry both signatures: add the new one, move the receivers, drop the old.
    pub secrets: Vec<Secret>,
    /// Plain http and private addresses, where the operator wants them.
    pub addresses: AddressPolicy,
    /// Delays before each retry, in seconds; the first attempt is at once.
    pub retry_s: Vec<u32>,
    /// POSTs at once.
    pub concurrent: usize,
    /// Largest result that a message carries, as JSON, in bytes; a larger one is at
    /// its `result_url`. 0 carries none.
    pub max_result_bytes: usize,
    /// What `result_url` begins with: this deployment as receivers reach it, such as
    /// `https://models.example.com`. Empty: a path alone.
    pub public_url: String,
}

impl Default for WebhookSettings {
    fn default() -> WebhookSettings {
        WebhookSettings {
            secrets: Vec::new(),
            addresses: AddressPolicy::default(),
            retry_s: pace::SCHEDULE_S.to_vec(),
            concurrent: 32,
            max_result_bytes: 16 << 10,
            public_url: String::new(),
        }
    }
}

impl WebhookSettings {
    /// Checks them.
    ///
    /// # Errors
    /// `invalid_parameter` naming the key and the remedy.
    pub fn validate(&self) -> Result<()> {
        if self.concurrent == 0 {
            return Err(Error::new(ErrorCode::InvalidParameter, "webhooks.concurrent is 0; take at least 1"));
        }
        let web = |url: &str| url.starts_with("https://") || url.starts_with("http://");
        if !self.public_url.is_empty() && !web(&self.public_url) {
            return Err(Error::new(
                ErrorCode::InvalidParameter,
                format!(
                    "webhooks.public_url is `{}`; give scheme and host, such as `https://models.example.com`",
                    self.public_url
                ),
            ));
        }
        self.parsed().map(drop)
    }

    fn parsed(&self) -> Result<Vec<WebhookSecret>> {
        let parse = |secret: &Secret| {
            WebhookSecret::parse(secret.expose())
                .map_err(|error| Error { message: format!("webhooks.secrets: {}", error.message), ..error })
        };
        self.secrets.iter().map(parse).collect()
    }
}

/// A gateway's webhooks. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    inner: Arc<Inner>,
}

struct Inner {
    metadata: Arc<dyn MetadataStore>,
    outbound: Outbound,
    secrets: Vec<WebhookSecret>,
    retry_s: Vec<u32>,
    results: Results,
    breakers: Breakers,
    attempts: IntCounterVec,
    /// Rung when a watched job may have ended or a delivery may be due.
    work: Notify,
}

/// How messages speak of results.
struct Results {
    max_bytes: usize,
    base: String,
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

impl Webhooks {
    /// Sets up sending; [`sender::run`] does it.
    ///
    /// # Errors
    /// `invalid_parameter` for a secret that is none.
    pub fn new(settings: &WebhookSettings, metadata: Arc<dyn MetadataStore>, metrics: &Metrics) -> Result<Webhooks> {
        let secrets = settings.parsed()?;
        let outbound = Outbound::new(settings.addresses, settings.concurrent)?;
        let options = opts!("nobat_webhook_attempts_total", "Webhook attempts by outcome.");
        let attempts = IntCounterVec::new(options, &["outcome"])
            .map_err(|error| Error::new(ErrorCode::Internal, format!("metrics: {error}")))?;
        metrics.register(attempts.clone());
        let inner = Inner {
            metadata,
            outbound,
            secrets,
            retry_s: settings.retry_s.clone(),
            results: Results {
                max_bytes: settings.max_result_bytes,
                base: settings.public_url.trim_end_matches('/').to_owned(),
            },
            breakers: Breakers::default(),
            attempts,
            work: Notify::new(),
        };
        Ok(Webhooks { inner: Arc::new(inner) })
    }

    /// Checks a URL when a caller declares it.
    ///
    /// # Errors
    /// `invalid_parameter`: scheme, user name, private address; names the remedy.
    pub fn check(&self, url: &str) -> Result<()> {
        self.inner
            .outbound
            .policy()
            .check(url)
            .map(drop)
            .map_err(|error| Error { message: format!("webhook: {}", error.message), ..error })
    }

    /// Stores a delivery that is due at once; the same id is stored once.
    async fn deliver(&self, delivery: &Delivery) -> Result<()> {
        let json = encode(delivery)?;
        self.inner.metadata.add_timer(DELIVERIES, &delivery.id, &json, Duration::ZERO).await?;
        self.inner.work.notify_one();
        Ok(())
    }
}

impl Delivery {
    /// The message about a job's transition to `view.state`.
    fn of(view: &JobView, url: &str, now_ms: u64, results: &Results) -> Result<Delivery> {
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
            body["data"]["result_url"] = format!("{}{}", results.base, result_url(&view.id.to_string())).into();
            if let Some(result) = results.of(view) {
                body["data"]["result"] = result;
            }
        }
        Ok(Delivery::new(view.id, event, view.attempts, url, body.to_string(), now_ms))
    }

    /// The message about a job whose record was gone before it could be read: how it
    /// ended nobody knows any more, so none of the other events is claimed.
    fn of_lost(id: JobId, url: &str, now_ms: u64) -> Delivery {
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
        let mut json = Vec::new();
        write::answer(&mut json, &response.outputs, Form::Row);
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
            Err(Error::new(ErrorCode::Internal, format!("no event for a job that is {}", state.as_str())))
        }
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::new(ErrorCode::Internal, format!("a webhook record cannot be written: {error}")))
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

pub(crate) fn rfc3339(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(chrono::DateTime::from_timestamp_millis).unwrap_or_default();
    at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
