//! A worker session's end of a queue: settle and lease in one call.
//!
//! Owns the memory of what it holds (so that a success needs no read in the
//! script) and of settlements the store has not answered yet. It never loses
//! one: an unanswered call is repeated as it was, and the script recognises
//! what the first try did.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use nobat_core::job::{JobError, LeaseToken, LeasedJob, Outcome, Settlement};
use nobat_core::{ErrorCode, JobId, Result};
use redis::{Pipeline, RedisError, RedisResult, Value};

use super::connect::{Backoff, Fault, Hub, Link, coded, fault};
use super::handoff::{Handed, Handoff, Parked};
use super::keys::{KEY_LEN, QueueKeys, job_of, key_of};
use super::marker::Marker;
use super::record::{self, Record, flag};
use super::settle::{Call, Clock};
use super::{Inner, random_name, random_u128, scripts, unexpected};
use crate::api::{Consumer, LeaseReply};

/// Settlements one call carries; the rest go in the next.
const SETTLE_MAX: usize = 512;
/// Jobs one call leases: a reply stays bounded.
const LEASE_MAX: usize = 1024;
/// How long one `step` waits out a fault before it reports it.
const PATIENCE: Duration = Duration::from_secs(1);
/// Records of held leases remembered; a forgotten one is read when it is settled.
const HELD_MAX: usize = 8192;

pub(crate) struct RedisConsumer {
    inner: Arc<Inner>,
    queue: Arc<QueueKeys>,
    hub: Hub,
    handoff: Handoff,
    marker: Marker,
    held: HashMap<(u128, u64), Record>,
    unsent: Vec<Settlement>,
    /// The call whose reply has not come.
    pending: Option<Call>,
    /// What is left of a call that the store refused, one settlement each.
    parts: VecDeque<Call>,
    /// What a step that failed had already brought.
    brought: LeaseReply,
    next_token: u64,
    clock: Clock,
}

impl RedisConsumer {
    pub(crate) fn new(inner: Arc<Inner>, queue: Arc<QueueKeys>) -> RedisConsumer {
        inner.timers.open(&queue);
        let handoff = Handoff::new(random_name());
        let hub = Hub::new(inner.target.clone(), None);
        RedisConsumer {
            hub: hub.subscribed(vec![handoff.channel(&inner.prefix)], handoff.on_push()),
            handoff,
            marker: Marker::new(inner.clone(), queue.clone()),
            held: HashMap::new(),
            unsent: Vec::new(),
            pending: None,
            parts: VecDeque::new(),
            brought: LeaseReply::default(),
            // Random, so that no two consumers ever use one token.
            next_token: random_u128() as u64,
            clock: Clock { server_us: 0, at: Instant::now() },
            inner,
            queue,
        }
    }

    /// Makes the next call out of what is unsent.
    async fn next_call(&mut self, step: &mut LeaseReply, park: Option<usize>) -> Result<Call> {
        let count = self.unsent.len().min(SETTLE_MAX);
        self.recall(count, step).await?;
        let count = self.unsent.len().min(count);
        let mut call = Call::new(self.take_token(), self.handoff.name());
        call.unpark = self.handoff.parked();
        // In a cluster the server that enqueues cannot tell whether anybody listens.
        let parks = park.filter(|&room| room > 0 && count == self.unsent.len() && !self.inner.target.is_cluster());
        let lease_us = u64::from(self.inner.settings.lease_ms) * 1000;
        call.park = parks.map(|room| self.handoff.entry(call.token, lease_us, room));
        for settlement in self.unsent.drain(..count) {
            let held = self.held.remove(&(settlement.id.random, settlement.token.0));
            call.add(settlement, held, self.clock, self.inner.server.value_max());
        }
        call.sort();
        Ok(call)
    }

    fn take_token(&mut self) -> u64 {
        let token = self.next_token;
        self.next_token = token.wrapping_add(1);
        token
    }

    /// The store refuses the pending call, and would do so for ever. Its settlements go
    /// one by one then; one that is refused by itself fails its job, and what even that
    /// cannot settle is given up: its lease runs out.
    fn refused(&mut self, error: &RedisError, step: &mut LeaseReply) -> Result<()> {
        let Some(call) = self.pending.take() else { return Ok(()) };
        match call.len() {
            // It only takes leases, and may have: to be asked again.
            0 => {
                self.pending = Some(call);
                return Err(coded(error));
            }
            1 => match call.failed(&error.to_string()) {
                Ok(failure) => self.parts.push_front(failure),
                Err(id) => {
                    let job = id.map(|id| id.to_string()).unwrap_or_default();
                    log::error!(model = self.queue.model.as_str(), job; "redis refuses to settle a job; it runs again when its lease ends: {error}; run `nobat doctor --queue`");
                    step.refused.extend(id);
                }
            },
            jobs => {
                log::warn!(model = self.queue.model.as_str(), jobs; "redis refused a call, its jobs are settled one by one: {error}");
                let mut parts = call.split(|| self.take_token());
                parts.append(&mut self.parts);
                self.parts = parts;
            }
        }
        Ok(())
    }

    /// Reads the records of settlements whose lease this consumer does not
    /// remember; those without a living record are refused.
    async fn recall(&mut self, count: usize, step: &mut LeaseReply) -> Result<()> {
        let unknown = |s: &Settlement, held: &HashMap<(u128, u64), Record>| {
            matches!(s.outcome, Outcome::Succeeded(_)) && !held.contains_key(&(s.id.random, s.token.0))
        };
        if !self.unsent[..count].iter().any(|s| unknown(s, &self.held)) {
            return Ok(());
        }
        let mut at = 0;
        while at < self.unsent.len() {
            let settlement = &self.unsent[at];
            if unknown(settlement, &self.held) {
                let key = self.queue.job(&key_of(settlement.id));
                let reply = self.hub.send(redis::cmd("GET").arg(key)).await.map_err(|e| coded(&e))?;
                let record = match &reply {
                    Value::BulkString(bytes) => {
                        Record::parse(bytes).filter(|record| record.state == record::state::PENDING)
                    }
                    _ => None,
                };
                match record {
                    Some(record) => drop(self.held.insert((settlement.id.random, settlement.token.0), record)),
                    None => {
                        step.refused.push(settlement.id);
                        self.unsent.remove(at);
                        continue;
                    }
                }
            }
            at += 1;
        }
        Ok(())
    }

    /// Takes a reply apart: `[now, more, refused count, refused…, key, record, …]`.
    async fn take(&mut self, call: &Call, reply: Value, step: &mut LeaseReply) -> Result<()> {
        let Value::Array(parts) = reply else { return Err(unexpected("a step's reply", &reply)) };
        let mut parts = parts.into_iter();
        let mut number = || match parts.next() {
            Some(Value::Int(number)) => Some(number as u64),
            _ => None,
        };
        let head = (|| Some((number()?, number()?, number()?)))();
        let Some((now_us, more, refused)) = head else { return Err(unexpected("a step's reply", &Value::Nil)) };
        self.clock = Clock { server_us: now_us, at: Instant::now() };
        step.more = more == 1;
        let parked = call.park.filter(|_| more == 2).map(|entry| Parked { entry });
        self.handoff.answered(parked);
        let mut orphans = Vec::new();
        for _ in 0..refused {
            if let Some(Value::Int(index)) = parts.next()
                && let Some((id, blob)) = call.settlement(index as usize, &self.queue)
            {
                step.refused.push(id);
                orphans.extend(blob);
            }
        }
        let first_new = step.leased.len();
        while let (Some(Value::BulkString(key)), Some(Value::BulkString(bytes))) = (parts.next(), parts.next()) {
            // Handed over unseen, a job comes with the token it was leased under.
            match (call.unpark, key.len().checked_sub(KEY_LEN)) {
                (Some(parked), Some(from @ 1..)) => {
                    self.take_job(&key[from..], bytes.into(), parked.token(), now_us, step);
                }
                _ => self.take_job(&key, bytes.into(), call.token, now_us, step),
            }
        }
        if !orphans.is_empty() {
            // Results nobody will read: an attempt that lost its lease. They have
            // a ttl, so a failure here costs memory for a while, nothing else.
            let _ = self.hub.send(redis::cmd("UNLINK").arg(orphans)).await;
        }
        self.fetch_payloads(first_new, step).await;
        Ok(())
    }

    async fn take_handed(&mut self, handed: Handed, step: &mut LeaseReply) {
        let (token, now_us) = (handed.token, handed.now_us);
        self.clock = Clock { server_us: now_us, at: Instant::now() };
        for (key, record) in handed {
            self.take_job(&key, record, token, now_us, step);
        }
        self.fetch_payloads(0, step).await;
    }

    fn take_job(&mut self, key: &[u8], bytes: Bytes, token: u64, now_us: u64, step: &mut LeaseReply) {
        let Some(random) = job_of(key) else {
            log::error!(model = self.queue.model.as_str(); "a member of `ready` is no job key; run `nobat doctor --queue`");
            return;
        };
        let Some(record) = Record::parse(&bytes).filter(|record| record.flags & flag::STRIPPED == 0) else {
            let id = JobId { random, tombstone_min: 0, mac: 0, locator: self.queue.number };
            log::error!(model = self.queue.model.as_str(); "a job's record is corrupt; it is dead-lettered");
            self.give_up(id, token, record::CORRUPT);
            return;
        };
        let id = self.inner.ids.issue(random, record.tombstone_min, self.queue.number, record.owner);
        step.leased.push(LeasedJob {
            id,
            token: LeaseToken(token),
            attempt: u32::from(record.attempts) + 1,
            deaths: u32::from(record.deaths),
            priority: record.priority,
            rows: record.rows,
            queued_at_us: record.queued_us,
            leased_at_us: now_us,
            time_left: record::time_left(&record, now_us),
            retry: record.retry,
            payload: bytes.slice(record.head_len..record.tail_at),
            trace: record.trace.clone(),
        });
        if self.held.len() >= HELD_MAX {
            self.held.clear();
        }
        self.held.insert((random, token), record);
    }

    /// Reads the payloads that travel beside their records. What cannot be read
    /// now is given back; what is gone is dead-lettered.
    async fn fetch_payloads(&mut self, from: usize, step: &mut LeaseReply) {
        let beside = |job: &LeasedJob, held: &HashMap<(u128, u64), Record>| {
            held.get(&(job.id.random, job.token.0)).is_some_and(|record| record.flags & flag::BLOB != 0)
        };
        let wanted: Vec<usize> = (from..step.leased.len()).filter(|&at| beside(&step.leased[at], &self.held)).collect();
        if wanted.is_empty() {
            return;
        }
        let mut mget = redis::cmd("MGET");
        for &at in &wanted {
            mget.arg(self.queue.payload(&key_of(step.leased[at].id)));
        }
        let payloads = match self.hub.send(&mget).await {
            Ok(Value::Array(payloads)) => payloads,
            other => {
                if let Err(e) = other {
                    log::warn!(model = self.queue.model.as_str(); "payloads could not be read, their jobs are given back: {e}");
                }
                Vec::new()
            }
        };
        let fetched = !payloads.is_empty();
        let mut payloads = payloads.into_iter();
        let mut lost = Vec::new();
        for at in wanted {
            match payloads.next() {
                Some(Value::BulkString(bytes)) => step.leased[at].payload = bytes.into(),
                _ => lost.push(at),
            }
        }
        for at in lost.into_iter().rev() {
            let job = step.leased.remove(at);
            if fetched {
                self.give_up(job.id, job.token.0, "the job's payload is gone from redis; send the request again");
            } else {
                self.unsent.push(Settlement { id: job.id, token: job.token, outcome: Outcome::Released });
            }
        }
    }

    fn give_up(&mut self, id: JobId, token: u64, message: &str) {
        let error = JobError { code: ErrorCode::Internal, message: message.to_owned() };
        let outcome = Outcome::Failed { error, retry_in: None };
        self.unsent.push(Settlement { id, token: LeaseToken(token), outcome });
    }
}

/// Sends a call once. It counts as sent from here on, whatever becomes of it.
async fn send(hub: &Hub, inner: &Inner, queue: &QueueKeys, call: &mut Call, want: usize) -> RedisResult<Value> {
    let (mut link, generation) = hub.link().await?;
    let cmd = call.command(inner, queue, want);
    let blobs = call.blobs(queue);
    // First, and by themselves: no job may end without its result.
    let stored = if blobs.is_empty() { Ok(()) } else { store(&mut link, &blobs).await };
    let reply = match stored {
        Ok(()) => link.send(&cmd).await,
        Err(e) => Err(e),
    };
    if let Err(e) = &reply
        && fault(e) == Fault::Broken
    {
        hub.broken(generation);
    }
    reply
}

/// Stores results that travel beside their records: key, ttl, bytes.
async fn store(link: &mut Link, blobs: &[(Vec<u8>, i64, &Bytes)]) -> RedisResult<()> {
    link.patient_for(blobs.iter().map(|(_, _, bytes)| bytes.len()).sum());
    let mut plain = Pipeline::new();
    for (key, ttl_ms, bytes) in blobs {
        plain.cmd("SET").arg(&key[..]).arg(&bytes[..]).arg("PX").arg(*ttl_ms);
    }
    match link.send_all(&plain).await {
        Err(e) if e.code() == Some("OOM") => {
            let mut squeezed = Pipeline::new();
            for (key, ttl_ms, bytes) in blobs {
                let mut cmd = scripts::PUT.on(&key[..]);
                cmd.arg(*ttl_ms).arg(&bytes[..]);
                squeezed.add_command(cmd);
            }
            link.send_all(&squeezed).await.map(drop)
        }
        other => other.map(drop),
    }
}

#[async_trait]
impl Consumer for RedisConsumer {
    async fn settle_and_lease(&mut self, settle: Vec<Settlement>, want: usize) -> Result<LeaseReply> {
        self.turn(settle, want, false).await
    }

    async fn settle_and_lease_or_wait(&mut self, settle: Vec<Settlement>, want: usize) -> Result<LeaseReply> {
        self.turn(settle, want, true).await
    }

    fn is_waiting(&self) -> bool {
        self.handoff.parked().is_some()
    }

    async fn idle(&mut self) {
        if self.is_settled() {
            tokio::select! {
                biased;
                () = self.handoff.filled() => {}
                () = self.marker.wait() => {}
            }
        }
    }
}

impl RedisConsumer {
    /// Whether nothing is to be settled and no call waits for its reply.
    fn is_settled(&self) -> bool {
        self.unsent.is_empty() && self.parts.is_empty() && self.pending.is_none()
    }

    async fn turn(&mut self, settle: Vec<Settlement>, want: usize, park: bool) -> Result<LeaseReply> {
        self.unsent.extend(settle);
        let mut step = std::mem::take(&mut self.brought);
        let turned = self.call_until_settled(&mut step, want, park).await;
        if turned.is_err() {
            self.brought = std::mem::take(&mut step);
        }
        turned.map(|()| step)
    }

    /// One step's calls: every settlement, and with the last of them the leases.
    async fn call_until_settled(&mut self, step: &mut LeaseReply, want: usize, park: bool) -> Result<()> {
        if self.handoff.broke() {
            self.hub.broken_now();
        }
        if let Some(handed) = self.handoff.take() {
            self.take_handed(handed, step).await;
            if self.is_settled() {
                return Ok(());
            }
        }
        let started = Instant::now();
        let mut backoff = Backoff::default();
        loop {
            // Kept in `self` while it travels: a dropped future loses nothing.
            if self.pending.is_none() {
                let room = (park && step.leased.is_empty()).then_some(want);
                self.pending = match self.parts.pop_front() {
                    Some(part) => Some(part),
                    None => Some(self.next_call(step, room).await?),
                };
            }
            let last = self.unsent.is_empty() && self.parts.is_empty();
            let want_now = if last { want.saturating_sub(step.leased.len()).min(LEASE_MAX) } else { 0 };
            let Some(call) = self.pending.as_mut() else { continue };
            match send(&self.hub, &self.inner, &self.queue, call, want_now).await {
                Ok(reply) => {
                    let Some(call) = self.pending.take() else { continue };
                    self.take(&call, reply, step).await?;
                    if last {
                        return Ok(());
                    }
                }
                Err(e) if fault(&e) == Fault::Ours => {
                    self.refused(&e, step)?;
                    if self.is_settled() {
                        return Ok(());
                    }
                }
                Err(e) if started.elapsed() > PATIENCE => return Err(coded(&e)),
                Err(_) => tokio::time::sleep(backoff.next()).await,
            }
        }
    }
}

impl Drop for RedisConsumer {
    fn drop(&mut self) {
        // Jobs that were handed over in this instant come back with their lease.
        if let (Some(parked), Some(runtime)) = (self.handoff.parked(), &self.inner.runtime.0) {
            let (inner, key) = (self.inner.clone(), self.queue.own("parked"));
            runtime.handle().clone().spawn(async move {
                let mut cmd = redis::cmd("SREM");
                cmd.arg(key).arg(&parked.entry[..]);
                if let Err(e) = inner.send(&cmd).await {
                    log::debug!("a consumer that left stays parked until it is next handed a job: {e}");
                }
            });
        }
        self.inner.timers.close(&self.queue);
    }
}
