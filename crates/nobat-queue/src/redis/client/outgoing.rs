//! Jobs on their way into the store: how a call of many is put for the script, and
//! what its verdicts mean. Pure.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nobat_core::job::NewJob;
use nobat_core::score::rank;
use nobat_core::{Error, ErrorCode, IdIssuer, JobId, OwnerId, Result};
use redis::{Cmd, Value};
use tokio::sync::oneshot;

use super::super::connection::unexpected;
use super::super::index;
use super::super::keys::{QueueKeys, idempotency_key, job_of, key_of};
use super::super::record::{self, Encoded};
use super::super::scripts;
use super::super::store::RedisStore;
use crate::api::Accepted;
use crate::errors;
use crate::index::hashes;

/// A job on its way into the store.
pub(crate) struct OutgoingJob {
    pub(crate) queue: Arc<QueueKeys>,
    pub(crate) id: JobId,
    /// Who waits for the store's answer; nobody when the job's end is awaited.
    pub(crate) ack: Option<oneshot::Sender<Result<Accepted>>>,
    owner: OwnerId,
    rank: i16,
    encoded: Encoded,
    special: Option<SpecialOptions>,
    /// By what the index finds it.
    hashes: Vec<u64>,
    lives: Duration,
}

/// What few jobs have.
struct SpecialOptions {
    delay: Duration,
    deadline: Duration,
    idempotency: Option<(u128, u128)>,
}

impl OutgoingJob {
    pub(crate) fn new(queue: Arc<QueueKeys>, id: JobId, job: &NewJob, client: Option<[u8; 8]>) -> OutgoingJob {
        let options = &job.options;
        let plain = options.delay.is_none() && options.deadline.is_none() && options.idempotency.is_none();
        let special = (!plain).then(|| SpecialOptions {
            delay: options.delay.unwrap_or_default(),
            // A deadline of nothing is over at once, which 0 would not say.
            deadline: options.deadline.map_or(Duration::ZERO, |deadline| deadline.max(Duration::from_micros(1))),
            idempotency: options
                .idempotency
                .as_ref()
                .map(|own| (idempotency_key(job.owner, &own.key), own.fingerprint)),
        });
        OutgoingJob {
            queue,
            id,
            ack: None,
            owner: job.owner,
            rank: rank(options.priority, options.background),
            encoded: record::encode(job, id.tombstone_min, client),
            special,
            hashes: hashes(job),
            lives: options.delay.unwrap_or_default().saturating_add(options.result_ttl),
        }
    }

    /// Bytes it brings into a call, beside the script or in it.
    pub(crate) fn bytes(&self) -> usize {
        self.encoded.rest.len() + self.blob().map_or(0, Bytes::len)
    }

    pub(crate) fn blob(&self) -> Option<&Bytes> {
        self.encoded.blob.as_ref()
    }
}

/// The script call. `again`: it may have run before, without an answer.
pub(crate) fn command(store: &RedisStore, queue: &QueueKeys, batch: &[OutgoingJob], again: bool) -> Cmd {
    let settings = &store.settings;
    let specials = batch.iter().filter(|outgoing| outgoing.special.is_some()).count();
    let mut cmd = scripts::ENQUEUE.on(&queue.base);
    cmd.arg(batch.len())
        .arg(specials)
        .arg(settings.aging().step_us())
        .arg(settings.max_jobs)
        .arg(settings.max_bytes)
        .arg(u64::from(settings.idempotency_ttl_s) * 1000)
        .arg(store.prefix.sweeper_channel())
        .arg(u8::from(again))
        .arg(store.prefix.push_channel());
    let longest = batch.iter().map(|outgoing| outgoing.lives).max().unwrap_or_default();
    let entries: usize = batch.iter().map(|outgoing| outgoing.hashes.len()).sum();
    match settings.index {
        true => cmd.arg(index::ttl_ms(longest)).arg(entries),
        false => cmd.arg(0).arg(0),
    };
    for outgoing in batch {
        cmd.arg(&key_of(outgoing.id)[..])
            .arg(&[record::state::PENDING, 0, 0, outgoing.encoded.flags][..])
            .arg(outgoing.rank)
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
    if settings.index {
        for (place, outgoing) in batch.iter().enumerate() {
            for &hash in &outgoing.hashes {
                cmd.arg(place + 1).arg(index::bucket(hash)).arg(&index::check_of(hash)[..]);
            }
        }
    }
    cmd
}

/// What the script made of a batch.
pub(crate) struct Verdicts {
    /// What it did not plainly accept, by place in the batch.
    pub(crate) exceptions: Vec<(usize, Result<Accepted>)>,
    /// When it enqueued the first that it accepted, if it says.
    pub(crate) created_us: Option<u64>,
}

/// Reads the script's reply.
pub(crate) fn verdicts(batch: &[OutgoingJob], reply: Value, queue: &QueueKeys, ids: IdIssuer) -> Result<Verdicts> {
    let Value::Array(parts) = reply else { return Err(unexpected("an enqueue's reply", &reply)) };
    let mut exceptions = Vec::with_capacity(parts.len() / 3);
    let mut created_us = None;
    for part in parts.chunks(3) {
        if let [Value::Int(0), _, Value::Int(at)] = part {
            created_us = u64::try_from(*at).ok();
            continue;
        }
        let [Value::Int(index), Value::BulkString(verdict), detail] = part else {
            return Err(unexpected("an enqueue's reply", &Value::Nil));
        };
        let index = (*index as usize).saturating_sub(1);
        let Some(outgoing) = batch.get(index) else { continue };
        exceptions.push((index, verdict_of(outgoing, verdict, detail, queue, ids)));
    }
    Ok(Verdicts { exceptions, created_us })
}

fn verdict_of(
    outgoing: &OutgoingJob,
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
            .and_then(|(tombstone_min, key)| Some((u32::from_le_bytes(*tombstone_min), job_of(key)?)))
            .map(|(tombstone_min, random)| Accepted {
                id: ids.issue(random, tombstone_min, queue.number, outgoing.owner),
                duplicate: true,
                created_at_ms: None,
            })
            .ok_or_else(|| unexpected("an earlier job", detail)),
        (b"mismatch", _) => Err(errors::idempotency_mismatch()),
        _ => Err(unexpected("a verdict", detail)),
    }
}
