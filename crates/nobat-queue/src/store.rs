//! Where a deployment's jobs live, as an operator sets it.

use std::path::PathBuf;
use std::sync::Arc;

use nobat_core::secret::{SecretUrl, shown_url};
use nobat_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::api::{Queue, QueueSettings};
use crate::redis::RedisQueue;
use crate::sqlite::SqliteQueue;

/// Where jobs live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// Redis URL; empty: the embedded store under `data`.
    pub redis: SecretUrl,
    /// What every Redis key begins with; deployments that share a Redis differ here.
    pub prefix: String,
    /// Folder of the embedded store.
    pub data: PathBuf,
}

impl Default for StoreSettings {
    fn default() -> StoreSettings {
        StoreSettings { redis: SecretUrl::default(), prefix: "nobat".into(), data: ".nobat/data".into() }
    }
}

impl StoreSettings {
    /// Opens the queue: on Redis where a URL is set, else the embedded one.
    ///
    /// # Errors
    /// `queue_unavailable`, `invalid_parameter`, with the store's address.
    pub async fn open(&self, queue: QueueSettings) -> Result<Arc<dyn Queue>> {
        match self.redis.is_empty() {
            true => Ok(SqliteQueue::open(&self.data, queue)?),
            false => Ok(self.open_redis(queue).await?),
        }
    }

    /// Opens the queue on Redis, on this machine where no URL is set.
    ///
    /// # Errors
    /// As [`StoreSettings::open`].
    pub async fn open_redis(&self, queue: QueueSettings) -> Result<Arc<RedisQueue>> {
        let url = self.redis_or_local();
        RedisQueue::connect(url, queue, &self.prefix).await.map_err(|error| Error {
            message: format!("cannot use the queue at {}: {}", shown_url(url), error.message),
            ..error
        })
    }

    /// The Redis URL, or Redis on this machine where none is set.
    pub fn redis_or_local(&self) -> &str {
        match self.redis.expose() {
            "" => "redis://127.0.0.1:6379",
            url => url,
        }
    }
}
