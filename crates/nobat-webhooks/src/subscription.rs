//! Subscriptions: jobs whose end somebody wants to be told of, from "accepted" to "there
//! is something to tell".
//!
//! Who accepts a job subscribes before it answers. A subscription is a timer of the
//! metadata store that looks at its job: every two seconds while the job is young, ever
//! more rarely as it ages. The job's queue needs to know nothing of it.

use std::time::Duration;

use nobat_core::job::{JobState, JobView};
use nobat_core::{Error, JobId, OwnerId, Result};
use nobat_queue::{MetadataStore, Queue, Timer};
use nobat_runtime::now_ms;
use serde::{Deserialize, Serialize};

use crate::delivery::Delivery;
use crate::webhooks::Webhooks;

/// The metadata store's set of subscriptions, by job id.
const SUBSCRIPTIONS: &str = "webhook-watch";
/// When a new subscription is looked at first, and the longest pause between two looks.
const FIRST_LOOK: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long the record of a job with a webhook is kept after its end at least: some looks
/// and the restart of a gateway long, or its end could not be told.
const KEPT: Duration = Duration::from_secs(300);
/// A subscription taken by a gateway that dies comes back after this.
const LEASE: Duration = Duration::from_secs(15);
/// Subscriptions looked at in one go.
const AT_ONCE: usize = 64;

/// How long the result of a job with a webhook is kept whose caller asked for `result_ttl`.
#[must_use]
pub fn result_ttl(result_ttl: Duration) -> Duration {
    result_ttl.max(KEPT)
}

/// Who wants to hear of a job. Stored as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct WebhookSubscription {
    job: JobId,
    /// Whose it is.
    owner: OwnerId,
    /// Who is told.
    url: String,
    /// Since when, milliseconds since 1970.
    since_ms: u64,
    /// Failed attempts that were told.
    failures_told: u32,
}

impl WebhookSubscription {
    fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::internal(format!("a subscription cannot be written: {e}")))
    }
}

/// Has `url` told of a job's end; returns when that is in the metadata store.
///
/// # Errors
/// `queue_unavailable`.
pub async fn subscribe(metadata: &dyn MetadataStore, job: JobId, owner: OwnerId, url: &str) -> Result<()> {
    let subscription = WebhookSubscription { job, owner, url: url.to_owned(), since_ms: now_ms(), failures_told: 0 };
    metadata.add_timer(SUBSCRIPTIONS, &job.to_string(), &subscription.encode()?, FIRST_LOOK).await.map(drop)
}

impl Webhooks {
    /// As [`subscribe`].
    ///
    /// # Errors
    /// As there.
    pub async fn subscribe(&self, job: JobId, owner: OwnerId, url: &str) -> Result<()> {
        subscribe(&*self.inner.metadata, job, owner, url).await
    }

    /// Looks at the subscriptions that are due; whether there may be more.
    pub(crate) async fn look(&self, queue: &dyn Queue) -> Result<bool> {
        let due = self.inner.metadata.take_due(SUBSCRIPTIONS, AT_ONCE, LEASE).await?;
        let more = due.len() == AT_ONCE;
        for Timer { key, value } in due {
            match serde_json::from_slice::<WebhookSubscription>(&value) {
                Ok(subscription) => {
                    let view = queue.get(subscription.job).await?;
                    self.tell(subscription, view).await?;
                }
                Err(error) => {
                    log::warn!(job = key.as_str(); "webhook: dropping a subscription that cannot be read: {error}");
                    self.inner.metadata.remove_timer(SUBSCRIPTIONS, &key).await?;
                }
            }
        }
        Ok(more)
    }

    /// Stores what there is to tell, then ends or prolongs the subscription: killed
    /// between the two, the same delivery is stored again under the same id.
    async fn tell(&self, mut subscription: WebhookSubscription, view: Option<JobView>) -> Result<()> {
        let (key, now, url) = (subscription.job.to_string(), now_ms(), &subscription.url);
        let delivery = match &view {
            None => Some(Delivery::of_lost(subscription.job, url, now)),
            Some(view) if view.state.is_terminal() => Some(Delivery::of(view, url, now, &self.inner.results)?),
            Some(view) if view.state == JobState::Failed && view.attempts > subscription.failures_told => {
                Some(Delivery::of(view, url, now, &self.inner.results)?)
            }
            Some(_) => None,
        };
        if let Some(delivery) = &delivery {
            self.deliver(delivery).await?;
        }
        match view.filter(|view| !view.state.is_terminal()) {
            None => self.inner.metadata.remove_timer(SUBSCRIPTIONS, &key).await.map(drop),
            Some(view) => {
                if delivery.is_some() {
                    subscription.failures_told = view.attempts;
                }
                let pause = pause(now.saturating_sub(subscription.since_ms));
                self.inner.metadata.move_timer(SUBSCRIPTIONS, &key, &subscription.encode()?, pause).await.map(drop)
            }
        }
    }
}

/// A quarter of the job's age, within bounds: a job that takes an hour is told
/// of a minute late at most, and costs a look a minute.
fn pause(age_ms: u64) -> Duration {
    Duration::from_millis(age_ms / 4).clamp(FIRST_LOOK, LONGEST_PAUSE)
}
