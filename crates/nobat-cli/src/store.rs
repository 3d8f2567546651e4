//! Opens the deployment's queue: Redis where a URL is set, else the embedded store.

use std::sync::Arc;

use anyhow::{Context, Result};
use nobat_queue::Queue;
use nobat_queue::redis::RedisQueue;
use nobat_queue::sqlite::SqliteQueue;

use crate::config::Settings;

/// Opens the queue that `settings` name.
pub(crate) async fn open(settings: &Settings) -> Result<Arc<dyn Queue>> {
    let (store, queue) = (&settings.store, settings.queue.clone());
    if store.redis.is_empty() {
        return Ok(SqliteQueue::open(&store.data, queue)?);
    }
    let redis = RedisQueue::connect(store.redis.expose(), queue, &store.prefix)
        .await
        .with_context(|| format!("cannot use the queue at {}", store.redis.shown()))?;
    Ok(redis)
}
