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

use super::super::connection::{BACKOFF, Connection, ConnectionManager, Fault, fault, parse, to_error, unexpected};
use super::super::keys::{KEY_LEN, QueueKeys, job_of, key_of};
use super::super::record::{self, Record, flag, state};
use super::super::scripts;
use super::super::store::{RedisStore, random_name};
use super::push_delivery::{PushInbox, PushedJobs, WaitingEntry};
use super::settle_call::{ServerClock, SettleCall};
use super::wake_token::WakeToken;
use crate::api::{Consumer, LeaseReply};

/// Bytes of payloads that are read over the process' connection for large values.
const LARGE: usize = 4 << 20;
/// Settlements one call carries; the rest go in the next.
const SETTLE_MAX: usize = 512;
/// How long one call waits out a fault before it reports it.
const PATIENCE: Duration = Duration::from_secs(1);
/// Records of held leases remembered; a forgotten one is read when it is settled.
const HELD_MAX: usize = 8192;

pub(crate) struct RedisConsumer {
    store: Arc<RedisStore>,
    queue: Arc<QueueKeys>,
    manager: ConnectionManager,
    push_inbox: PushInbox,
    wake_token: WakeToken,
    held: HashMap<(u128, u64), Record>,
    unsent: Vec<Settlement>,
    /// The call whose reply has not come.
    pending: Option<SettleCall>,
    /// What is left of a call that the store refused, one settlement each.
    parts: VecDeque<SettleCall>,
    /// What a call that failed had already brought.
    brought: LeaseReply,
    next_token: u64,
    clock: ServerClock,
}

impl RedisConsumer {
    pub(crate) fn new(store: Arc<RedisStore>, queue: Arc<QueueKeys>) -> RedisConsumer {
        store.sweeps.add_consumer(&queue);
        let push_inbox = PushInbox::new(random_name());
        let manager = ConnectionManager::new(store.endpoint.clone(), None);
        RedisConsumer {
            manager: manager.subscribed(vec![push_inbox.channel(&store.prefix)], push_inbox.on_push()),
            push_inbox,
            wake_token: WakeToken::new(store.clone(), queue.clone()),
            held: HashMap::new(),
            unsent: Vec::new(),
            pending: None,
            parts: VecDeque::new(),
            brought: LeaseReply::default(),
            // Random, so that no two consumers ever use one token.
            // Those from `LeaseToken::OWN` on are given by no store.
            next_token: rand::random::<u64>() >> 2,
            clock: ServerClock { server_us: 0, at: Instant::now() },
            store,
            queue,
        }
    }

    /// Makes the next call out of what is unsent.
    async fn next_call(&mut self, out: &mut LeaseReply, room: Option<usize>) -> Result<SettleCall> {
        let count = self.unsent.len().min(SETTLE_MAX);
        self.recall(count, out).await?;
        let count = self.unsent.len().min(count);
        let mut call = SettleCall::new(self.take_token(), self.push_inbox.name());
        call.withdraw = self.push_inbox.waiting();
        // In a cluster the server that enqueues cannot tell whether anybody listens.
        let pushable = count == self.unsent.len() && !self.store.endpoint.is_cluster();
        let lease_us = u64::from(self.store.settings.lease_ms) * 1000;
        let room = room.filter(|&room| room > 0 && pushable);
        call.register = room.map(|room| self.push_inbox.entry(call.token, lease_us, room));
        for settlement in self.unsent.drain(..count) {
            let held = self.held.remove(&(settlement.id.random, settlement.token.0));
            call.add(settlement, held, self.clock, self.store.server.value_max());
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
    fn refused(&mut self, error: &RedisError, out: &mut LeaseReply) -> Result<()> {
        let Some(call) = self.pending.take() else { return Ok(()) };
        match call.len() {
            // It only takes leases, and may have: to be asked again.
            0 => {
                self.pending = Some(call);
                return Err(to_error(error));
            }
            1 => match call.failed(&error.to_string()) {
                Ok(failure) => self.parts.push_front(failure),
                Err(id) => {
                    let job = id.map(|id| id.to_string()).unwrap_or_default();
                    log::error!(model = self.queue.model.as_str(), job = job.as_str(); "redis refuses to settle a job; it runs again when its lease ends: {error}; run `nobat doctor --queue`");
                    out.refused.extend(id);
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

    /// Reads the records of successes whose lease this consumer does not remember;
    /// those without a living record are refused.
    async fn recall(&mut self, count: usize, out: &mut LeaseReply) -> Result<()> {
        let remembers = |s: &Settlement| self.held.contains_key(&(s.id.random, s.token.0));
        let unknown = |s: &Settlement| matches!(s.outcome, Outcome::Succeeded(_)) && !remembers(s);
        let unknown: Vec<usize> = (0..count).filter(|&at| unknown(&self.unsent[at])).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = unknown.iter().map(|&at| self.queue.job(&key_of(self.unsent[at].id))).collect();
        let reply = self.manager.send(redis::cmd("MGET").arg(names)).await.map_err(|e| to_error(&e))?;
        let records: Vec<Option<Vec<u8>>> = parse(reply, "records")?;
        for (at, record) in unknown.into_iter().zip(records).rev() {
            let record = record.and_then(|bytes| Record::parse(&bytes)).filter(|record| record.state == state::PENDING);
            let settlement = &self.unsent[at];
            match record {
                Some(record) => drop(self.held.insert((settlement.id.random, settlement.token.0), record)),
                None => out.refused.push(self.unsent.remove(at).id),
            }
        }
        Ok(())
    }

    /// Takes a reply apart: `[now, more, refused count, refused…, key, record, …]`.
    async fn take(&mut self, call: &SettleCall, reply: Value, out: &mut LeaseReply) -> Result<()> {
        let Value::Array(parts) = reply else { return Err(unexpected("a lease reply", &reply)) };
        let mut parts = parts.into_iter();
        let mut number = || match parts.next() {
            Some(Value::Int(number)) => Some(number as u64),
            _ => None,
        };
        let head = (|| Some((number()?, number()?, number()?)))();
        let Some((now_us, more, refused)) = head else { return Err(unexpected("a lease reply", &Value::Nil)) };
        self.clock = ServerClock { server_us: now_us, at: Instant::now() };
        out.more = more == 1;
        let waiting = call.register.filter(|_| more == 2).map(|entry| WaitingEntry { entry });
        self.push_inbox.answered(waiting);
        let mut orphans = Vec::new();
        for _ in 0..refused {
            if let Some(Value::Int(index)) = parts.next()
                && let Some((id, blob)) = call.settlement(index as usize, &self.queue)
            {
                out.refused.push(id);
                orphans.extend(blob);
            }
        }
        let first_new = out.leased.len();
        while let (Some(Value::BulkString(key)), Some(Value::BulkString(bytes))) = (parts.next(), parts.next()) {
            // Pushed unseen, a job comes with the token it was leased under.
            match (call.withdraw, key.len().checked_sub(KEY_LEN)) {
                (Some(waiting), Some(from @ 1..)) => {
                    self.take_job(&key[from..], bytes.into(), waiting.token(), now_us, out);
                }
                _ => self.take_job(&key, bytes.into(), call.token, now_us, out),
            }
        }
        if !orphans.is_empty() {
            // Results nobody will read: an attempt that lost its lease. They have
            // a ttl, so a failure here costs memory for a while, nothing else.
            let _ = self.manager.send(redis::cmd("UNLINK").arg(orphans)).await;
        }
        self.fetch_payloads(first_new, out).await;
        Ok(())
    }

    async fn take_pushed(&mut self, pushed: PushedJobs, out: &mut LeaseReply) {
        let (token, now_us) = (pushed.token, pushed.now_us);
        self.clock = ServerClock { server_us: now_us, at: Instant::now() };
        for (key, record) in pushed {
            self.take_job(&key, record, token, now_us, out);
        }
        self.fetch_payloads(0, out).await;
    }

    fn take_job(&mut self, key: &[u8], bytes: Bytes, token: u64, now_us: u64, out: &mut LeaseReply) {
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
        let id = self.store.ids.issue(random, record.tombstone_min, self.queue.number, record.owner);
        out.leased.push(LeasedJob {
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
            trace: record.trace.as_str().into(),
        });
        if self.held.len() >= HELD_MAX {
            self.held.clear();
        }
        self.held.insert((random, token), record);
    }

    /// Reads the payloads that travel beside their records. What cannot be read
    /// now is given back; what is gone is dead-lettered.
    async fn fetch_payloads(&mut self, from: usize, out: &mut LeaseReply) {
        let held = |job: &LeasedJob| self.held.get(&(job.id.random, job.token.0));
        let beside = |job: &LeasedJob| held(job).is_some_and(|record| record.flags & flag::BLOB != 0);
        let wanted: Vec<usize> = (from..out.leased.len()).filter(|&at| beside(&out.leased[at])).collect();
        if wanted.is_empty() {
            return;
        }
        let names: Vec<_> = wanted.iter().map(|&at| self.queue.payload(&key_of(out.leased[at].id))).collect();
        let bytes: usize = wanted.iter().filter_map(|&at| Some(held(&out.leased[at])?.payload_len)).sum();
        // What this connection is subscribed to bounds what may wait on it.
        let manager = if bytes > LARGE { &self.store.values } else { &self.manager };
        let reply = manager.send(redis::cmd("MGET").arg(names)).await.map_err(|e| to_error(&e));
        let payloads = reply.and_then(|reply| parse::<Vec<Option<Vec<u8>>>>(reply, "payloads"));
        if let Err(e) = &payloads {
            log::warn!(model = self.queue.model.as_str(); "payloads could not be read, their jobs are given back: {e}");
        }
        let mut payloads = payloads.ok();
        for (place, at) in wanted.into_iter().enumerate().rev() {
            match payloads.as_mut().map(|payloads| payloads.get_mut(place).and_then(Option::take)) {
                Some(Some(payload)) => out.leased[at].payload = payload.into(),
                Some(None) => {
                    let job = out.leased.remove(at);
                    self.give_up(job.id, job.token.0, "the job's payload is gone from redis; send the request again");
                }
                None => {
                    let LeasedJob { id, token, .. } = out.leased.remove(at);
                    self.unsent.push(Settlement { id, token, outcome: Outcome::Released });
                }
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
async fn send(
    manager: &ConnectionManager,
    store: &RedisStore,
    queue: &QueueKeys,
    call: &mut SettleCall,
    want: (usize, Option<i16>),
) -> RedisResult<Value> {
    let (mut connection, generation) = manager.connection().await?;
    let cmd = call.command(store, queue, want);
    let blobs = call.blobs(queue);
    // First, and by themselves: no job may end without its result.
    let stored = if blobs.is_empty() { Ok(()) } else { store_results(&mut connection, &blobs).await };
    let reply = match stored {
        Ok(()) => connection.send(&cmd).await,
        Err(e) => Err(e),
    };
    if let Err(e) = &reply
        && fault(e) == Fault::Broken
    {
        manager.broken(generation);
    }
    reply
}

/// Stores results that travel beside their records: key, ttl, bytes.
async fn store_results(connection: &mut Connection, blobs: &[(Vec<u8>, i64, &Bytes)]) -> RedisResult<()> {
    connection.patient_for(blobs.iter().map(|(_, _, bytes)| bytes.len()).sum());
    let mut plain = Pipeline::new();
    for (key, ttl_ms, bytes) in blobs {
        plain.cmd("SET").arg(&key[..]).arg(&bytes[..]).arg("PX").arg(*ttl_ms);
    }
    match connection.send_all(&plain).await {
        Err(e) if e.code() == Some("OOM") => {
            let mut squeezed = Pipeline::new();
            for (key, ttl_ms, bytes) in blobs {
                let mut cmd = scripts::PUT.on(&key[..]);
                cmd.arg(*ttl_ms).arg(&bytes[..]);
                squeezed.add_command(cmd);
            }
            connection.send_all(&squeezed).await.map(drop)
        }
        other => other.map(drop),
    }
}

#[async_trait]
impl Consumer for RedisConsumer {
    async fn settle_and_lease(&mut self, settle: Vec<Settlement>, want: usize) -> Result<LeaseReply> {
        self.settle(settle, (want, None), false).await
    }

    async fn settle_and_lease_above(&mut self, settle: Vec<Settlement>, want: usize, level: i16) -> Result<LeaseReply> {
        self.settle(settle, (want, Some(level)), false).await
    }

    async fn settle_and_lease_or_wait(&mut self, settle: Vec<Settlement>, want: usize) -> Result<LeaseReply> {
        self.settle(settle, (want, None), true).await
    }

    fn is_waiting(&self) -> bool {
        self.push_inbox.waiting().is_some()
    }

    async fn idle(&mut self) {
        if self.is_settled() {
            tokio::select! {
                biased;
                () = self.push_inbox.filled() => {}
                () = self.wake_token.wait() => {}
            }
        }
    }
}

impl RedisConsumer {
    /// Whether nothing is to be settled and no call waits for its reply.
    fn is_settled(&self) -> bool {
        self.unsent.is_empty() && self.parts.is_empty() && self.pending.is_none()
    }

    async fn settle(
        &mut self,
        settle: Vec<Settlement>,
        want: (usize, Option<i16>),
        may_wait: bool,
    ) -> Result<LeaseReply> {
        self.unsent.extend(settle);
        let mut out = std::mem::take(&mut self.brought);
        let settled = self.call_until_settled(&mut out, want, may_wait).await;
        if settled.is_err() {
            self.brought = std::mem::take(&mut out);
        }
        settled.map(|()| out)
    }

    /// One call's round trips: every settlement, and with the last of them the leases.
    async fn call_until_settled(
        &mut self,
        out: &mut LeaseReply,
        (want, above): (usize, Option<i16>),
        may_wait: bool,
    ) -> Result<()> {
        if self.push_inbox.broke() {
            self.manager.reset();
        }
        if let Some(pushed) = self.push_inbox.take() {
            self.take_pushed(pushed, out).await;
            if self.is_settled() {
                return Ok(());
            }
        }
        let started = Instant::now();
        let mut backoff = BACKOFF;
        loop {
            // Kept in `self` while it travels: a dropped future loses nothing.
            if self.pending.is_none() {
                let room = (may_wait && out.leased.is_empty()).then_some(want);
                self.pending = match self.parts.pop_front() {
                    Some(part) => Some(part),
                    None => Some(self.next_call(out, room).await?),
                };
            }
            let last = self.unsent.is_empty() && self.parts.is_empty();
            let want_now = if last { want.saturating_sub(out.leased.len()).min(scripts::LEASES_MAX) } else { 0 };
            let Some(call) = self.pending.as_mut() else { continue };
            match send(&self.manager, &self.store, &self.queue, call, (want_now, above)).await {
                Ok(reply) => {
                    let Some(call) = self.pending.take() else { continue };
                    self.take(&call, reply, out).await?;
                    if last {
                        return Ok(());
                    }
                }
                Err(e) if fault(&e) == Fault::Permanent => {
                    self.refused(&e, out)?;
                    if self.is_settled() {
                        return Ok(());
                    }
                }
                Err(e) if started.elapsed() > PATIENCE => return Err(to_error(&e)),
                Err(_) => tokio::time::sleep(backoff.jittered(rand::random())).await,
            }
        }
    }
}

impl Drop for RedisConsumer {
    fn drop(&mut self) {
        // Jobs that were pushed in this instant come back with their lease.
        if let Some(waiting) = self.push_inbox.waiting() {
            let (store, key) = (self.store.clone(), self.queue.own("parked"));
            self.store.runtime.spawn(async move {
                if let Err(e) = store.send(redis::cmd("SREM").arg(key).arg(&waiting.entry[..])).await {
                    log::debug!("a consumer that left stays noted as waiting until jobs are next pushed to it: {e}");
                }
            });
        }
        self.store.sweeps.remove_consumer(&self.queue);
    }
}
