//! One call of `settle_and_lease`: what it settles, and how it is put for the script.
//!
//! Pure but for the clock it is given. A call that is repeated differs from its
//! first sending only in its age, by which the script knows that it may have
//! run already.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nobat_core::job::{JobError, Outcome, Settlement};
use nobat_core::{ErrorCode, JobId};
use redis::Cmd;

use super::super::keys::{INLINE_MAX, MEMBER_LEN, QueueKeys, VALUE_LIMIT, key_of, lease_member};
use super::super::record::{self, Record, flag};
use super::super::scripts;
use super::super::store::RedisStore;
use super::push_delivery::{WAITING_LEN, WaitingEntry};
use crate::errors::bounded;

/// The store's clock, carried on by this host's monotonic one.
#[derive(Clone, Copy)]
pub(crate) struct ServerClock {
    pub(crate) server_us: u64,
    pub(crate) at: Instant,
}

impl ServerClock {
    fn now_us(&self) -> u64 {
        self.server_us + self.at.elapsed().as_micros() as u64
    }
}

/// One call.
pub(crate) struct SettleCall {
    /// Of the leases it takes.
    pub(crate) token: u64,
    /// The consumer's.
    name: [u8; 8],
    first_sent: Option<Instant>,
    /// What the consumer is noted as while it waits, which this call takes back.
    pub(crate) withdraw: Option<WaitingEntry>,
    /// What to note it as should nothing be ready.
    pub(crate) register: Option<[u8; WAITING_LEN]>,
    /// Successes first.
    settlements: Vec<PackedSettlement>,
}

struct PackedSettlement {
    member: [u8; MEMBER_LEN],
    id: JobId,
    end: PackedEnd,
}

enum PackedEnd {
    /// A job that succeeded: its final record is made here, not in the script.
    Success {
        /// Negative when its payload travels beside and goes with the job's end.
        ttl_ms: i64,
        client: Option<[u8; 8]>,
        record: Vec<u8>,
        /// A result that travels beside, and the token that names it.
        blob: Option<(u64, Bytes)>,
    },
    /// A job whose record the script changes.
    Other { what: &'static str, delay: Duration, code: u8, message: String },
}

impl PackedEnd {
    fn is_success(&self) -> bool {
        matches!(self, PackedEnd::Success { .. })
    }
}

impl PackedSettlement {
    /// The key of a result that travels beside, its ttl and its bytes.
    fn blob(&self, queue: &QueueKeys) -> Option<(Vec<u8>, i64, &Bytes)> {
        match &self.end {
            PackedEnd::Success { ttl_ms, blob: Some((token, bytes)), .. } => {
                Some((queue.result(&key_of(self.id), *token), ttl_ms.abs(), bytes))
            }
            _ => None,
        }
    }
}

impl SettleCall {
    pub(crate) fn new(token: u64, name: [u8; 8]) -> SettleCall {
        SettleCall { token, name, first_sent: None, withdraw: None, register: None, settlements: Vec::new() }
    }

    /// How many jobs it settles.
    pub(crate) fn len(&self) -> usize {
        self.settlements.len()
    }

    /// One call per settlement, for a call that the store refuses as a whole. They count
    /// as sent: the refused one may have settled some. The first takes over its token, and
    /// so the leases it may have taken; the others get one each from `token`.
    pub(crate) fn split(mut self, mut token: impl FnMut() -> u64) -> VecDeque<SettleCall> {
        let (name, first_sent) = (self.name, self.first_sent);
        let others = self.settlements.split_off(self.len().min(1)).into_iter();
        let others =
            others.map(|one| SettleCall { first_sent, settlements: vec![one], ..SettleCall::new(token(), name) });
        let mut calls: VecDeque<_> = others.collect();
        calls.push_front(self);
        calls
    }

    /// The one settlement of a call that the store refuses, put as a failure that says
    /// so; its job when that is what it was: nothing more can be done for it than to let
    /// its lease run out.
    pub(crate) fn failed(mut self, why: &str) -> Result<SettleCall, Option<JobId>> {
        match self.settlements.first_mut() {
            Some(one) if one.end.is_success() => {
                let message = format!("redis refused to keep the job's result: {why}");
                one.end = failure("D", Duration::ZERO, JobError { code: ErrorCode::Internal, message });
                Ok(self)
            }
            other => Err(other.map(|one| one.id)),
        }
    }

    /// Adds a settlement. A success needs the leased record; a result of more than
    /// `most` bytes fails the job: the server would close the connection on it, each time.
    pub(crate) fn add(&mut self, settlement: Settlement, held: Option<Record>, clock: ServerClock, most: usize) {
        let Settlement { id, token, outcome } = settlement;
        let end = match (bounded(outcome, most, VALUE_LIMIT), held) {
            (Outcome::Succeeded(result), Some(held)) => {
                let beside = (result.len() > INLINE_MAX).then_some(token.0);
                let record = record::succeeded(&held, held.attempts.saturating_add(1), clock.now_us(), &result, beside);
                let ttl_ms = held.ttl_ms.min(i64::MAX as u64) as i64;
                PackedEnd::Success {
                    ttl_ms: if held.flags & flag::BLOB != 0 { -ttl_ms } else { ttl_ms },
                    client: (held.flags & flag::REPLY != 0).then_some(held.client),
                    record,
                    blob: beside.map(|token| (token, result)),
                }
            }
            // Its record is gone: only the lease is given up.
            (Outcome::Succeeded(_), None) | (Outcome::Released, _) => {
                PackedEnd::Other { what: "R", delay: Duration::ZERO, code: 0, message: String::new() }
            }
            (Outcome::Failed { error, retry_in: Some(delay) }, _) => failure("F", delay, error),
            (Outcome::Failed { error, retry_in: None }, _) => failure("D", Duration::ZERO, error),
            (Outcome::Expired(error), _) => failure("X", Duration::ZERO, error),
        };
        self.settlements.push(PackedSettlement { member: lease_member(id, token), id, end });
    }

    /// Puts successes first, and those of one client together: the script publishes once
    /// per run.
    pub(crate) fn sort(&mut self) {
        self.settlements.sort_by_key(|one| match &one.end {
            PackedEnd::Success { client, .. } => (false, *client),
            PackedEnd::Other { .. } => (true, None),
        });
    }

    /// The script call, marked as sent; a repeat carries its age. What it leases ranks above
    /// the level `above`, if there is one.
    pub(crate) fn command(
        &mut self,
        store: &RedisStore,
        queue: &QueueKeys,
        (want, above): (usize, Option<i16>),
    ) -> Cmd {
        // At least 1: 0 stands for the first time.
        let again_us = self.first_sent.map_or(0, |at| at.elapsed().as_micros().max(1) as u64);
        self.first_sent.get_or_insert_with(Instant::now);
        let settings = &store.settings;
        let successes = self.settlements.iter().filter(|one| one.end.is_success()).count();
        // In the order of `scripts::STEP_ARGS`.
        let mut cmd = scripts::STEP.on(&queue.base);
        cmd.arg(want);
        match above {
            Some(level) => cmd.arg(level),
            None => cmd.arg(b""),
        };
        cmd.arg(u64::from(settings.lease_ms) * 1000)
            .arg(&self.token.to_le_bytes()[..])
            .arg(again_us)
            .arg(settings.aging().step_us())
            .arg(settings.max_dead)
            .arg(u64::from(settings.dead_ttl_s) * 1000)
            .arg(store.prefix.client_channel())
            .arg(store.prefix.sweeper_channel())
            .arg(u8::from(settings.index))
            .arg(self.register.as_ref().map_or(&[][..], |entry| entry))
            .arg(self.withdraw.as_ref().map_or(&[][..], |waiting| &waiting.entry))
            .arg(&self.name[..])
            .arg(successes)
            .arg(self.len() - successes);
        for one in &self.settlements {
            cmd.arg(&one.member[..]);
            match &one.end {
                PackedEnd::Success { ttl_ms, client, record, .. } => {
                    cmd.arg(*ttl_ms).arg(client.as_ref().map_or(&[][..], |client| client)).arg(record)
                }
                PackedEnd::Other { what, delay, code, message } => {
                    cmd.arg(*what).arg(delay.as_micros() as u64).arg(*code).arg(message)
                }
            };
        }
        cmd
    }

    /// Results that must be in the store before the script: key, ttl, bytes.
    pub(crate) fn blobs(&self, queue: &QueueKeys) -> Vec<(Vec<u8>, i64, &Bytes)> {
        self.settlements.iter().filter_map(|one| one.blob(queue)).collect()
    }

    /// The job of a (one-based) index in a reply, and the key of its result that travels
    /// beside.
    pub(crate) fn settlement(&self, index: usize, queue: &QueueKeys) -> Option<(JobId, Option<Vec<u8>>)> {
        let one = self.settlements.get(index.checked_sub(1)?)?;
        Some((one.id, one.blob(queue).map(|(key, ..)| key)))
    }
}

fn failure(what: &'static str, delay: Duration, error: JobError) -> PackedEnd {
    PackedEnd::Other { what, delay, code: record::code_number(error.code), message: error.message }
}
