//! What gateways share through Redis beside jobs: cached answers, and the
//! buckets of callers with a rate. Both may be lost: a lost answer is a miss, a
//! lost bucket is a full one.
//!
//! Nothing here is patient: a request waits for it, so a Redis that is away is
//! told at once and the gateway goes by what it knows itself.

use std::time::Duration;

use bytes::Bytes;
use nobat_core::{OwnerId, Result};
use redis::Value;

use super::connect::coded;
use super::{Inner, scripts, unexpected};
use crate::api::RateDecision;

impl Inner {
    pub(super) async fn cached(&self, key: u128) -> Result<Option<Bytes>> {
        let mut cmd = redis::cmd("GET");
        cmd.arg(self.prefix.cached(key));
        match self.hub.send(&cmd).await.map_err(|e| coded(&e))? {
            Value::BulkString(answer) => Ok(Some(answer.into())),
            Value::Nil => Ok(None),
            other => Err(unexpected("a cached answer", &other)),
        }
    }

    pub(super) async fn keep_cached(&self, key: u128, answer: &[u8], ttl: Duration) -> Result<()> {
        // An answer that is too large is made again each time.
        if answer.len() > self.server.value_max() {
            return Ok(());
        }
        let mut cmd = redis::cmd("SET");
        cmd.arg(self.prefix.cached(key)).arg(answer).arg("PX").arg(ttl.as_millis() as u64);
        self.hub.send(&cmd).await.map_err(|e| coded(&e)).map(|_| ())
    }

    pub(super) async fn take_rate(&self, owner: OwnerId, interval: Duration, window: Duration) -> Result<RateDecision> {
        let mut cmd = scripts::RATE.on(self.prefix.rate(owner));
        // Whole microseconds: the script keeps its state as one such number.
        cmd.arg(interval.as_micros().max(1) as u64).arg(window.as_micros().max(1) as u64);
        let reply = self.hub.send(&cmd).await.map_err(|e| coded(&e))?;
        let parts = match reply {
            Value::Array(parts) => <[Value; 2]>::try_from(parts).map_err(|_| unexpected("a rate", &Value::Nil))?,
            other => return Err(unexpected("a rate", &other)),
        };
        match parts {
            [Value::Int(allowed), Value::Int(debt_us)] => {
                Ok(RateDecision { allowed: allowed == 1, debt: Duration::from_micros(debt_us.max(0) as u64) })
            }
            _ => Err(unexpected("a rate", &Value::Nil)),
        }
    }
}
