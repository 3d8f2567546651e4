//! Telling somebody: one signed webhook per change, tried again while the
//! receiver is away, in order.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use nobat_core::{Error, Result};
use nobat_webhooks::outbound::{Outbound, PostOutcome, WebhookSecret, WebhookUrl};
use serde_json::json;
use tokio::sync::mpsc;

use super::check::State;
use super::settings::MonitorConfig;
use crate::auth::now_s;

/// Before each further attempt. What has not arrived by then is news no more.
const AGAIN_AFTER: [Duration; 4] =
    [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(300)];
/// Longest that a receiver's `Retry-After` holds up the changes after it.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Changes waiting to be told; more than that are dropped and logged.
const WAITING: usize = 64;

/// A check's change of state.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which check.
    pub check: &'static str,
    /// What it is now.
    pub state: State,
    /// What was seen.
    pub detail: String,
}

/// Sends changes from a task of its own, so that a slow receiver delays nothing.
pub struct Alerts {
    queue: Option<mpsc::Sender<Change>>,
}

impl Alerts {
    /// Starts the sender that `config` asks for; without a URL, changes are
    /// only logged.
    ///
    /// # Errors
    /// `invalid_parameter` for a URL or secret that cannot be used.
    pub fn start(config: &MonitorConfig) -> Result<Alerts> {
        if config.webhook.is_empty() {
            return Ok(Alerts { queue: None });
        }
        let named = |error: Error| Error::invalid(format!("monitor.webhook: {}", error.message));
        let target = config.addresses.check(config.webhook.expose()).map_err(named)?;
        let secret = match config.webhook_secret.expose() {
            "" => None,
            text => Some(WebhookSecret::parse(text).map_err(named)?),
        };
        let outbound = Outbound::new(config.addresses, 1)?;
        let (queue, changes) = mpsc::channel(WAITING);
        tokio::spawn(send(outbound, target, secret, changes));
        Ok(Alerts { queue: Some(queue) })
    }

    /// Logs a change and queues its webhook.
    pub fn tell(&self, change: Change) {
        let (check, detail) = (change.check, change.detail.as_str());
        match change.state {
            State::Failing => log::error!(check = check; "monitor: {check} is failing: {detail}"),
            State::Ok => log::info!(check = check; "monitor: {check} is ok again: {detail}"),
        }
        if let Some(queue) = &self.queue
            && queue.try_send(change).is_err()
        {
            log::error!("monitor: {WAITING} alerts wait for the webhook already; one is dropped");
        }
    }
}

async fn send(
    outbound: Outbound,
    target: WebhookUrl,
    secret: Option<WebhookSecret>,
    mut changes: mpsc::Receiver<Change>,
) {
    while let Some(change) = changes.recv().await {
        let body = Bytes::from(body(&change, Utc::now()));
        let id = message_id();
        let mut again = AGAIN_AFTER.into_iter();
        loop {
            let mut least = Duration::ZERO;
            let why = match outbound.post(&target, secret.as_ref(), &id, now_s(), body.clone()).await {
                PostOutcome::Delivered(_) => break,
                PostOutcome::Gone => "the receiver answered 410".to_owned(),
                PostOutcome::Refused(status) => format!("the receiver answered {status}"),
                PostOutcome::Busy { status, retry_after } => {
                    least = retry_after.min(LONGEST_PAUSE);
                    format!("the receiver answered {status}")
                }
                PostOutcome::Unreachable(why) | PostOutcome::Forbidden(why) => why,
            };
            let Some(after) = again.next().map(|after| after.max(least)) else {
                log::error!("monitor: gave up telling {target} that {} changed: {why}", change.check);
                break;
            };
            log::warn!("monitor: cannot tell {target}: {why}; again in {} s", after.as_secs());
            tokio::time::sleep(after).await;
        }
    }
}

fn body(change: &Change, now: DateTime<Utc>) -> String {
    let kind = match change.state {
        State::Failing => "monitor.check.failing",
        State::Ok => "monitor.check.recovered",
    };
    json!({
        "type": kind,
        "timestamp": now.to_rfc3339_opts(SecondsFormat::Micros, true),
        "data": { "check": change.check, "state": change.state, "detail": change.detail },
    })
    .to_string()
}

fn message_id() -> String {
    let mut random = [0u8; 12];
    // Ids only let a receiver drop repeats; a clock would do.
    if getrandom::fill(&mut random).is_err() {
        random[..8].copy_from_slice(&now_s().to_le_bytes());
    }
    random.iter().fold(String::from("msg_"), |id, byte| id + &format!("{byte:02x}"))
}
