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

use super::Inner;
use super::connect::{CONNECT_TIMEOUT, Hub, unavailable};

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(1);
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Beats that fail before the connection is given up.
const MISSED_MOST: u32 = 3;
/// Between two tries while there is trouble.
const AGAIN: Duration = Duration::from_millis(150);
/// How long a trial write is kept.
const TRIAL_MS: u64 = 1_000;

/// What is held against the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// A connection, by its hub's number.
    Connection(u64),
    /// Writes to a queue, by its base: in a cluster each has its own server.
    Writes(String),
}

/// Whether this failure of an enqueue says that others would fail too.
pub(crate) fn refuses(error: &RedisError) -> bool {
    matches!(
        error.code(),
        Some("OOM" | "MISCONF" | "NOREPLICAS" | "READONLY" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN")
    )
}

/// Keeps the store's condition until the process's store is dropped.
pub(crate) async fn run(inner: Weak<Inner>) {
    let mut missed = 0;
    loop {
        let Some(strong) = inner.upgrade() else { return };
        // Who only works needs no readiness for jobs.
        if strong.accepts.load(Ordering::Relaxed) {
            beat(&strong.hub, &mut missed).await;
            for cause in strong.refusals.causes() {
                if let Cause::Writes(base) = &cause
                    && trial(&strong, base).await.is_ok()
                {
                    strong.refusals.clear(&cause);
                }
            }
        }
        let pause = if strong.refusals.causes().is_empty() { BEAT } else { AGAIN };
        drop(strong);
        tokio::time::sleep(pause).await;
    }
}

async fn beat(hub: &Hub, missed: &mut u32) {
    match tokio::time::timeout(PATIENCE, hub.send(&redis::cmd("PING"))).await {
        // The hub has drawn its own conclusion.
        Ok(_) => *missed = 0,
        Err(_) => {
            *missed += 1;
            hub.failed(unavailable(&format!("no answer within {} ms", PATIENCE.as_millis())));
            if missed.is_multiple_of(MISSED_MOST) {
                hub.broken_now();
            }
        }
    }
}

/// Writes as an enqueue would.
async fn trial(inner: &Inner, base: &str) -> RedisResult<()> {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("SET").arg(format!("{base}probe")).arg("").arg("PX").arg(TRIAL_MS);
    inner.hub.send_all(&pipeline).await.map(drop::<Vec<Value>>)
}

/// Opens a connection again as soon as it is in trouble, not when the next caller
/// needs it.
pub(crate) async fn mend(hub: &Hub) {
    loop {
        hub.in_trouble().await;
        for tries in 1_u32.. {
            // Short tries see the end soon; a far server may need a longer one.
            let patience = if tries.is_multiple_of(5) { CONNECT_TIMEOUT * 2 } else { PATIENCE };
            let _ = tokio::time::timeout(patience, hub.send(&redis::cmd("PING"))).await;
            if !hub.is_troubled() {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}
