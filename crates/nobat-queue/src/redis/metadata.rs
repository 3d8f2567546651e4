//! The metadata store on Redis. Every key is the deployment's own (tag `{:}`, one slot):
//!
//! | key | type | holds | lives |
//! |---|---|---|---|
//! | `nobat{:}claim:<key>` | string | the holder | the claim's ttl |
//! | `nobat{:}doc:<space>` | hash | name -> value | |
//! | `nobat{:}log:<log>` | list | entries, newest first, capped | |
//! | `nobat{:}timers:<set>` | zset | keys by due time, ms | |
//! | `nobat{:}timer:<set>` | hash | key -> value | as the timer |
//!
//! What takes more than one command is one script, sent by its text: these calls
//! are rare, and a server that forgot its scripts is no case of its own. Time is
//! the server's. A call whose reply was lost is sent again: at worst a log has an
//! entry twice, or a claim or timer of ours reads as somebody else's until it ends.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nobat_core::{Error, ErrorCode, Result};
use redis::{Cmd, FromRedisValue, cmd};

use super::Inner;

use crate::api::{MetadataStore, Timer};
use crate::limits;

const NOW: &str = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000) ";

/// KEYS claim; ARGV holder, ttl ms. 1 when it is the holder's now.
const CLAIM: &str = "
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1";

/// KEYS claim; ARGV holder.
const RELEASE: &str = "
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 0";

/// KEYS log; ARGV entry, index of the last entry kept.
const APPEND: &str = "
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], 0, ARGV[2])
return 0";

/// KEYS timers, values; ARGV key, value, delay ms. 1 when it was new.
const ADD_TIMER: &str = "
if redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
return 1";

/// KEYS timers, values; ARGV key, value, delay ms. 1 when it was there.
const MOVE_TIMER: &str = "
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
return 1";

/// KEYS timers, values; ARGV key, value before, value, delay ms. 1 when it was that.
const SWAP_TIMER: &str = "
local value = redis.call('HGET', KEYS[2], ARGV[1])
if value ~= ARGV[2] and value ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('ZADD', KEYS[1], now + ARGV[4], ARGV[1])
return 1";

/// KEYS timers, values; ARGV key. 1 when it was there.
const REMOVE_TIMER: &str = "
redis.call('ZREM', KEYS[1], ARGV[1])
return redis.call('HDEL', KEYS[2], ARGV[1])";

/// KEYS timers, values; ARGV limit, lease ms. Key, value of each taken.
const TAKE_DUE: &str = "
local out = {}
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local value = redis.call('HGET', KEYS[2], key)
  if value then
    redis.call('ZADD', KEYS[1], now + ARGV[2], key)
    out[#out + 1] = key
    out[#out + 1] = value
  else
    redis.call('ZREM', KEYS[1], key)
  end
end
return out";

/// KEYS timers, values; ARGV limit. Key, value, ms left of each.
const TIMERS: &str = "
local out = {}
local due = redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1, 'WITHSCORES')
for at = 1, #due, 2 do
  out[#out + 1] = due[at]
  out[#out + 1] = redis.call('HGET', KEYS[2], due[at]) or ''
  out[#out + 1] = string.format('%d', math.max(0, due[at + 1] - now))
end
return out";

/// A deployment's metadata store on Redis.
pub(super) struct RedisMetadata {
    inner: Arc<Inner>,
}

impl RedisMetadata {
    pub(super) fn new(inner: Arc<Inner>) -> RedisMetadata {
        RedisMetadata { inner }
    }

    fn check(&self, name: &str, value: &[u8]) -> Result<()> {
        limits::check_document(name, value.len(), self.inner.server.value_max())
    }

    fn key(&self, kind: &str, name: &str) -> String {
        self.inner.prefix.global(&format!("{kind}:{name}"))
    }

    async fn send<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T> {
        let reply = self.inner.send(cmd).await?;
        T::from_redis_value(reply)
            .map_err(|e| Error::new(ErrorCode::Internal, format!("redis gave an unexpected answer: {e}")))
    }

    fn on_timers(&self, script: &str, set: &str) -> Cmd {
        let mut call = cmd("EVAL");
        call.arg(format!("{NOW}{script}")).arg(2).arg(self.key("timers", set)).arg(self.key("timer", set));
        call
    }
}

#[async_trait]
impl MetadataStore for RedisMetadata {
    async fn now_ms(&self) -> Result<u64> {
        // A script, for a key: a cluster's answer is that of the server with the timers.
        let mut call = cmd("EVAL");
        call.arg(format!("{NOW}return now")).arg(1).arg(self.key("timers", ""));
        self.send(&call).await
    }

    async fn lock(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool> {
        let mut call = cmd("EVAL");
        call.arg(CLAIM).arg(1).arg(self.key("claim", key)).arg(holder).arg(millis(ttl).max(1));
        self.send(&call).await
    }

    async fn unlock(&self, key: &str, holder: &str) -> Result<()> {
        self.send(cmd("EVAL").arg(RELEASE).arg(1).arg(self.key("claim", key)).arg(holder)).await
    }

    async fn documents(&self, space: &str) -> Result<Vec<(String, Bytes)>> {
        let pairs: Vec<(String, Vec<u8>)> = self.send(cmd("HGETALL").arg(self.key("doc", space))).await?;
        Ok(pairs.into_iter().map(|(name, value)| (name, value.into())).collect())
    }

    async fn put(&self, space: &str, key: &str, value: &[u8]) -> Result<()> {
        self.check(key, value)?;
        self.send::<u64>(cmd("HSET").arg(self.key("doc", space)).arg(key).arg(value)).await.map(drop)
    }

    async fn remove(&self, space: &str, key: &str) -> Result<bool> {
        self.send(cmd("HDEL").arg(self.key("doc", space)).arg(key)).await
    }

    async fn append(&self, log: &str, entry: &[u8], keep: usize) -> Result<()> {
        self.check(log, entry)?;
        let mut call = cmd("EVAL");
        call.arg(APPEND).arg(1).arg(self.key("log", log)).arg(entry).arg(keep.max(1) - 1);
        self.send(&call).await
    }

    async fn tail(&self, log: &str, limit: usize) -> Result<Vec<Bytes>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let entries: Vec<Vec<u8>> = self.send(cmd("LRANGE").arg(self.key("log", log)).arg(0).arg(limit - 1)).await?;
        Ok(entries.into_iter().map(Bytes::from).collect())
    }

    async fn add_timer(&self, set: &str, key: &str, value: &[u8], delay: Duration) -> Result<bool> {
        self.check(key, value)?;
        self.send(self.on_timers(ADD_TIMER, set).arg(key).arg(value).arg(millis(delay))).await
    }

    async fn take_due(&self, set: &str, limit: usize, lease: Duration) -> Result<Vec<Timer>> {
        let pairs: Vec<(String, Vec<u8>)> =
            self.send(self.on_timers(TAKE_DUE, set).arg(limit).arg(millis(lease))).await?;
        Ok(pairs.into_iter().map(|(key, value)| Timer { key, value: value.into() }).collect())
    }

    async fn move_timer(&self, set: &str, key: &str, value: &[u8], delay: Duration) -> Result<bool> {
        self.check(key, value)?;
        self.send(self.on_timers(MOVE_TIMER, set).arg(key).arg(value).arg(millis(delay))).await
    }

    async fn swap_timer(&self, set: &str, key: &str, from: &[u8], to: &[u8], delay: Duration) -> Result<bool> {
        self.check(key, to)?;
        self.send(self.on_timers(SWAP_TIMER, set).arg(key).arg(from).arg(to).arg(millis(delay))).await
    }

    async fn remove_timer(&self, set: &str, key: &str) -> Result<bool> {
        self.send(self.on_timers(REMOVE_TIMER, set).arg(key)).await
    }

    async fn timers(&self, set: &str, limit: usize) -> Result<Vec<(Timer, Duration)>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let rows: Vec<(String, Vec<u8>, u64)> = self.send(self.on_timers(TIMERS, set).arg(limit)).await?;
        let timer = |(key, value, left): (String, Vec<u8>, u64)| {
            (Timer { key, value: value.into() }, Duration::from_millis(left))
        };
        Ok(rows.into_iter().map(timer).collect())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
