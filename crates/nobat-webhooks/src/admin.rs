//! What administrators see and do: deliveries shown and repeated, endpoints that are
//! left alone, URLs enabled again.

use std::time::Duration;

use nobat_core::{Error, ErrorCode, Result};
use serde_json::{Value, json};

use crate::delivery::{DELIVERIES, DISABLED, Delivery, HISTORY, HISTORY_KEPT, Outcome, rfc3339};
use crate::outbound::endpoint_of;
use crate::webhooks::Webhooks;
use nobat_runtime::now_ms;

impl Webhooks {
    /// Pending deliveries, the next due first, then those that are over, the newest first.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn deliveries(&self, limit: usize) -> Result<Vec<Value>> {
        let metadata = &self.inner.metadata;
        let mut found = Vec::new();
        for (due, left) in metadata.timers(DELIVERIES, limit).await? {
            if let Ok(delivery) = serde_json::from_slice::<Delivery>(&due.value) {
                found.push(delivery.shown(Some(left.as_secs())));
            }
        }
        for entry in metadata.tail(HISTORY, limit.saturating_sub(found.len())).await? {
            if let Ok(delivery) = serde_json::from_slice::<Delivery>(&entry) {
                found.push(delivery.shown(None));
            }
        }
        Ok(found)
    }

    /// Sends a delivery again: one that is over from its beginning, one that
    /// waits at once. The message id stays.
    ///
    /// # Errors
    /// `route_not_found` when the history no longer has it.
    pub async fn redeliver(&self, id: &str) -> Result<Delivery> {
        let metadata = &self.inner.metadata;
        let waiting = metadata.timers(DELIVERIES, HISTORY_KEPT).await?.into_iter().find(|(due, _)| due.key == id);
        if let Some((due, _)) = waiting
            && let Ok(delivery) = serde_json::from_slice::<Delivery>(&due.value)
        {
            metadata.move_timer(DELIVERIES, id, &due.value, Duration::ZERO).await?;
            self.inner.work.notify_one();
            return Ok(delivery);
        }
        let history = metadata.tail(HISTORY, HISTORY_KEPT).await?;
        let found = history
            .iter()
            .filter_map(|entry| serde_json::from_slice::<Delivery>(entry).ok())
            .find(|over| over.id == id);
        let Some(over) = found else {
            return Err(Error::new(
                ErrorCode::RouteNotFound,
                format!(
                    "there is no delivery `{id}`; the newest {HISTORY_KEPT} are kept, GET /api/v1/webhooks/deliveries lists them"
                ),
            ));
        };
        let fresh = Delivery { attempts: 0, last: String::new(), outcome: Outcome::Pending, ..over };
        self.deliver(&fresh).await?;
        Ok(fresh)
    }

    /// Endpoints that this process leaves alone now, with the time each has left.
    pub fn left_alone(&self) -> Vec<(String, Duration)> {
        self.inner.breakers.open(now_ms())
    }

    /// URLs that answered 410.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn disabled(&self) -> Result<Vec<String>> {
        let disabled = self.inner.metadata.documents(DISABLED).await?;
        Ok(disabled.into_iter().map(|(url, _)| url).collect())
    }

    /// Sends to a URL again that answered 410.
    ///
    /// # Errors
    /// `route_not_found` for one that is not disabled; `queue_unavailable`.
    pub async fn enable(&self, url: &str) -> Result<()> {
        match self.inner.metadata.remove(DISABLED, url).await? {
            true => Ok(()),
            false => Err(Error::new(
                ErrorCode::RouteNotFound,
                "that URL is not disabled; GET /api/v1/webhooks/endpoints lists those that are",
            )),
        }
    }
}

impl Delivery {
    /// A delivery without its URL's path and its body: both may hold secrets.
    pub fn shown(&self, due_in_s: Option<u64>) -> Value {
        json!({
            "id": self.id,
            "event": self.event,
            "job": self.job,
            "endpoint": endpoint_of(&self.url),
            "attempts": self.attempts,
            "outcome": self.outcome,
            "last": self.last,
            "created_at": rfc3339(self.created_at_ms),
            "due_in_s": due_in_s,
        })
    }
}
