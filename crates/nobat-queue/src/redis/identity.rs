//! What the ids of jobs mean: the secret that they are keyed with, and the numbers of the
//! queues in them.
//!
//! Every process reads both once and goes by them for its life. A server that lost its data
//! (it was started again without its file, or flushed) is given them back by the gateways
//! that still run, within a second: else whoever starts next makes others, and no
//! process knows the jobs of the other. The jobs that were lost stay lost.

use std::sync::atomic::Ordering;

use redis::{Pipeline, RedisResult, Value};

use super::store::RedisStore;

/// Looks whether the server still has both, and gives it back what it lacks.
pub(crate) async fn keep(store: &RedisStore) -> RedisResult<()> {
    let (secret, queues) = (store.prefix.global("secret"), store.prefix.global("queues"));
    let mut look = Pipeline::new();
    look.cmd("GET").arg(&secret);
    look.cmd("HLEN").arg(&queues);
    let found = store.manager.send_all(&look).await?;
    let numbered = match &found[..] {
        [Value::Nil, Value::Int(numbered)] => {
            let give = redis::cmd("SET").arg(&secret).arg(&store.secret[..]).arg("NX").clone();
            // Where another was quicker the next look tells whose it is.
            if store.manager.send(&give).await? == Value::Nil {
                return Ok(());
            }
            log::warn!(
                "redis has lost its data: it is told the secret of job ids and its queues again; jobs that it had are gone"
            );
            *numbered
        }
        [Value::BulkString(known), Value::Int(numbered)] if known[..] == store.secret => *numbered,
        [Value::BulkString(_), _] => {
            if !store.displaced.swap(true, Ordering::Relaxed) {
                log::error!(
                    "redis has another secret of job ids than this process began with: other processes do not know its jobs; start it again"
                );
            }
            return Ok(());
        }
        _ => return Ok(()),
    };
    let known = store.known_queues();
    if usize::try_from(numbered).unwrap_or_default() >= known.len() {
        return Ok(());
    }
    let mut give = Pipeline::new();
    for queue in known {
        give.cmd("HSETNX").arg(&queues).arg(queue.model.as_str()).arg(queue.number);
    }
    store.manager.send_all(&give).await.map(drop)
}
