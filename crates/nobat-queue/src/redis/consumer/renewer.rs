//! Keeping leases alive, from a thread that inference cannot starve.

use std::sync::Arc;

use async_trait::async_trait;
use nobat_core::job::LeaseToken;
use nobat_core::{JobId, Result};
use redis::Value;

use super::super::connection::{ConnectionManager, to_error, unexpected};
use super::super::keys::lease_member;
use super::super::scripts;
use super::super::store::RedisStore;
use crate::api::{Renewal, Renewer};

/// Leases renewed per script call.
const CHUNK: usize = 500;

pub(crate) struct RedisRenewer {
    store: Arc<RedisStore>,
    manager: ConnectionManager,
}

impl RedisRenewer {
    pub(crate) fn new(store: Arc<RedisStore>) -> RedisRenewer {
        let manager = ConnectionManager::new(store.endpoint.clone(), None);
        RedisRenewer { store, manager }
    }
}

#[async_trait]
impl Renewer for RedisRenewer {
    async fn renew(&mut self, model: &str, leases: &[(JobId, LeaseToken)]) -> Result<Vec<Renewal>> {
        let queue = self.store.queue(model).await?;
        let mut out = Vec::with_capacity(leases.len());
        for chunk in leases.chunks(CHUNK) {
            let mut cmd = scripts::RENEW.on(&queue.base);
            cmd.arg(u64::from(self.store.settings.lease_ms) * 1000);
            for (id, token) in chunk {
                cmd.arg(&lease_member(*id, *token)[..]);
            }
            // Safe to repeat: a lease renewed twice is renewed.
            let reply = match self.manager.send(&cmd).await {
                Ok(reply) => reply,
                Err(_) => self.manager.send(&cmd).await.map_err(|e| to_error(&e))?,
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
