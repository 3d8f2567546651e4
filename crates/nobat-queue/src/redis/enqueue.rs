//! One coalesced enqueue call: how it is put for the script, sent until it is
//! answered, and what its verdicts mean.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nobat_core::job::{Idempotency, NewJob};
use nobat_core::{Error, ErrorCode, IdIssuer, JobId, OwnerId, Result};
use redis::{Cmd, Pipeline, RedisResult, Value};
use tokio::sync::oneshot;

use super::client::{Shared, Travelling};
use super::connect::{Backoff, Fault, coded, fault};
use super::keys::{QueueKeys, job_of, key_of};
use super::pulse::{self, Cause};
use super::record::{self, Encoded};
use super::{Inner, scripts, written};
use crate::api::Accepted;

/// Payload bytes that travel within the usual time for a reply.
const PROMPT_BYTES: usize = 4 << 20;
/// How long an enqueue waits out a fault before its caller is refused.
const PATIENCE: Duration = Duration::from_secs(2);
/// A payload beside its record is dropped after this if the job never came.
const STRAY_MS: u64 = 600_000;

/// A job on its way into the store.
pub(crate) struct Outgoing {
    pub(crate) queue: Arc<QueueKeys>,
    pub(crate) id: JobId,
    /// Who waits for the store's answer; nobody when the job's end is awaited.
    pub(crate) ack: Option<oneshot::Sender<Result<Accepted>>>,
    owner: OwnerId,
    priority: u8,
    encoded: Encoded,
    special: Option<Special>,
}

/// What few jobs have.
struct Special {
    delay: Duration,
    deadline: Duration,
    idempotency: Option<(u128, u128)>,
}

impl Outgoing {
    pub(crate) fn new(queue: Arc<QueueKeys>, id: JobId, job: &NewJob, client: Option<[u8; 8]>) -> Outgoing {
        let options = &job.options;
        let plain = options.delay.is_none() && options.deadline.is_none() && options.idempotency.is_none();
        let special = (!plain).then(|| Special {
            delay: options.delay.unwrap_or_default(),
            // A deadline of nothing is over at once, which 0 would not say.
            deadline: options.deadline.map_or(Duration::ZERO, |deadline| deadline.max(Duration::from_micros(1))),
            idempotency: options.idempotency.as_ref().map(|own| (idempotency_key(job.owner, own), own.fingerprint)),
        });
        Outgoing {
            queue,
            id,
            ack: None,
            owner: job.owner,
            priority: options.priority,
            encoded: record::encode(job, id.tombstone_min, client),
            special,
        }
    }

    /// Bytes it brings into a call, beside the script or in it.
    pub(crate) fn bytes(&self) -> usize {
        self.encoded.rest.len() + self.blob().map_or(0, Bytes::len)
    }

    fn blob(&self) -> Option<&Bytes> {
        self.encoded.blob.as_ref()
    }
}

/// Sends one queue's jobs until the store has answered, and tells the callers.
pub(crate) async fn send(shared: Arc<Shared>, mut batch: Vec<Outgoing>, _travelling: Travelling) {
    let Some(queue) = batch.first().map(|outgoing| outgoing.queue.clone()) else { return };
    let started = Instant::now();
    let mut backoff = Backoff::default();
    // A cluster's client repeats by itself what it has no answer to.
    let mut again = shared.inner.target.is_cluster();
    let reply = loop {
        let cmd = command(&shared.inner, &queue, &batch, again);
        match send_once(&shared, &queue, &batch, cmd).await {
            Ok(reply) => {
                if !shared.inner.refusals.is_empty() {
                    shared.inner.refusals.clear(&Cause::Writes(queue.base.clone()));
                }
                break Ok(reply);
            }
            Err(e) => {
                if pulse::refuses(&e) {
                    shared.inner.refusals.raise(Cause::Writes(queue.base.clone()), coded(&e));
                }
                if fault(&e) == Fault::Ours || started.elapsed() > PATIENCE {
                    break Err(coded(&e));
                }
                tokio::time::sleep(backoff.next()).await;
            }
        }
        again = true;
    };
    let verdicts = reply.and_then(|reply| verdicts(&batch, reply, &queue, shared.inner.ids));
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
                shared.answer(outgoing, verdict);
            }
        }
        Err(e) => batch.iter_mut().for_each(|outgoing| shared.answer(outgoing, Err(e.clone()))),
    }
}

async fn send_once(shared: &Shared, queue: &QueueKeys, batch: &[Outgoing], cmd: Cmd) -> RedisResult<Value> {
    let server = &shared.inner.server;
    let wait = server.wait(shared.inner.settings.durability, PATIENCE);
    // Who waits for a job's end needs no word that it is kept.
    let kept = wait.is_none() && server.append_only() && batch.iter().any(|outgoing| outgoing.ack.is_some());
    let beside: Vec<_> = batch.iter().filter_map(|outgoing| outgoing.blob().map(|blob| (outgoing.id, blob))).collect();
    if beside.is_empty() && wait.is_none() && !kept {
        return shared.hub.send(&cmd).await;
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
        pipeline.add_command(written::question());
    }
    let (mut link, generation) = shared.hub.link().await?;
    if bytes > PROMPT_BYTES {
        link.patient_for(bytes);
    }
    let replies = match link.send_all(&pipeline).await {
        Ok(replies) if kept => written::wait(&mut link, queue, replies.last()).await.map(|()| replies),
        other => other,
    };
    let mut replies = shared.hub.judge(replies, generation)?;
    if let Some(lacks) = wait.and_then(|wait| wait.lacks(replies.last())) {
        return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, lacks).into());
    }
    Ok(replies.swap_remove(script_at))
}

/// The script call. `again`: it may have run before, without an answer.
fn command(inner: &Inner, queue: &QueueKeys, batch: &[Outgoing], again: bool) -> Cmd {
    let settings = &inner.settings;
    let specials = batch.iter().filter(|outgoing| outgoing.special.is_some()).count();
    let mut cmd = scripts::ENQUEUE.on(&queue.base);
    cmd.arg(batch.len())
        .arg(specials)
        .arg(settings.aging().step_us())
        .arg(settings.max_jobs)
        .arg(settings.max_bytes)
        .arg(u64::from(settings.idempotency_ttl_s) * 1000)
        .arg(inner.prefix.keeper_channel())
        .arg(u8::from(again))
        .arg(inner.prefix.hand_channel());
    for outgoing in batch {
        cmd.arg(&key_of(outgoing.id)[..])
            .arg(&[record::state::PENDING, 0, 0, outgoing.encoded.flags][..])
            .arg(outgoing.priority)
            .arg(&outgoing.encoded.rest);
    }
    for (index, outgoing) in batch.iter().enumerate() {
        let Some(special) = &outgoing.special else { continue };
        cmd.arg(index + 1).arg(special.delay.as_micros() as u64).arg(special.deadline.as_micros() as u64);
        match special.idempotency {
            Some((key, fingerprint)) => {
                let mut detail = [0; 20];
                detail[..16].copy_from_slice(&fingerprint.to_le_bytes());
                detail[16..].copy_from_slice(&outgoing.id.tombstone_min.to_le_bytes());
                cmd.arg(format!("{key:032x}")).arg(&detail[..]);
            }
            None => {
                cmd.arg("").arg("");
            }
        }
    }
    cmd
}

/// What the script made of a batch.
struct Verdicts {
    /// What it did not plainly accept, by place in the batch.
    exceptions: Vec<(usize, Result<Accepted>)>,
    /// When it enqueued the first that it accepted, if it says.
    created_us: Option<u64>,
}

fn verdicts(batch: &[Outgoing], reply: Value, queue: &QueueKeys, ids: IdIssuer) -> Result<Verdicts> {
    let Value::Array(parts) = reply else { return Err(super::unexpected("an enqueue's reply", &reply)) };
    let mut exceptions = Vec::with_capacity(parts.len() / 3);
    let mut created_us = None;
    for part in parts.chunks(3) {
        if let [Value::Int(0), _, Value::Int(at)] = part {
            created_us = u64::try_from(*at).ok();
            continue;
        }
        let [Value::Int(index), Value::BulkString(verdict), detail] = part else {
            return Err(super::unexpected("an enqueue's reply", &Value::Nil));
        };
        let index = (*index as usize).saturating_sub(1);
        let Some(outgoing) = batch.get(index) else { continue };
        exceptions.push((index, verdict_of(outgoing, verdict, detail, queue, ids)));
    }
    Ok(Verdicts { exceptions, created_us })
}

fn verdict_of(
    outgoing: &Outgoing,
    verdict: &[u8],
    detail: &Value,
    queue: &QueueKeys,
    ids: IdIssuer,
) -> Result<Accepted> {
    match (verdict, detail) {
        (b"full", Value::Int(after_ms)) => Err(Error::new(
            ErrorCode::QueueFull,
            format!("the queue of model `{}` is full; try again later, add workers or raise its limit", queue.model),
        )
        .retry_after(Duration::from_millis((*after_ms).max(1) as u64))),
        (b"duplicate", Value::BulkString(first)) => first
            .split_first_chunk()
            .and_then(|(horizon, key)| Some((u32::from_le_bytes(*horizon), job_of(key)?)))
            .map(|(horizon, random)| Accepted {
                id: ids.issue(random, horizon, queue.number, outgoing.owner),
                duplicate: true,
                created_at_ms: None,
            })
            .ok_or_else(|| super::unexpected("an earlier job", detail)),
        (b"mismatch", _) => Err(Error::new(
            ErrorCode::IdempotencyMismatch,
            "this idempotency key came with another request before (body or parameters differ); use a new key",
        )),
        _ => Err(super::unexpected("a verdict", detail)),
    }
}

/// The store's name for a caller's idempotency key, whatever its length and
/// content.
fn idempotency_key(owner: OwnerId, own: &Idempotency) -> u128 {
    xxhash_rust::xxh3::xxh3_128_with_seed(own.key.as_bytes(), owner.0)
}
