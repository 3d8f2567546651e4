//! What an operator may set about serving, gathered.

use std::time::Duration;

use nobat_core::{Error, Result};
use nobat_webhooks::WebhookSettings;
use nobat_webhooks::outbound::FetchSettings;
use smol_str::SmolStr;

use crate::audit::AuditConfig;
use crate::auth::AuthConfig;
use crate::cache::CacheOverrides;
use crate::limits::LimitsConfig;
use crate::monitor::MonitorConfig;
use crate::record::RecordConfig;
use crate::routing::{Route, Table};

/// Settings of serving; a gateway's configuration has them under its own keys.
#[derive(Clone, Debug)]
pub struct ServingSettings {
    /// Longest wait that a caller may ask for; more is cut to this.
    pub max_wait: Duration,
    /// How long a protocol without jobs waits for its answer when the caller names no deadline.
    pub sync_timeout: Duration,
    /// Model of the calls that name none; empty: the only one there is.
    pub default_model: SmolStr,
    /// How callers are told apart.
    pub auth: AuthConfig,
    /// How long the log of changes is kept.
    pub audit: AuditConfig,
    /// How much is let in.
    pub limits: LimitsConfig,
    /// What is watched, and who is told.
    pub monitor: MonitorConfig,
    /// Which requests are recorded to be replayed.
    pub record: RecordConfig,
    /// Result caches by model; stands over the models' own settings.
    pub cache: CacheOverrides,
    /// Exchanges; admin calls change them at run time.
    pub routes: Vec<Route>,
    /// Webhooks on jobs.
    pub webhooks: WebhookSettings,
    /// Where pictures may be fetched from.
    pub fetch: FetchSettings,
}

impl ServingSettings {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the key and the remedy.
    pub fn validate(&self) -> Result<()> {
        self.audit.validate()?;
        self.monitor.validate()?;
        self.record.validate()?;
        self.webhooks.validate()?;
        self.fetch.validate()?;
        Table::build(self.routes.iter().cloned())?;
        self.cache.iter().try_for_each(|(model, cache)| {
            cache.validate().map_err(|error| Error::invalid(format!("model `{model}`: {}", error.message)))
        })
    }
}
