//! Live workers, what they serve, and commands to them.
//!
//! Workers refresh a field of one hash, with their expiry in it; a change is
//! published, so that gateways read the hash only then (or every few seconds).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nobat_core::{Error, ErrorCode, Result};
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};
use std::collections::HashMap;
use tokio::sync::{Notify, broadcast};

use super::connect::OnPush;
use super::timekeeper::Timers;
use super::{Inner, scripts};
use crate::api::{WorkerCommand, WorkerInfo};

/// A change is noticed within this even when its message is lost.
const LOOK: Duration = Duration::from_secs(5);
/// Commands a slow reader may lag behind.
const COMMANDS: usize = 64;

#[derive(Clone)]
pub(crate) struct Registry {
    changed: Arc<Notify>,
    /// Counts the changes that were published.
    version: Arc<AtomicU64>,
    /// The version that was last read: a reader that missed a change between reading
    /// and waiting does not wait.
    read: Arc<AtomicU64>,
    commands: broadcast::Sender<WorkerCommand>,
    /// One reader for the whole process, open from the start: a command that
    /// comes between two calls of `next_command` waits here.
    reader: Arc<tokio::sync::Mutex<broadcast::Receiver<WorkerCommand>>>,
    /// What this process last published about its workers, to publish changes only.
    published: Arc<Mutex<HashMap<String, String>>>,
}

impl Default for Registry {
    fn default() -> Registry {
        let (commands, reader) = broadcast::channel(COMMANDS);
        Registry {
            changed: Arc::default(),
            version: Arc::default(),
            read: Arc::default(),
            commands,
            reader: Arc::new(tokio::sync::Mutex::new(reader)),
            published: Arc::default(),
        }
    }
}

/// Takes what the server pushes on the process's own connection: `channels` are
/// the registry's, the commands' and the timekeeper's.
pub(crate) fn on_push(channels: Vec<String>, registry: Registry, timers: Timers) -> OnPush {
    Arc::new(move |info: PushInfo| {
        if info.kind != PushKind::Message {
            return;
        }
        let mut data = info.data.into_iter();
        let (Some(Value::BulkString(channel)), Some(Value::BulkString(message))) = (data.next(), data.next()) else {
            return;
        };
        match channels.iter().position(|name| name.as_bytes() == channel) {
            Some(0) => {
                registry.version.fetch_add(1, Ordering::AcqRel);
                registry.changed.notify_waiters();
            }
            Some(1) => match serde_json::from_slice(&message) {
                // Nobody listening is no fault: a gateway runs no models.
                Ok(command) => drop(registry.commands.send(command)),
                Err(e) => log::warn!("a command to workers cannot be read and was skipped: {e}"),
            },
            Some(_) => timers.nudge(&String::from_utf8_lossy(&message)),
            None => {}
        }
    })
}

impl Inner {
    pub(crate) async fn register(&self, info: &WorkerInfo, ttl: Duration) -> Result<()> {
        let json = serde_json::to_string(info)
            .map_err(|e| Error::new(ErrorCode::Internal, format!("worker cannot be described: {e}")))?;
        let expiry_ms = self.server_ms().await? + ttl.as_millis() as u64;
        let key = self.prefix.global("workers");
        let set = redis::cmd("HSET").arg(&key).arg(info.id.as_str()).arg(format!("{expiry_ms} {json}")).clone();
        // Whoever found it expired has forgotten it: that it is back is a change as well.
        let returned = self.send(&set).await? == Value::Int(1);
        let identity = serde_json::to_string(&(&info.models, info.sessions)).unwrap_or_default();
        let changed = self.registry.published.lock().insert(info.id.to_string(), identity.clone()) != Some(identity);
        if changed || returned {
            self.announce().await?;
        }
        Ok(())
    }

    pub(crate) async fn deregister(&self, id: &str) -> Result<()> {
        self.registry.published.lock().remove(id);
        self.send(redis::cmd("HDEL").arg(self.prefix.global("workers")).arg(id)).await?;
        self.announce().await
    }

    pub(crate) async fn live_workers(&self) -> Result<Vec<WorkerInfo>> {
        self.registry.read.store(self.registry.version.load(Ordering::Acquire), Ordering::Release);
        let (live, expired) = self.read_workers().await?;
        if expired.is_empty() {
            return Ok(live);
        }
        let mut forget = scripts::FORGET.on(self.prefix.global("workers"));
        for (id, text) in &expired {
            forget.arg(id).arg(text);
        }
        match self.send(&forget).await {
            // One of them came back in the meantime.
            Ok(Value::Int(went)) if went < expired.len() as i64 => Ok(self.read_workers().await?.0),
            // They are forgotten another time where writes are refused.
            _ => Ok(live),
        }
    }

    /// Live workers; id and registration of those that ran out.
    async fn read_workers(&self) -> Result<(Vec<WorkerInfo>, Vec<(String, String)>)> {
        let key = self.prefix.global("workers");
        let mut all = redis::cmd("HGETALL");
        // Asked for together: gateways do this for ever, and each answer wakes two threads.
        let (now_ms, reply) = futures::try_join!(self.server_ms(), self.send(all.arg(&key)))?;
        let all: HashMap<String, String> = redis::from_redis_value(reply)
            .map_err(|e| Error::new(ErrorCode::Internal, format!("redis key `{key}` cannot be read: {e}")))?;
        let (mut live, mut expired) = (Vec::with_capacity(all.len()), Vec::new());
        for (id, text) in all {
            let parsed = text.split_once(' ').and_then(|(expiry, json)| Some((expiry.parse::<u64>().ok()?, json)));
            match parsed {
                Some((expiry, json)) if expiry > now_ms => match serde_json::from_str(json) {
                    Ok(info) => live.push(info),
                    Err(e) => {
                        log::warn!(worker = id.as_str(); "a worker's registration cannot be read and is skipped: {e}")
                    }
                },
                _ => expired.push((id, text)),
            }
        }
        live.sort_by(|a: &WorkerInfo, b| a.id.cmp(&b.id));
        Ok((live, expired))
    }

    pub(crate) async fn registry_changed(&self) {
        let registry = &self.registry;
        let changed = registry.changed.notified();
        tokio::pin!(changed);
        // Registered before the versions are compared: a change in between is seen.
        changed.as_mut().enable();
        if registry.version.load(Ordering::Acquire) == registry.read.load(Ordering::Acquire) {
            let _ = tokio::time::timeout(LOOK, changed).await;
        }
    }

    pub(crate) async fn publish_command(&self, command: &WorkerCommand) -> Result<()> {
        let json = serde_json::to_string(command)
            .map_err(|e| Error::new(ErrorCode::Internal, format!("command cannot be written: {e}")))?;
        self.send(redis::cmd("PUBLISH").arg(self.prefix.global("commands")).arg(json)).await.map(drop)
    }

    pub(crate) async fn next_command(&self) -> WorkerCommand {
        let mut reader = self.registry.reader.lock().await;
        loop {
            match reader.recv().await {
                Ok(command) => return command,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    log::warn!(missed; "commands to this worker were lost; send them again");
                }
                // The sender lives as long as this process's store.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    async fn announce(&self) -> Result<()> {
        self.send(redis::cmd("PUBLISH").arg(self.prefix.global("registry")).arg("")).await.map(drop)
    }

    async fn server_ms(&self) -> Result<u64> {
        let reply = self.send(&redis::cmd("TIME")).await?;
        let (seconds, micros): (u64, u64) = redis::from_redis_value(reply)
            .map_err(|e| Error::new(ErrorCode::Internal, format!("redis told no time: {e}")))?;
        Ok(seconds * 1000 + micros / 1000)
    }
}
