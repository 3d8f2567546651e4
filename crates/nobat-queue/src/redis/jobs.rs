//! Reading jobs and counting them, and what becomes of dead letters.

use std::sync::Arc;

use bytes::Bytes;
use nobat_core::job::{JobState, JobView};
use nobat_core::{JobId, OwnerId, Result};
use redis::Value;

use super::connection::{parse, to_error};
use super::keys::{QueueKeys, key_of};
use super::record::{self, Record, StoredJob, flag, state};
use super::scripts;
use super::store::RedisStore;
use crate::api::Counts;

/// Dead letters one script call moves.
const DEAD_CHUNK: usize = 200;

impl RedisStore {
    /// Reads a job, its result included.
    pub(crate) async fn read(&self, id: JobId) -> Result<Option<JobView>> {
        match self.record_of(id).await? {
            Some((queue, bytes, pending)) => self.view_of(&queue, id, bytes, pending).await.map(Some),
            None => Ok(None),
        }
    }

    /// A job's payload, from its record or from beside it.
    pub(crate) async fn input(&self, id: JobId) -> Result<Option<Bytes>> {
        let Some((queue, bytes, _)) = self.record_of(id).await? else { return Ok(None) };
        // What succeeded is repacked, without its input.
        if bytes.first().is_none_or(|first| first & 7 == state::SUCCEEDED) {
            return Ok(None);
        }
        match Record::parse(&bytes) {
            Some(record) if record.flags & flag::STRIPPED != 0 => Ok(None),
            Some(record) if record.flags & flag::BLOB != 0 => {
                let payload = redis::cmd("GET").arg(queue.payload(&key_of(id))).clone();
                let payload = self.values.send_patiently(&payload).await?;
                Ok(parse::<Option<Vec<u8>>>(payload, "a payload")?.map(Bytes::from))
            }
            Some(record) => Ok(Some(bytes.slice(record.head_len..record.tail_at))),
            None => Ok(None),
        }
    }

    /// A job's record, and the state it is in if it is pending.
    async fn record_of(&self, id: JobId) -> Result<Option<(Arc<QueueKeys>, Bytes, JobState)>> {
        let Some(queue) = self.queue_of(id).await? else { return Ok(None) };
        let mut cmd = scripts::GET.on(&queue.base);
        cmd.arg(&key_of(id)[..]);
        let found: Option<(Vec<u8>, String)> = self.query(&cmd, "a job").await?;
        Ok(found.map(|(bytes, place)| {
            let pending = match &place[..] {
                "q" => JobState::Queued,
                // A first attempt waits for its time, a later one for its retry.
                "s" if bytes.get(1) == Some(&0) => JobState::Scheduled,
                "s" => JobState::Failed,
                _ => JobState::Leased,
            };
            (queue, bytes.into(), pending)
        }))
    }

    /// The view of a job that ended, from its record.
    pub(crate) async fn view(&self, queue: &QueueKeys, id: JobId, bytes: Bytes) -> Result<JobView> {
        self.view_of(queue, id, bytes, JobState::Queued).await
    }

    async fn view_of(&self, queue: &QueueKeys, id: JobId, bytes: Bytes, pending: JobState) -> Result<JobView> {
        let Some(StoredJob { mut view, blob }) = record::read(bytes, queue, id.random, self.ids, pending) else {
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
        let get = redis::cmd("GET").arg(queue.result(&key_of(view.id), token)).clone();
        let packed = match self.values.send_patiently(&get).await? {
            Value::BulkString(packed) => packed.into(),
            // Both have one ttl; its record went a moment later.
            _ => Bytes::new(),
        };
        record::set_result(&mut view, packed);
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
        let replies = self.manager.send_all(&pipeline).await.map_err(|e| to_error(&e))?;
        type Replies = (u64, u64, u64, u64, u64, Vec<Option<f64>>, Vec<Vec<u8>>, (u64, u64));
        let (queued, scheduled, leased, dead, cancelled, meta, head, (seconds, micros)): Replies =
            parse(Value::Array(replies), "counts")?;
        let meta = |at: usize| meta.get(at).copied().flatten().unwrap_or(0.0) as u64;
        let oldest_ms = match head.first() {
            Some(key) => self.age_ms(&base, key, seconds * 1_000_000 + micros).await?,
            None => 0,
        };
        Ok(Counts {
            queued,
            scheduled,
            leased: leased.saturating_sub(cancelled),
            dead,
            queued_bytes: meta(0),
            oldest_ms,
            paused: meta(1) == 1,
            enqueued_total: meta(2),
            finished_total: meta(3),
            dropped_total: meta(4),
        })
    }

    /// Since when the job that runs next has been queued.
    async fn age_ms(&self, base: &str, key: &[u8], now_us: u64) -> Result<u64> {
        let name = [base.as_bytes(), key].concat();
        let begin = redis::cmd("GETRANGE").arg(name).arg(0).arg(record::TIMES_END - 1).clone();
        let queued_us = record::queued_us(&self.query::<Vec<u8>>(&begin, "a record").await?);
        Ok(now_us.saturating_sub(queued_us.unwrap_or(now_us)) / 1000)
    }

    /// Calls a dead-letter script for `ids`, or in turns for up to `limit` of the oldest.
    pub(crate) async fn move_dead(
        &self,
        ids: &[JobId],
        limit: usize,
        call: impl Fn(usize) -> redis::Cmd,
    ) -> Result<u64> {
        let mut went = 0;
        for chunk in ids.chunks(DEAD_CHUNK) {
            let mut cmd = call(0);
            for id in chunk {
                cmd.arg(&key_of(*id)[..]);
            }
            went += self.query::<u64>(&cmd, "a count").await?;
        }
        while ids.is_empty() && went < limit as u64 {
            match self.query(&call(DEAD_CHUNK.min(limit - went as usize)), "a count").await? {
                0 => break,
                some => went += some,
            }
        }
        Ok(went)
    }
}
