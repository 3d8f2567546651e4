//! The metadata store on Redis. Every key is the deployment's own (tag `{:}`, one slot):
//!
//! | key | type | holds | lives |
//! |---|---|---|---|
//! | `nobat{:}claim:<key>` | string | a lock's holder | the lock's ttl |
//! | `nobat{:}doc:<space>` | hash | name -> value | |
//! | `nobat{:}log:<log>` | list | entries, newest first, capped | |
//! | `nobat{:}timers:<set>` | zset | keys by due time, ms | |
//! | `nobat{:}timer:<set>` | hash | key -> value | as the timer |
//!
//! What takes more than one command is one script, sent by its text: these calls
//! are rare, and a server that forgot its scripts is no case of its own. Time is
//! the server's. A call whose reply was lost is sent again: at worst a log has an
//! entry twice, or a lock or timer of ours reads as somebody else's until it ends.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nobat_core::Result;
use redis::{Cmd, cmd};

use super::store::RedisStore;
use crate::api::{MetadataStore, Timer};
use crate::errors::check_document;

const NOW: &str = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000) ";

/// KEYS lock; ARGV holder, ttl ms. 1 when it is the holder's now.
const LOCK: &str = "
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1";

/// KEYS lock; ARGV holder.
const UNLOCK: &str = "
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

/// KEYS timers, values; ARGV key, value, delay ms, and the value it must have before,
/// if it must have one (or the new one already). 1 when it was moved.
const MOVE_TIMER: &str = "
local before = redis.call('HGET', KEYS[2], ARGV[1])
if not before or ARGV[4] and before ~= ARGV[4] and before ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
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

/// A deployment's metadata on Redis.
pub(super) struct RedisMetadata {
    store: Arc<RedisStore>,
}

impl RedisMetadata {
    pub(super) fn new(store: Arc<RedisStore>) -> RedisMetadata {
        RedisMetadata { store }
    }

    fn check(&self, name: &str, value: &[u8]) -> Result<()> {
        check_document(name, value.len(), self.store.server.value_max())
    }

    fn key(&self, kind: &str, name: &str) -> String {
        self.store.prefix.global(&format!("{kind}:{name}"))
    }

    /// A command on one key.
    fn on(&self, command: &str, kind: &str, name: &str) -> Cmd {
        cmd(command).arg(self.key(kind, name)).clone()
    }

    /// A script on one key.
    fn script(&self, script: &str, kind: &str, name: &str) -> Cmd {
        cmd("EVAL").arg(script).arg(1).arg(self.key(kind, name)).clone()
    }

    /// A script on a set of timers, which knows the time.
    fn on_timers(&self, script: &str, set: &str) -> Cmd {
        let (timers, values) = (self.key("timers", set), self.key("timer", set));
        cmd("EVAL").arg(format!("{NOW}{script}")).arg(2).arg(timers).arg(values).clone()
    }
}

#[async_trait]
impl MetadataStore for RedisMetadata {
    async fn now_ms(&self) -> Result<u64> {
        // On a key: a cluster's answer is that of the server with the timers.
        self.store.query(&self.on_timers("return now", ""), "a time").await
    }

    async fn lock(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool> {
        self.store.query(self.script(LOCK, "claim", key).arg(holder).arg(millis(ttl).max(1)), "a lock").await
    }

    async fn unlock(&self, key: &str, holder: &str) -> Result<()> {
        self.store.send(self.script(UNLOCK, "claim", key).arg(holder)).await.map(drop)
    }

    async fn documents(&self, space: &str) -> Result<Vec<(String, Bytes)>> {
        let pairs: Vec<(String, Vec<u8>)> = self.store.query(&self.on("HGETALL", "doc", space), "documents").await?;
        Ok(pairs.into_iter().map(|(name, value)| (name, value.into())).collect())
    }

    async fn put(&self, space: &str, key: &str, value: &[u8]) -> Result<()> {
        self.check(key, value)?;
        self.store.send(self.on("HSET", "doc", space).arg(key).arg(value)).await.map(drop)
    }

    async fn remove(&self, space: &str, key: &str) -> Result<bool> {
        self.store.query(self.on("HDEL", "doc", space).arg(key), "a count").await
    }

    async fn append(&self, log: &str, entry: &[u8], keep: usize) -> Result<()> {
        self.check(log, entry)?;
        self.store.send(self.script(APPEND, "log", log).arg(entry).arg(keep.max(1) - 1)).await.map(drop)
    }

    async fn tail(&self, log: &str, limit: usize) -> Result<Vec<Bytes>> {
        let Some(last) = limit.checked_sub(1) else { return Ok(Vec::new()) };
        let entries: Vec<Vec<u8>> =
            self.store.query(self.on("LRANGE", "log", log).arg(0).arg(last), "a log's entries").await?;
        Ok(entries.into_iter().map(Bytes::from).collect())
    }

    async fn add_timer(&self, set: &str, key: &str, value: &[u8], delay: Duration) -> Result<bool> {
        self.check(key, value)?;
        self.store.query(self.on_timers(ADD_TIMER, set).arg(key).arg(value).arg(millis(delay)), "a timer").await
    }

    async fn timer(&self, set: &str, key: &str) -> Result<Option<Bytes>> {
        let value: Option<Vec<u8>> = self.store.query(self.on("HGET", "timer", set).arg(key), "a timer").await?;
        Ok(value.map(Bytes::from))
    }

    async fn take_due(&self, set: &str, limit: usize, lease: Duration) -> Result<Vec<Timer>> {
        let pairs: Vec<(String, Vec<u8>)> =
            self.store.query(self.on_timers(TAKE_DUE, set).arg(limit).arg(millis(lease)), "timers").await?;
        Ok(pairs.into_iter().map(|(key, value)| Timer { key, value: value.into() }).collect())
    }

    async fn move_timer(&self, set: &str, key: &str, value: &[u8], delay: Duration) -> Result<bool> {
        self.check(key, value)?;
        self.store.query(self.on_timers(MOVE_TIMER, set).arg(key).arg(value).arg(millis(delay)), "a timer").await
    }

    async fn swap_timer(&self, set: &str, key: &str, from: &[u8], to: &[u8], delay: Duration) -> Result<bool> {
        self.check(key, to)?;
        let mut swap = self.on_timers(MOVE_TIMER, set);
        self.store.query(swap.arg(key).arg(to).arg(millis(delay)).arg(from), "a timer").await
    }

    async fn remove_timer(&self, set: &str, key: &str) -> Result<bool> {
        self.store.query(self.on_timers(REMOVE_TIMER, set).arg(key), "a timer").await
    }

    async fn timers(&self, set: &str, limit: usize) -> Result<Vec<(Timer, Duration)>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let rows: Vec<(String, Vec<u8>, u64)> =
            self.store.query(self.on_timers(TIMERS, set).arg(limit), "timers").await?;
        let timer = |(key, value, left): (String, Vec<u8>, u64)| {
            (Timer { key, value: value.into() }, Duration::from_millis(left))
        };
        Ok(rows.into_iter().map(timer).collect())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
