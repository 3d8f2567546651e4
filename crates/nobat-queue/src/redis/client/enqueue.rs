//! Sending what came together: coalesced enqueue calls, each until it is answered, and
//! the cancelling of jobs whose callers left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nobat_core::JobId;
use redis::{Cmd, Pipeline, RedisResult, Value};

use super::super::connection::{BACKOFF, Fault, RefusalCause, fault, to_error};
use super::super::keys::{QueueKeys, key_of};
use super::super::{readiness, scripts};
use super::aof_wait;
use super::outgoing::{OutgoingJob, Verdicts, command, verdicts};
use super::state::{ClientState, Outbox};
use crate::api::Accepted;

/// Most jobs one enqueue call carries: a third of a millisecond of Redis, for which
/// every other caller waits.
const BATCH_MAX: usize = 64;
/// Most payload bytes one enqueue call carries, unless one job alone has more: what
/// a server reads, and a connection holds back, at once.
const BATCH_BYTES: usize = 1 << 20;
/// While a call is under way, what arrives waits for its end and goes together; for
/// so long, so that a slow call holds nobody up.
const GATHER: Duration = Duration::from_millis(2);
/// Payload bytes that travel within the usual time for a reply.
const PROMPT_BYTES: usize = 4 << 20;
/// How long an enqueue waits out a fault before its caller is refused.
const PATIENCE: Duration = Duration::from_secs(2);
/// A payload beside its record is dropped after this if the job never came.
const STRAY_MS: u64 = 600_000;

/// Sends what came together, again and again.
pub(crate) async fn flush(state: Arc<ClientState>) {
    // Calls begin in the order they are added in: jobs that came to this client one
    // after the other reach an undisturbed store so, also in several calls.
    let mut calls = FuturesUnordered::new();
    let mut open_at = tokio::time::Instant::now();
    let mut filled = false;
    loop {
        tokio::select! {
            () = state.filled.notified() => filled = true,
            Some(()) = calls.next() => {}
            () = tokio::time::sleep_until(open_at), if filled => {}
        }
        if !filled || !calls.is_empty() && tokio::time::Instant::now() < open_at {
            continue;
        }
        filled = false;
        // Let whatever else is ready in this tick come along.
        tokio::task::yield_now().await;
        let Outbox { jobs, abandoned } = std::mem::take(&mut *state.outbox.lock());
        open_at = tokio::time::Instant::now() + GATHER;
        for batch in by_queue(jobs, |outgoing| &outgoing.queue, OutgoingJob::bytes) {
            calls.push(send(state.clone(), batch));
        }
        for batch in by_queue(abandoned, |(queue, _)| queue, |_| 0) {
            tokio::spawn(abandon(state.clone(), batch));
        }
    }
}

/// Splits by queue, keeping the order within each, and bounds a batch.
fn by_queue<T>(items: Vec<T>, queue: impl Fn(&T) -> &Arc<QueueKeys>, bytes: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut batches: Vec<Vec<T>> = Vec::new();
    let mut filled: Vec<usize> = Vec::new();
    for item in items {
        let size = bytes(&item);
        let last = batches.iter().rposition(|batch| Arc::ptr_eq(queue(&batch[0]), queue(&item)));
        match last.filter(|&at| batches[at].len() < BATCH_MAX && filled[at] + size <= BATCH_BYTES) {
            Some(at) => {
                batches[at].push(item);
                filled[at] += size;
            }
            None => {
                batches.push(vec![item]);
                filled.push(size);
            }
        }
    }
    batches
}

async fn abandon(state: Arc<ClientState>, batch: Vec<(Arc<QueueKeys>, JobId)>) {
    let Some((queue, _)) = batch.first() else { return };
    let mut cmd = scripts::CANCEL.on(&queue.base);
    cmd.arg("waiting").arg(state.store.prefix.client_channel()).arg(u8::from(state.store.settings.index));
    for (_, id) in &batch {
        cmd.arg(&key_of(*id)[..]);
    }
    if let Err(e) = state.manager.send(&cmd).await {
        log::debug!(model = queue.model.as_str(), jobs = batch.len(); "jobs whose callers left could not be cancelled and will run: {e}");
    }
}

/// Sends one queue's jobs until the store has answered, and tells the callers.
async fn send(state: Arc<ClientState>, mut batch: Vec<OutgoingJob>) {
    let Some(queue) = batch.first().map(|outgoing| outgoing.queue.clone()) else { return };
    let started = Instant::now();
    let mut backoff = BACKOFF;
    // A cluster's client repeats by itself what it has no answer to.
    let mut again = state.store.endpoint.is_cluster();
    let reply = loop {
        let cmd = command(&state.store, &queue, &batch, again);
        match send_once(&state, &queue, &batch, cmd).await {
            Ok(reply) => {
                if !state.store.refusals.is_empty() {
                    state.store.refusals.clear(&RefusalCause::Writes(queue.base.clone()));
                }
                break Ok(reply);
            }
            Err(e) => {
                if readiness::refuses(&e) {
                    state.store.refusals.raise(RefusalCause::Writes(queue.base.clone()), to_error(&e));
                }
                if fault(&e) == Fault::Permanent || started.elapsed() > PATIENCE {
                    break Err(to_error(&e));
                }
                tokio::time::sleep(backoff.jittered(rand::random())).await;
            }
        }
        again = true;
    };
    let verdicts = reply.and_then(|reply| verdicts(&batch, reply, &queue, state.store.ids));
    match verdicts {
        Ok(Verdicts { exceptions, mut created_us }) => {
            let mut exceptions = exceptions.into_iter().peekable();
            for (index, outgoing) in batch.iter_mut().enumerate() {
                let verdict = match exceptions.next_if(|(at, _)| *at == index) {
                    Some((_, verdict)) => verdict,
                    None => {
                        let created_at_ms = created_us.map(|us| us / 1_000);
                        // Places in the queue follow on each other.
                        created_us = created_us.map(|us| us + 1);
                        Ok(Accepted { id: outgoing.id, duplicate: false, created_at_ms })
                    }
                };
                state.answer(outgoing, verdict);
            }
        }
        Err(e) => batch.iter_mut().for_each(|outgoing| state.answer(outgoing, Err(e.clone()))),
    }
    state.waiters.enqueued(batch.iter().map(|outgoing| outgoing.id.random));
}

async fn send_once(state: &ClientState, queue: &QueueKeys, batch: &[OutgoingJob], cmd: Cmd) -> RedisResult<Value> {
    let server = &state.store.server;
    let wait = server.wait(state.store.settings.durability, PATIENCE);
    // Who waits for a job's end needs no word that it is kept.
    let kept = wait.is_none() && server.append_only() && batch.iter().any(|outgoing| outgoing.ack.is_some());
    let beside: Vec<_> = batch.iter().filter_map(|outgoing| outgoing.blob().map(|blob| (outgoing.id, blob))).collect();
    if beside.is_empty() && wait.is_none() && !kept {
        return state.manager.send(&cmd).await;
    }
    let bytes: usize = beside.iter().map(|(_, blob)| blob.len()).sum();
    let mut pipeline = Pipeline::new();
    for (id, blob) in beside {
        pipeline.cmd("SET").arg(queue.payload(&key_of(id))).arg(&blob[..]).arg("PX").arg(STRAY_MS);
    }
    pipeline.add_command(cmd);
    let script_at = pipeline.cmd_iter().count() - 1;
    // Behind the script on the same connection.
    if let Some(wait) = &wait {
        pipeline.add_command(wait.cmd.clone());
    } else if kept {
        pipeline.add_command(aof_wait::question());
    }
    let (mut connection, generation) = state.manager.connection().await?;
    if bytes > PROMPT_BYTES {
        connection.patient_for(bytes);
    }
    let replies = match connection.send_all(&pipeline).await {
        Ok(replies) if kept => aof_wait::wait(&mut connection, queue, replies.last()).await.map(|()| replies),
        other => other,
    };
    let mut replies = state.manager.observe(replies, generation)?;
    if let Some(lacks) = wait.and_then(|wait| wait.lacks(replies.last())) {
        return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, lacks).into());
    }
    Ok(replies.swap_remove(script_at))
}
