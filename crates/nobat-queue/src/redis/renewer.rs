//! Keeping leases alive, from a thread that inference cannot starve.

use std::sync::Arc;

use async_trait::async_trait;
use nobat_core::job::LeaseToken;
use nobat_core::{JobId, Result};
use redis::Value;

use super::connect::{Hub, coded};
use super::keys::{KEY_LEN, key_of};
use super::{Inner, scripts, unexpected};
use crate::api::{Renewal, Renewer};

/// Leases renewed per script call.
const CHUNK: usize = 500;

pub(crate) struct RedisRenewer {
    inner: Arc<Inner>,
    hub: Hub,
}

impl RedisRenewer {
    pub(crate) fn new(inner: Arc<Inner>) -> RedisRenewer {
        let hub = Hub::new(inner.target.clone(), None);
        RedisRenewer { inner, hub }
    }
}

#[async_trait]
impl Renewer for RedisRenewer {
    async fn renew(&mut self, model: &str, leases: &[(JobId, LeaseToken)]) -> Result<Vec<Renewal>> {
        let queue = self.inner.queue(model).await?;
        let mut out = Vec::with_capacity(leases.len());
        for chunk in leases.chunks(CHUNK) {
            let mut cmd = scripts::RENEW.on(&queue.base);
            cmd.arg(u64::from(self.inner.settings.lease_ms) * 1000);
            for (id, token) in chunk {
                cmd.arg(&member(*id, *token)[..]);
            }
            // Safe to repeat: a lease renewed twice is renewed.
            let reply = match self.hub.send(&cmd).await {
                Ok(reply) => reply,
                Err(_) => self.hub.send(&cmd).await.map_err(|e| coded(&e))?,
            };
            match reply {
                Value::BulkString(flags) if flags.len() == chunk.len() => {
                    out.extend(flags.iter().map(|&flag| if flag == b'1' { Renewal::Renewed } else { Renewal::Lost }));
                }
                other => return Err(unexpected("renewals", &other)),
            }
        }
        Ok(out)
    }
}

/// Length of a lease's member: token and job key.
pub(crate) const MEMBER_LEN: usize = 8 + KEY_LEN;

/// A member of the leases: the exact claim.
pub(crate) fn member(id: JobId, token: LeaseToken) -> [u8; MEMBER_LEN] {
    let mut out = [0; MEMBER_LEN];
    out[..8].copy_from_slice(&token.0.to_le_bytes());
    out[8..].copy_from_slice(&key_of(id));
    out
}
