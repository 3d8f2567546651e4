//! Looking up waiters whose message may have been lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use redis::{Pipeline, RedisResult, Value};

use super::super::keys::{QueueKeys, key_of_random};
use super::super::record;
use super::state::ClientState;
use super::waiters::Completion;

/// Waiters older than this are looked up, in case a message was lost.
const RECHECK: Duration = Duration::from_secs(5);
/// Waiters looked up in one go.
const RECHECK_MAX: usize = 500;

/// Keeps the connection up while somebody waits, and looks up waiters whose
/// message may have been lost.
pub(crate) async fn run(state: Arc<ClientState>) {
    let waiters = state.waiters.clone();
    loop {
        let recheck_due = tokio::time::timeout(RECHECK, waiters.recheck_due.notified()).await.is_ok();
        let connection_lost = waiters.connection_lost.swap(false, Ordering::AcqRel);
        if recheck_due && connection_lost {
            state.manager.reset();
        }
        if waiters.is_empty() {
            continue;
        }
        let (age, limit) = if connection_lost { (Duration::ZERO, usize::MAX) } else { (RECHECK, RECHECK_MAX) };
        let mut failed = false;
        for (queue, jobs) in waiters.older_than(age, limit).into_values() {
            for jobs in jobs.chunks(RECHECK_MAX) {
                failed |= recheck(&state, &queue, jobs).await.is_err();
            }
        }
        if failed {
            // Not before the connection manager's own pause is over.
            tokio::time::sleep(Duration::from_millis(50)).await;
            if connection_lost {
                waiters.connection_lost.store(true, Ordering::Release);
                waiters.recheck_due.notify_one();
            }
        }
    }
}

/// Looks whether awaited jobs have ended.
async fn recheck(state: &ClientState, queue: &Arc<QueueKeys>, jobs: &[u128]) -> RedisResult<()> {
    // Before it is looked for: a job that arrives while the answer travels back
    // would be taken for one that is gone.
    let arriving: Vec<bool> = jobs.iter().map(|&job| state.waiters.is_enqueuing(job)).collect();
    let key = |job: u128| queue.job(&key_of_random(job));
    let mut pipeline = Pipeline::new();
    for &job in jobs {
        pipeline.cmd("GETRANGE").arg(key(job)).arg(0).arg(0);
    }
    let heads = state.manager.send_all(&pipeline).await?;
    state.waiters.touch(jobs);
    for ((&job, arriving), head) in jobs.iter().zip(arriving).zip(heads) {
        match head {
            Value::BulkString(first) if first.first() == Some(&record::state::PENDING) => {}
            Value::BulkString(first) if first.is_empty() => {
                if !arriving {
                    state.waiters.notify(job, || Completion::Gone);
                }
            }
            _ => {
                if let Value::BulkString(bytes) = state.manager.send(redis::cmd("GET").arg(key(job))).await? {
                    let bytes = Bytes::from(bytes);
                    state.waiters.notify(job, || Completion::Ended(bytes.clone()));
                }
            }
        }
    }
    Ok(())
}
