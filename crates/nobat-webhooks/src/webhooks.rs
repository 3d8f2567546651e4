//! One gateway's webhooks: its settings at work over the deployment's metadata.

use std::sync::Arc;
use std::time::Duration;

use nobat_core::{Error, Result};
use nobat_queue::MetadataStore;
use nobat_runtime::Metrics;
use prometheus::{IntCounterVec, opts};
use tokio::sync::Notify;

use crate::delivery::{DELIVERIES, Delivery, ResultView, Results};
use crate::outbound::{Outbound, WebhookSecret};
use crate::pace::Breakers;
use crate::settings::WebhookSettings;

/// A gateway's webhooks. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) metadata: Arc<dyn MetadataStore>,
    pub(crate) outbound: Outbound,
    pub(crate) secrets: Vec<WebhookSecret>,
    pub(crate) retry_s: Vec<u32>,
    pub(crate) results: Results,
    pub(crate) breakers: Breakers,
    pub(crate) attempts: IntCounterVec,
    /// Rung when a watched job may have ended or a delivery may be due.
    pub(crate) work: Notify,
}

impl Webhooks {
    /// Sets up sending; [`crate::sender::run`] does it.
    ///
    /// # Errors
    /// `invalid_parameter` for a secret that is none.
    pub fn new(
        settings: &WebhookSettings,
        metadata: Arc<dyn MetadataStore>,
        view: ResultView,
        metrics: &Metrics,
    ) -> Result<Webhooks> {
        let secrets = settings.parsed()?;
        let outbound = Outbound::new(settings.addresses, settings.concurrent)?;
        let options = opts!("nobat_webhook_attempts_total", "Webhook attempts by outcome.");
        let attempts =
            IntCounterVec::new(options, &["outcome"]).map_err(|error| Error::internal(format!("metrics: {error}")))?;
        metrics.register(attempts.clone());
        let inner = Inner {
            metadata,
            outbound,
            secrets,
            retry_s: settings.retry_s.clone(),
            results: Results {
                max_bytes: settings.max_result_bytes,
                base: settings.public_url.trim_end_matches('/').to_owned(),
                view,
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
    pub(crate) async fn deliver(&self, delivery: &Delivery) -> Result<()> {
        let json = delivery.encode()?;
        self.inner.metadata.add_timer(DELIVERIES, &delivery.id, &json, Duration::ZERO).await?;
        self.inner.work.notify_one();
        Ok(())
    }
}
