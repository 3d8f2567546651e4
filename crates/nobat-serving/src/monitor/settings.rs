//! What an operator may set about the monitor.

use nobat_core::secret::{Secret, SecretUrl};
use nobat_core::{Error, Result};
use nobat_webhooks::outbound::AddressPolicy;
use serde::{Deserialize, Serialize};

/// What an operator may set about the monitor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MonitorConfig {
    /// Seconds between two looks.
    pub every_s: u32,
    /// Where changes are posted; empty: they are only logged.
    pub webhook: SecretUrl,
    /// Signs them (`whsec_…`); empty: unsigned.
    pub webhook_secret: Secret,
    /// What the webhook may reach beyond public https.
    pub addresses: AddressPolicy,
    /// Oldest queued job of any model older than this, in seconds: failing.
    pub max_queue_age_s: u32,
    /// Share of predictions that fail on our side over the last minute: failing.
    pub max_error_rate: f64,
    /// Chance that a model that is as its profile says is ever told to drift.
    pub drift_level: f64,
    /// Share of the rows that must have moved between classes or bins for it to count as drift.
    pub drift_moved: f64,
    /// Free bytes under `disk`: failing below.
    pub min_disk_bytes: u64,
    /// A folder of the file system to watch; empty: that of the embedded store, or
    /// the working folder where the store is elsewhere.
    pub disk: String,
}

impl Default for MonitorConfig {
    fn default() -> MonitorConfig {
        MonitorConfig {
            every_s: 2,
            webhook: SecretUrl::default(),
            webhook_secret: Secret::default(),
            addresses: AddressPolicy::default(),
            max_queue_age_s: 60,
            max_error_rate: 0.05,
            drift_level: 0.01,
            drift_moved: 0.02,
            min_disk_bytes: 512 << 20,
            disk: String::new(),
        }
    }
}

impl MonitorConfig {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the key and the remedy.
    pub fn validate(&self) -> Result<()> {
        let refuse = |why: &str| Err(Error::invalid(why));
        if self.every_s == 0 {
            return refuse("monitor.every_s is 0; give at least 1");
        }
        if !(0.0..=1.0).contains(&self.max_error_rate) {
            return refuse("monitor.max_error_rate is a share; give 0 to 1");
        }
        if !(self.drift_level > 0.0 && self.drift_level < 1.0) {
            return refuse("monitor.drift_level is a chance; give more than 0 and less than 1, such as 0.01");
        }
        if !(0.0..=1.0).contains(&self.drift_moved) {
            return refuse("monitor.drift_moved is a share; give 0 to 1, such as 0.02 for two points");
        }
        if self.webhook.is_empty() && !self.webhook_secret.is_empty() {
            return refuse("monitor.webhook_secret needs monitor.webhook; give both or neither");
        }
        Ok(())
    }
}
