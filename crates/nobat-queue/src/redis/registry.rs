//! Live workers, what they serve, and commands to them.
//!
//! Workers refresh a field of one hash, with their expiry in it; a change is
//! published, so that gateways read the hash only then (or every few seconds).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use nobat_core::{Error, ErrorCode, Result};
use redis::{PushInfo, PushKind, Value};
use serde::Serialize;

use super::connection::OnPush;
use super::scripts;
use super::store::RedisStore;
use super::sweep_schedule::SweepSchedule;
use crate::api::{WorkerCommand, WorkerInfo};
use crate::worker_signals::WorkerSignals;

/// Takes what the server pushes on the process's own connection: `channels` are
/// the registry's, the commands' and the sweeper's.
pub(crate) fn on_push(channels: Vec<String>, signals: Arc<WorkerSignals>, sweeps: Arc<SweepSchedule>) -> OnPush {
    Arc::new(move |info: PushInfo| {
        if info.kind != PushKind::Message {
            return;
        }
        let mut data = info.data.into_iter();
        let (Some(Value::BulkString(channel)), Some(Value::BulkString(message))) = (data.next(), data.next()) else {
            return;
        };
        match channels.iter().position(|name| name.as_bytes() == channel) {
            Some(0) => signals.change(),
            Some(1) => match serde_json::from_slice(&message) {
                Ok(command) => signals.command(command),
                Err(e) => log::warn!("a command to workers cannot be read and was skipped: {e}"),
            },
            Some(_) => sweeps.wake(&String::from_utf8_lossy(&message)),
            None => {}
        }
    })
}

impl RedisStore {
    pub(crate) async fn register(&self, info: &WorkerInfo, ttl: Duration) -> Result<()> {
        let expiry_ms = self.server_ms().await? + ttl.as_millis() as u64;
        let registration = format!("{expiry_ms} {}", json(info)?);
        let set = redis::cmd("HSET").arg(self.workers_key()).arg(info.id.as_str()).arg(registration).clone();
        // Whoever found it expired has forgotten it: that it is back is a change as well.
        let returned = self.send(&set).await? == Value::Int(1);
        let identity = json(&(&info.models, info.sessions))?;
        let changed = self.published.lock().insert(info.id.to_string(), identity.clone()) != Some(identity);
        if changed || returned { self.publish("registry", "").await } else { Ok(()) }
    }

    pub(crate) async fn deregister(&self, id: &str) -> Result<()> {
        self.published.lock().remove(id);
        self.send(redis::cmd("HDEL").arg(self.workers_key()).arg(id)).await?;
        self.publish("registry", "").await
    }

    pub(crate) async fn live_workers(&self) -> Result<Vec<WorkerInfo>> {
        let (live, expired) = self.read_workers().await?;
        if expired.is_empty() {
            return Ok(live);
        }
        let mut forget = scripts::FORGET.on(self.workers_key());
        for (id, registration) in &expired {
            forget.arg(id).arg(registration);
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
        let all = redis::cmd("HGETALL").arg(self.workers_key()).clone();
        // Asked for together: gateways do this for ever, and each answer wakes two threads.
        let (now_ms, all) =
            futures::try_join!(self.server_ms(), self.query::<HashMap<String, String>>(&all, "the workers"))?;
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

    pub(crate) async fn publish_command(&self, command: &WorkerCommand) -> Result<()> {
        self.publish("commands", &json(command)?).await
    }

    async fn publish(&self, channel: &str, message: &str) -> Result<()> {
        self.send(redis::cmd("PUBLISH").arg(self.prefix.global(channel)).arg(message)).await.map(drop)
    }

    fn workers_key(&self) -> String {
        self.prefix.global("workers")
    }

    async fn server_ms(&self) -> Result<u64> {
        let (seconds, micros): (u64, u64) = self.query(&redis::cmd("TIME"), "a time").await?;
        Ok(seconds * 1000 + micros / 1000)
    }
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|e| Error::new(ErrorCode::Internal, format!("a message about workers cannot be written: {e}")))
}
