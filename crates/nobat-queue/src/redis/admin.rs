//! Reading jobs and looking after queues: get, cancel, list, counts, dead
//! letters, pause.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nobat_core::job::{JobState, JobView};
use nobat_core::{Error, ErrorCode, IdIssuer, JobId, OwnerId, Result};
use redis::Value;

use super::client::RedisClient;
use super::keys::{QueueKeys, key_of};
use super::metadata::RedisMetadata;
use super::record::{self, Stored};
use super::renewer::RedisRenewer;
use super::{Inner, RedisQueue, consumer::RedisConsumer, scripts, startup, unexpected};
use crate::api::{Condition, MetadataStore};
use crate::api::{
    Consumer, Counts, ListFilter, Page, Queue, QueueClient, QueueSettings, RateDecision, Renewer, StoreHealth,
    WorkerCommand, WorkerInfo,
};

/// Dead letters one script call moves.
const DEAD_CHUNK: usize = 200;

#[async_trait]
impl Queue for RedisQueue {
    fn settings(&self) -> &QueueSettings {
        &self.inner.settings
    }

    fn ids(&self) -> IdIssuer {
        self.inner.ids
    }

    fn client(&self) -> Arc<dyn QueueClient> {
        Arc::new(RedisClient::open(self.inner.clone()))
    }

    fn metadata(&self) -> Arc<dyn MetadataStore> {
        Arc::new(RedisMetadata::new(self.inner.clone()))
    }

    async fn consumer(&self, model: &str, _worker: &str) -> Result<Box<dyn Consumer>> {
        let queue = self.inner.queue(model).await?;
        Ok(Box::new(RedisConsumer::new(self.inner.clone(), queue)))
    }

    async fn renewer(&self) -> Result<Box<dyn Renewer>> {
        Ok(Box::new(RedisRenewer::new(self.inner.clone())))
    }

    async fn get(&self, id: JobId) -> Result<Option<JobView>> {
        self.inner.read(id).await
    }

    async fn input(&self, id: JobId) -> Result<Option<Bytes>> {
        self.inner.input(id).await
    }

    async fn cache_get(&self, key: u128) -> Result<Option<Bytes>> {
        self.inner.cached(key).await
    }

    async fn cache_put(&self, key: u128, answer: &[u8], ttl: Duration) -> Result<()> {
        self.inner.keep_cached(key, answer, ttl).await
    }

    async fn take_rate(&self, owner: OwnerId, interval: Duration, window: Duration) -> Result<Option<RateDecision>> {
        self.inner.take_rate(owner, interval, window).await.map(Some)
    }

    async fn cancel(&self, id: JobId) -> Result<JobView> {
        let not_found = || Error::new(ErrorCode::JobNotFound, format!("no job `{id}`")).for_job(id);
        let queue = self.inner.queue_of(id).await?.ok_or_else(not_found)?;
        let mut cmd = scripts::CANCEL.on(&queue.base);
        cmd.arg("any").arg(self.inner.prefix.client_channel()).arg(&key_of(id)[..]);
        let reply = self.inner.send(&cmd).await?;
        let Value::Array(parts) = reply else { return Err(unexpected("a cancel's reply", &reply)) };
        match <[Value; 2]>::try_from(parts) {
            Ok([Value::Int(1), Value::BulkString(bytes)]) => self.inner.view(&queue, id, bytes.into()).await,
            Ok([Value::Int(2), Value::BulkString(bytes)]) => {
                let view = self.inner.view(&queue, id, bytes.into()).await?;
                let state = view.state.as_str();
                Err(Error::new(ErrorCode::JobAlreadyFinished, format!("job `{id}` is {state} and cannot be cancelled"))
                    .for_job(id))
            }
            Ok([Value::Nil, _]) => Err(not_found()),
            _ => Err(unexpected("a cancel's reply", &Value::Nil)),
        }
    }

    async fn list(&self, filter: &ListFilter, cursor: Option<&str>, limit: usize) -> Result<Page> {
        self.inner.list(filter, cursor, limit).await
    }

    async fn counts(&self, model: &str) -> Result<Counts> {
        self.inner.counts(model).await
    }

    async fn redrive(&self, model: &str, ids: &[JobId], limit: usize) -> Result<u64> {
        let queue = self.inner.queue(model).await?;
        let step_us = self.inner.settings.aging().step_us();
        self.inner
            .dead(ids, limit, |count| {
                let mut cmd = scripts::REDRIVE.on(&queue.base);
                cmd.arg(step_us).arg(count);
                cmd
            })
            .await
    }

    async fn purge(&self, model: &str, ids: &[JobId], limit: usize) -> Result<u64> {
        let queue = self.inner.queue(model).await?;
        self.inner
            .dead(ids, limit, |count| {
                let mut cmd = scripts::PURGE.on(&queue.base);
                cmd.arg(count);
                cmd
            })
            .await
    }

    async fn set_paused(&self, model: &str, paused: bool) -> Result<()> {
        let queue = self.inner.queue(model).await?;
        self.inner.send(redis::cmd("HSET").arg(queue.own("meta")).arg("paused").arg(u8::from(paused))).await?;
        if !paused {
            // Whoever wakes finds out whether there is work.
            self.inner.send(redis::cmd("ZADD").arg(queue.own("marker")).arg(0).arg(0)).await?;
        }
        Ok(())
    }

    async fn register_worker(&self, info: &WorkerInfo, ttl: Duration) -> Result<()> {
        self.inner.register(info, ttl).await
    }

    async fn deregister_worker(&self, id: &str) -> Result<()> {
        self.inner.deregister(id).await
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.inner.live_workers().await
    }

    async fn registry_changed(&self) {
        self.inner.registry_changed().await;
    }

    async fn command(&self, command: &WorkerCommand) -> Result<()> {
        self.inner.publish_command(command).await
    }

    async fn next_command(&self) -> WorkerCommand {
        self.inner.next_command().await
    }

    async fn health(&self) -> Result<StoreHealth> {
        startup::health(&self.inner.hub, &self.inner.server, self.inner.settings.durability).await
    }

    fn max_value_bytes(&self) -> usize {
        self.inner.server.value_max()
    }

    fn condition(&self) -> Condition {
        self.inner.refusals.watch()
    }
}

impl Inner {
    /// Reads a job, its result included.
    pub(crate) async fn read(&self, id: JobId) -> Result<Option<JobView>> {
        let Some(queue) = self.queue_of(id).await? else { return Ok(None) };
        let mut cmd = scripts::GET.on(&queue.base);
        cmd.arg(&key_of(id)[..]);
        let reply = self.send(&cmd).await?;
        let Some((bytes, pending)) = read_reply(reply)? else { return Ok(None) };
        self.finish_view(&queue, id, bytes, pending).await.map(Some)
    }

    /// A job's payload, from its record or from beside it.
    async fn input(&self, id: JobId) -> Result<Option<Bytes>> {
        let Some(queue) = self.queue_of(id).await? else { return Ok(None) };
        let mut cmd = scripts::GET.on(&queue.base);
        cmd.arg(&key_of(id)[..]);
        let reply = self.send(&cmd).await?;
        let Some((bytes, _)) = read_reply(reply)? else { return Ok(None) };
        // What succeeded is repacked, without its input.
        if bytes.first().is_none_or(|first| first & 7 == record::state::SUCCEEDED) {
            return Ok(None);
        }
        let Some(record) = record::Record::parse(&bytes) else { return Ok(None) };
        match record.flags {
            flags if flags & record::flag::STRIPPED != 0 => Ok(None),
            flags if flags & record::flag::BLOB != 0 => {
                match self.send(redis::cmd("GET").arg(queue.payload(&key_of(id)))).await? {
                    Value::BulkString(payload) => Ok(Some(payload.into())),
                    _ => Ok(None),
                }
            }
            _ => Ok(Some(bytes.slice(record.head_len..record.tail_at))),
        }
    }

    /// The view of a job that ended, from its record.
    pub(crate) async fn view(&self, queue: &QueueKeys, id: JobId, bytes: Bytes) -> Result<JobView> {
        self.finish_view(queue, id, bytes, JobState::Queued).await
    }

    async fn finish_view(&self, queue: &QueueKeys, id: JobId, bytes: Bytes, pending: JobState) -> Result<JobView> {
        let Some(Stored { mut view, blob }) = record::read(bytes, queue, id.random, self.ids, pending) else {
            return Ok(record::corrupt_view(id, queue, OwnerId::ANONYMOUS));
        };
        view.id = id;
        match blob {
            None => Ok(view),
            // Boxed: most results are in their records, and views stay small to move.
            Some(token) => Box::pin(self.fetch_result(queue, view, token)).await,
        }
    }

    /// Reads a result that travels beside its record.
    async fn fetch_result(&self, queue: &QueueKeys, mut view: JobView, token: u64) -> Result<JobView> {
        match self.send(redis::cmd("GET").arg(queue.result(&key_of(view.id), token))).await? {
            Value::BulkString(packed) => record::set_result(&mut view, packed.into()),
            // Both have one ttl; its record went a moment later.
            _ => record::set_result(&mut view, Bytes::new()),
        }
        Ok(view)
    }

    pub(crate) async fn counts(&self, model: &str) -> Result<Counts> {
        let base = self.prefix.base(model);
        let own = |name: &str| format!("{base}{name}");
        let mut pipeline = redis::Pipeline::new();
        for set in ["ready", "sched", "leases", "dead"] {
            pipeline.cmd("ZCARD").arg(own(set));
        }
        pipeline.cmd("SCARD").arg(own("cx"));
        pipeline.cmd("HMGET").arg(own("meta")).arg(&["bytes", "paused", "enq", "fin", "drop"]);
        pipeline.cmd("ZRANGE").arg(own("ready")).arg(0).arg(0);
        pipeline.cmd("TIME");
        let replies = self.hub.send_all(&pipeline).await.map_err(|e| super::coded(&e))?;
        let [queued, scheduled, leased, dead, cancelled, meta, head, time] =
            <[Value; 8]>::try_from(replies).map_err(|_| unexpected("counts", &Value::Nil))?;
        let number = |value: &Value| match value {
            Value::Int(number) => (*number).max(0) as u64,
            Value::BulkString(text) => {
                std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) as u64
            }
            _ => 0,
        };
        let meta = match meta {
            Value::Array(fields) => fields.iter().map(number).collect(),
            _ => vec![0; 5],
        };
        let oldest_ms = match (head, time) {
            (Value::Array(keys), Value::Array(time)) => match (&keys[..], &time[..]) {
                ([Value::BulkString(key)], [seconds, micros]) => {
                    let now_us = number(seconds) * 1_000_000 + number(micros);
                    self.age_ms(&base, key, now_us).await?
                }
                _ => 0,
            },
            _ => 0,
        };
        Ok(Counts {
            queued: number(&queued),
            scheduled: number(&scheduled),
            leased: number(&leased).saturating_sub(number(&cancelled)),
            dead: number(&dead),
            queued_bytes: meta[0],
            oldest_ms,
            paused: meta[1] == 1,
            enqueued_total: meta[2],
            finished_total: meta[3],
            dropped_total: meta[4],
        })
    }

    /// Since when the job that runs next has been queued.
    async fn age_ms(&self, base: &str, key: &[u8], now_us: u64) -> Result<u64> {
        let name = [base.as_bytes(), key].concat();
        match self.send(redis::cmd("GETRANGE").arg(name).arg(0).arg(record::TIMES_END - 1)).await? {
            Value::BulkString(bytes) => {
                let queued_us = record::queued_us(&bytes).unwrap_or(now_us);
                Ok(now_us.saturating_sub(queued_us) / 1000)
            }
            _ => Ok(0),
        }
    }

    /// Calls a dead-letter script for `ids`, or in turns for up to `limit` of the
    /// oldest.
    async fn dead(&self, ids: &[JobId], limit: usize, call: impl Fn(usize) -> redis::Cmd) -> Result<u64> {
        let mut went = 0;
        if !ids.is_empty() {
            for chunk in ids.chunks(DEAD_CHUNK) {
                let mut cmd = call(0);
                for id in chunk {
                    cmd.arg(&key_of(*id)[..]);
                }
                went += count(self.send(&cmd).await?)?;
            }
            return Ok(went);
        }
        while went < limit as u64 {
            let cmd = call(DEAD_CHUNK.min(limit - went as usize));
            match count(self.send(&cmd).await?)? {
                0 => break,
                some => went += some,
            }
        }
        Ok(went)
    }
}

/// What the get script says: a record and the state a pending one is in.
fn read_reply(reply: Value) -> Result<Option<(Bytes, JobState)>> {
    let parts = match reply {
        Value::Nil => return Ok(None),
        Value::Array(parts) => parts,
        other => return Err(unexpected("a job", &other)),
    };
    let Ok([Value::BulkString(bytes), Value::BulkString(place)]) = <[Value; 2]>::try_from(parts) else {
        return Err(unexpected("a job", &Value::Nil));
    };
    let state = match &place[..] {
        b"q" => JobState::Queued,
        // A first attempt waits for its time, a later one for its retry.
        b"s" if bytes.get(1) == Some(&0) => JobState::Scheduled,
        b"s" => JobState::Failed,
        _ => JobState::Leased,
    };
    Ok(Some((bytes.into(), state)))
}

fn count(reply: Value) -> Result<u64> {
    match reply {
        Value::Int(number) => Ok(number.max(0) as u64),
        other => Err(unexpected("a count", &other)),
    }
}
