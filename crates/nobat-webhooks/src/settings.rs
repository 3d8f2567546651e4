//! What an operator may set about webhooks.

use nobat_core::secret::Secret;
use nobat_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::outbound::{AddressPolicy, WebhookSecret};
use crate::pace;

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
            return Err(Error::invalid("webhooks.concurrent is 0; take at least 1"));
        }
        let web = |url: &str| url.starts_with("https://") || url.starts_with("http://");
        if !self.public_url.is_empty() && !web(&self.public_url) {
            return Err(Error::invalid(format!(
                "webhooks.public_url is `{}`; give scheme and host, such as `https://models.example.com`",
                self.public_url
            )));
        }
        self.parsed().map(drop)
    }

    /// The secrets, read.
    pub(crate) fn parsed(&self) -> Result<Vec<WebhookSecret>> {
        let parse = |secret: &Secret| {
            WebhookSecret::parse(secret.expose())
                .map_err(|error| Error { message: format!("webhooks.secrets: {}", error.message), ..error })
        };
        self.secrets.iter().map(parse).collect()
    }
}
