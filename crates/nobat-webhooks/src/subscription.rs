//! The watch over jobs: from "accepted" to "there is something to tell".
//!
//! A watch is a timer that looks at its job: every two seconds while the job is
//! young, ever more rarely as it ages. It is in the metadata store before the caller is
//! answered, so the job's queue needs to know nothing of it.

use std::time::Duration;

use nobat_core::job::{JobState, JobView};
use nobat_core::{JobId, OwnerId, Result};
use nobat_queue::webhook_subscription::{self, FIRST_CHECK, LONGEST_PAUSE, SUBSCRIPTIONS, WebhookSubscription};
use nobat_queue::{Queue, Timer};

use crate::delivery::Delivery;
use crate::webhooks::Webhooks;
use nobat_runtime::now_ms;

/// A watch taken by a gateway that dies comes back after this.
const LEASE: Duration = Duration::from_secs(15);
/// Watches looked at in one go.
const AT_ONCE: usize = 64;

impl Webhooks {
    /// Begins to watch a job; returns when the watch is in the metadata store.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn watch(&self, job: JobId, owner: OwnerId, url: &str) -> Result<()> {
        webhook_subscription::subscribe(&*self.inner.metadata, job, owner, url, now_ms()).await
    }

    /// Looks at the watches that are due; whether there may be more.
    pub(crate) async fn look(&self, queue: &dyn Queue) -> Result<bool> {
        let due = self.inner.metadata.take_due(SUBSCRIPTIONS, AT_ONCE, LEASE).await?;
        let more = due.len() == AT_ONCE;
        for Timer { key, value } in due {
            match serde_json::from_slice::<WebhookSubscription>(&value) {
                Ok(watch) => {
                    let view = queue.get(watch.job).await?;
                    self.tell(watch, view).await?;
                }
                Err(error) => {
                    log::warn!(job = key.as_str(); "webhook: dropping a watch that cannot be read: {error}");
                    self.inner.metadata.remove_timer(SUBSCRIPTIONS, &key).await?;
                }
            }
        }
        Ok(more)
    }

    /// Stores what there is to tell, then ends or prolongs the watch: killed
    /// between the two, the same delivery is stored again under the same id.
    async fn tell(&self, mut watch: WebhookSubscription, view: Option<JobView>) -> Result<()> {
        let key = watch.job.to_string();
        let now = now_ms();
        match view {
            None => self.deliver(&Delivery::of_lost(watch.job, &watch.url, now)).await?,
            Some(view) if view.state.is_terminal() => {
                self.deliver(&Delivery::of(&view, &watch.url, now, &self.inner.results)?).await?
            }
            Some(view) => {
                if view.state == JobState::Failed && view.attempts > watch.failures_told {
                    self.deliver(&Delivery::of(&view, &watch.url, now, &self.inner.results)?).await?;
                    watch.failures_told = view.attempts;
                }
                let pause = pause(now.saturating_sub(watch.since_ms));
                self.inner.metadata.move_timer(SUBSCRIPTIONS, &key, &watch.encode()?, pause).await?;
                return Ok(());
            }
        }
        self.inner.metadata.remove_timer(SUBSCRIPTIONS, &key).await.map(drop)
    }
}

/// A quarter of the job's age, within bounds: a job that takes an hour is told
/// of a minute late at most, and costs a look a minute.
fn pause(age_ms: u64) -> Duration {
    Duration::from_millis(age_ms / 4).clamp(FIRST_CHECK, LONGEST_PAUSE)
}
