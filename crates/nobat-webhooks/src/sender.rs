//! The sender: one task per gateway that looks at subscriptions and sends deliveries.
//! Any number of gateways send beside each other; a timer goes to one at a time.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use nobat_core::Result;
use nobat_queue::{Queue, Timer};

use crate::delivery::{DELIVERIES, DISABLED, Delivery, HISTORY, HISTORY_KEPT, Outcome};
use crate::outbound::{PostOutcome, WebhookUrl};
use crate::pace;
use crate::webhooks::Webhooks;
use nobat_runtime::now_ms;

/// Looked at without being rung: two commands every two seconds when idle.
const LOOK: Duration = Duration::from_secs(2);
/// Above what one attempt may take; a delivery of a killed sender is due again after it.
const LEASE: Duration = Duration::from_secs(30);
/// Deliveries taken in one go.
const AT_ONCE: usize = 32;
/// Pause after the metadata store could not be reached.
const AWAY: Duration = Duration::from_secs(1);

/// Sends for ever. Abort the task to stop: what was in flight is due again.
pub async fn run(webhooks: Webhooks, queue: Arc<dyn Queue>) {
    loop {
        match once(&webhooks, &*queue).await {
            Ok(true) => {}
            Ok(false) => {
                let _ = tokio::time::timeout(LOOK, webhooks.inner.work.notified()).await;
            }
            Err(error) => {
                log::debug!("webhook: waiting for the metadata store: {error}");
                tokio::time::sleep(AWAY).await;
            }
        }
    }
}

/// One look and one round of sending; whether there may be more to do.
async fn once(webhooks: &Webhooks, queue: &dyn Queue) -> Result<bool> {
    let more_due = webhooks.look(queue).await?;
    let due = webhooks.inner.metadata.take_due(DELIVERIES, AT_ONCE, LEASE).await?;
    let more = more_due || due.len() == AT_ONCE;
    let disabled = if due.is_empty() { Vec::new() } else { webhooks.inner.metadata.documents(DISABLED).await? };
    let mut sending: FuturesUnordered<_> = due
        .into_iter()
        .map(|due| {
            let off = |url: &str| disabled.iter().any(|(disabled, _)| disabled == url);
            send(webhooks, due, off)
        })
        .collect();
    while let Some(sent) = sending.next().await {
        sent?;
    }
    Ok(more)
}

/// One attempt of one delivery, and what follows from it.
async fn send(webhooks: &Webhooks, due: Timer, disabled: impl Fn(&str) -> bool) -> Result<()> {
    let inner = &webhooks.inner;
    let Ok(mut delivery) = serde_json::from_slice::<Delivery>(&due.value) else {
        log::warn!(delivery = due.key.as_str(); "webhook: dropping a delivery that cannot be read");
        return inner.metadata.remove_timer(DELIVERIES, &due.key).await.map(drop);
    };
    if disabled(&delivery.url) {
        delivery.last = "the receiver answered 410 earlier; enable its URL to send again".into();
        return finish(webhooks, delivery, Outcome::GivenUp).await;
    }
    let target = match inner.outbound.policy().check(&delivery.url) {
        Ok(target) => target,
        Err(error) => {
            delivery.last = error.message;
            return finish(webhooks, delivery, Outcome::GivenUp).await;
        }
    };
    let endpoint = target.endpoint();
    if let Some(pause) = inner.breakers.ask(&endpoint, now_ms()) {
        // The endpoint is left alone: this costs the delivery no attempt.
        return inner.metadata.move_timer(DELIVERIES, &delivery.id, &due.value, pause).await.map(drop);
    }
    delivery.attempts += 1;
    let sent = attempt(webhooks, &target, &delivery).await;
    inner.breakers.learn(
        &endpoint,
        !matches!(
            sent,
            PostOutcome::Refused(500..) | PostOutcome::Busy { status: 500.., .. } | PostOutcome::Unreachable(_)
        ),
        now_ms(),
    );
    let label = match &sent {
        PostOutcome::Delivered(_) => "delivered",
        PostOutcome::Gone => "gone",
        PostOutcome::Refused(_) | PostOutcome::Busy { .. } => "refused",
        PostOutcome::Unreachable(_) => "unreachable",
        PostOutcome::Forbidden(_) => "forbidden",
    };
    inner.attempts.with_label_values(&[label]).inc();
    match sent {
        PostOutcome::Delivered(status) => {
            delivery.last = format!("{status}");
            finish(webhooks, delivery, Outcome::Delivered).await
        }
        PostOutcome::Gone => {
            delivery.last = "410: the receiver wants no more".into();
            inner.metadata.put(DISABLED, &delivery.url, b"410").await?;
            finish(webhooks, delivery, Outcome::GivenUp).await
        }
        PostOutcome::Forbidden(why) => {
            delivery.last = why;
            finish(webhooks, delivery, Outcome::GivenUp).await
        }
        PostOutcome::Refused(status) => again(webhooks, delivery, format!("{status}"), Duration::ZERO).await,
        PostOutcome::Busy { status, retry_after } => {
            inner.breakers.rest(&endpoint, retry_after, now_ms());
            let last = format!("{status}, to be asked again after {} s", retry_after.as_secs());
            again(webhooks, delivery, last, retry_after).await
        }
        PostOutcome::Unreachable(why) => again(webhooks, delivery, why, Duration::ZERO).await,
    }
}

async fn attempt(webhooks: &Webhooks, target: &WebhookUrl, delivery: &Delivery) -> PostOutcome {
    let body = delivery.body.clone().into();
    webhooks.inner.outbound.post(target, &webhooks.inner.secrets, &delivery.id, now_ms() / 1000, body).await
}

/// Due again by the schedule, and not before the receiver wants it.
async fn again(webhooks: &Webhooks, mut delivery: Delivery, why: String, least: Duration) -> Result<()> {
    delivery.last = why;
    match pace::next_delay(&webhooks.inner.retry_s, delivery.attempts, random()) {
        Some(delay) => {
            let json = delivery.encode()?;
            webhooks.inner.metadata.move_timer(DELIVERIES, &delivery.id, &json, delay.max(least)).await.map(drop)
        }
        None => finish(webhooks, delivery, Outcome::GivenUp).await,
    }
}

/// Logs a delivery that is over, then forgets its timer: killed between the two
/// it is sent once more.
async fn finish(webhooks: &Webhooks, mut delivery: Delivery, outcome: Outcome) -> Result<()> {
    delivery.outcome = outcome;
    if outcome == Outcome::GivenUp {
        log::warn!(delivery = delivery.id.as_str(), attempts = delivery.attempts; "webhook: given up: {}", delivery.last);
    }
    webhooks.inner.metadata.append(HISTORY, &delivery.encode()?, HISTORY_KEPT).await?;
    webhooks.inner.metadata.remove_timer(DELIVERIES, &delivery.id).await.map(drop)
}

fn random() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(now_ms()) as u32
}
