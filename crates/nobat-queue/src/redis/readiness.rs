//! Whether this deployment takes jobs, followed by what happens to its connections
//! and its enqueues: what readiness shows.
//!
//! Two kinds of trouble are held against it, each until it is over:
//! - a connection that broke, cannot be opened or does not answer: of a gateway
//!   thread, or the one this module asks for a sign of life once a second, because
//!   a connection that was cut off silently says nothing by itself;
//! - a server that refuses an enqueue (no memory, no disk, a replica): a read would
//!   not show it, nor the end of it, so that is tried with a write.
//!
//! While there is trouble it is tried again several times a second, so that its end
//! is seen without a caller.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Pipeline, RedisError, RedisResult, Value};

use super::connection::{CONNECT_TIMEOUT, ConnectionManager, RefusalCause, unavailable};
use super::identity;
use super::store::RedisStore;

/// Between two signs of life.
const PING_EVERY: Duration = Duration::from_secs(1);
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pings that fail before the connection is given up.
const MISSED_MOST: u32 = 3;
/// Between two tries while there is trouble.
const RETRY_EVERY: Duration = Duration::from_millis(150);
/// How long a probe's write is kept.
const PROBE_MS: u64 = 1_000;

/// Whether this failure of an enqueue says that others would fail too.
pub(crate) fn refuses(error: &RedisError) -> bool {
    matches!(
        error.code(),
        Some("OOM" | "MISCONF" | "NOREPLICAS" | "READONLY" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN")
    )
}

/// Keeps the store's condition until the process's store is dropped.
pub(crate) async fn run(store: Weak<RedisStore>) {
    let mut missed = 0;
    loop {
        let Some(strong) = store.upgrade() else { return };
        // Who only works needs no readiness for jobs.
        if strong.accepts.load(Ordering::Relaxed) {
            ping(&strong.manager, &mut missed).await;
            // What cannot be asked now is asked again.
            let _ = tokio::time::timeout(PATIENCE, identity::keep(&strong)).await;
            for cause in strong.refusals.causes() {
                if let RefusalCause::Writes(base) = &cause
                    && write_probe(&strong, base).await.is_ok()
                {
                    strong.refusals.clear(&cause);
                }
            }
        }
        let pause = if strong.refusals.causes().is_empty() { PING_EVERY } else { RETRY_EVERY };
        drop(strong);
        tokio::time::sleep(pause).await;
    }
}

async fn ping(manager: &ConnectionManager, missed: &mut u32) {
    match tokio::time::timeout(PATIENCE, manager.send(&redis::cmd("PING"))).await {
        // The hub has drawn its own conclusion.
        Ok(_) => *missed = 0,
        Err(_) => {
            *missed += 1;
            manager.failed(unavailable(&format!("no answer within {} ms", PATIENCE.as_millis())));
            if missed.is_multiple_of(MISSED_MOST) {
                manager.reset();
            }
        }
    }
}

/// Writes as an enqueue would.
async fn write_probe(store: &RedisStore, base: &str) -> RedisResult<()> {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("SET").arg(format!("{base}probe")).arg("").arg("PX").arg(PROBE_MS);
    store.manager.send_all(&pipeline).await.map(drop::<Vec<Value>>)
}

/// Opens a connection again as soon as it is in trouble, not when the next caller
/// needs it.
pub(crate) async fn reconnect(manager: &ConnectionManager) {
    loop {
        manager.until_failing().await;
        for tries in 1_u32.. {
            // Short tries see the end soon; a far server may need a longer one.
            let patience = if tries.is_multiple_of(5) { CONNECT_TIMEOUT * 2 } else { PATIENCE };
            let _ = tokio::time::timeout(patience, manager.send(&redis::cmd("PING"))).await;
            if !manager.is_failing() {
                break;
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }
}
