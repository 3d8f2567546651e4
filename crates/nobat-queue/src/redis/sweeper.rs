//! What time does to a queue nobody is busy with: due jobs become ready, leases
//! of dead workers come back, deadlines pass.
//!
//! A busy worker's every call does this by the way. For an idle queue exactly one
//! process is the sweeper (a key with a ttl, taken by the tick script); the others
//! check once per [`CHECK_EVERY`] whether it is still there, all their queues in one
//! command. An idle process so costs Redis well under one command a second,
//! however many models it serves.
//!
//! A worker does so for the queues it consumes. A gateway does for every queue of
//! the deployment: a deadline passes though no worker is there.
//!
//! Each sweep is also the sign that the store can be reached: after a silence of most
//! of a lease the scripts give the leases that ran out meanwhile another chance. The
//! next process takes over well before: [`PAUSE`], the ttl's second and [`CHECK_EVERY`].

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use redis::Value;

use super::connection::{Fault, fault};
use super::keys::QueueKeys;
use super::scripts;
use super::store::RedisStore;

/// How often a process checks whether another's sweeper lives.
const CHECK_EVERY: Duration = Duration::from_secs(4);
/// The sweeper's longest pause.
const PAUSE: Duration = Duration::from_secs(5);
/// How often a gateway looks for queues that others made.
const DISCOVER_EVERY: Duration = Duration::from_secs(30);
/// How soon a sweep that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Runs until the process's store is dropped.
pub(crate) async fn run(store: Weak<RedisStore>) {
    let mut discovered: Option<Instant> = None;
    // Logged once.
    let mut failing = false;
    loop {
        let Some(strong) = store.upgrade() else { return };
        let sweeps = strong.sweeps.clone();
        if sweeps.sweeps_all() && discovered.is_none_or(|at| at.elapsed() >= DISCOVER_EVERY) {
            discovered = Some(Instant::now());
            // Each becomes known by it; where the store is away, another time.
            let _ = strong.all_queues().await;
        }
        let (due, next) = sweeps.due();
        if due.is_empty() {
            drop(strong);
            let pause = next.map_or(CHECK_EVERY, |at| at.saturating_duration_since(Instant::now()).min(CHECK_EVERY));
            let _ = tokio::time::timeout(pause, sweeps.changed()).await;
            continue;
        }
        let (ours, others): (Vec<_>, Vec<_>) = due.into_iter().partition(|(_, is_sweeper)| *is_sweeper);
        let vacant = vacant(&strong, others).await;
        let mut reached = true;
        for queue in ours.into_iter().map(|(queue, _)| queue).chain(vacant) {
            match reached {
                true => reached = sweep(&strong, &queue, &mut failing).await,
                // The others would wait for the same store.
                false => sweeps.plan(&queue, false, RETRY_AFTER),
            }
        }
    }
}

/// Those of the queues whose sweeper is gone; the rest are checked later.
async fn vacant(store: &RedisStore, queues: Vec<(Arc<QueueKeys>, bool)>) -> Vec<Arc<QueueKeys>> {
    let mut keys = queues.iter().map(|(queue, _)| queue.own("keeper"));
    let mut replies = Vec::with_capacity(queues.len());
    if store.endpoint.is_cluster() {
        for key in keys {
            replies.push(store.manager.send(redis::cmd("GET").arg(key)).await.unwrap_or(Value::Okay));
        }
    } else if !queues.is_empty() {
        // One command for all of them where the server allows it.
        let mget = keys.by_ref().fold(redis::cmd("MGET"), |mut mget, key| mget.arg(key).to_owned());
        if let Ok(Value::Array(answered)) = store.manager.send(&mget).await {
            replies = answered;
        }
    }
    let mut vacant = Vec::new();
    for (at, (queue, _)) in queues.into_iter().enumerate() {
        match replies.get(at) {
            Some(Value::Nil) => vacant.push(queue),
            _ => store.sweeps.plan(&queue, false, check_after(store)),
        }
    }
    vacant
}

/// Sweeps a queue; false when the store cannot be reached.
async fn sweep(store: &RedisStore, queue: &QueueKeys, failing: &mut bool) -> bool {
    let settings = &store.settings;
    let mut cmd = scripts::TICK.on(&queue.base);
    cmd.arg(&store.process[..])
        .arg(pause(store).as_micros() as u64)
        .arg(settings.max_dead)
        .arg(u64::from(settings.dead_ttl_s) * 1000)
        .arg(store.prefix.client_channel())
        .arg(u64::from(settings.lease_ms) * 1000)
        .arg(u8::from(settings.index));
    match store.manager.send(&cmd).await {
        Ok(reply) => {
            match redis::from_redis_value::<(u8, u64)>(reply) {
                Ok((1, wait_us)) => store.sweeps.plan(queue, true, Duration::from_micros(wait_us)),
                _ => store.sweeps.plan(queue, false, check_after(store)),
            }
            if std::mem::take(failing) {
                log::info!("the queues are swept again");
            }
            true
        }
        Err(e) => {
            store.sweeps.plan(queue, false, RETRY_AFTER);
            if !std::mem::replace(failing, true) {
                log::warn!(model = queue.model.as_str(); "the queues cannot be swept, it is tried again by itself: {e}");
            }
            // What one queue's keys are to blame for says nothing about the others.
            fault(&e) == Fault::Permanent
        }
    }
}

/// Never longer than a third of a lease: leases begin without a signal.
fn pause(store: &RedisStore) -> Duration {
    PAUSE.min(Duration::from_millis(u64::from(store.settings.lease_ms) / 3)).max(Duration::from_millis(20))
}

fn check_after(store: &RedisStore) -> Duration {
    CHECK_EVERY.min(pause(store)).mul_f64(rand::random_range(0.8..1.0))
}
