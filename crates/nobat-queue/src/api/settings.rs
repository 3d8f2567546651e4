//! What a deployment fixes for its queues.

use std::time::Duration;

use nobat_core::score::Aging;
use nobat_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::consumer::LEASE;

/// What a deployment fixes for its queues; the same for every process on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueSettings {
    /// Aging step in seconds; 0 is strict priority.
    pub aging_s: u32,
    /// Most waiting jobs per queue; 0 is no limit.
    pub max_jobs: u64,
    /// Most waiting payload bytes per queue; 0 is no limit.
    pub max_bytes: u64,
    /// Dead letters kept per queue; the oldest go first.
    pub max_dead: u32,
    /// How long a dead letter is kept, in seconds.
    pub dead_ttl_s: u32,
    /// How long after a result's end its id still answers 410, in seconds.
    pub tombstone_s: u32,
    /// How long an idempotency key is remembered at most, in seconds: it names nothing
    /// once its job has no record.
    pub idempotency_ttl_s: u32,
    /// Lease length in milliseconds; workers renew at a third of it.
    pub lease_ms: u32,
    /// When an enqueue is answered: `memory` after the store has it, `fsync`
    /// after it is on disk, `replicated` after a replica has it, too.
    pub durability: Durability,
    /// Whether enqueues write down by what jobs are found: when they came, their tags and
    /// their callers' request ids.
    pub index: bool,
}

impl Default for QueueSettings {
    fn default() -> QueueSettings {
        QueueSettings {
            aging_s: 60,
            max_jobs: 0,
            max_bytes: 0,
            max_dead: 10_000,
            dead_ttl_s: 7 * 86_400,
            tombstone_s: 86_400,
            idempotency_ttl_s: 86_400,
            lease_ms: LEASE.as_millis() as u32,
            durability: Durability::Memory,
            index: true,
        }
    }
}

impl QueueSettings {
    /// Checks the settings.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the key and the remedy.
    pub fn validate(&self) -> Result<()> {
        // Nothing can be stored for no time at all: what is to be kept so would fail.
        for (key, seconds) in [("dead_ttl_s", self.dead_ttl_s), ("idempotency_ttl_s", self.idempotency_ttl_s)] {
            if seconds == 0 {
                return Err(Error::invalid(format!("queue.{key} is 0; take 1 s or more")));
            }
        }
        Ok(())
    }

    /// The aging rule these settings state.
    pub fn aging(&self) -> Aging {
        match self.aging_s {
            0 => Aging::Strict,
            step => Aging::Step(Duration::from_secs(u64::from(step))),
        }
    }
}

/// When an enqueue is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// The store has it: survives a killed process of ours; a killed Redis
    /// loses what its append-only policy has not written.
    #[default]
    Memory,
    /// It is on disk (WAITAOF on Redis, `synchronous=FULL` on SQLite).
    Fsync,
    /// A replica has it as well: on both disks where the servers keep an append-only
    /// file and are Redis 7.2 or later (WAITAOF), else in the replica's memory (WAIT).
    /// Redis only.
    Replicated,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_kept_for_a_while() {
        let default = QueueSettings::default;
        assert!(default().validate().is_ok());
        for (settings, key) in [
            (QueueSettings { dead_ttl_s: 0, ..default() }, "dead_ttl_s"),
            (QueueSettings { idempotency_ttl_s: 0, ..default() }, "idempotency_ttl_s"),
        ] {
            let said = settings.validate().expect_err(key).message;
            assert!(said.contains(&format!("queue.{key} is 0")), "{said}");
        }
    }
}
