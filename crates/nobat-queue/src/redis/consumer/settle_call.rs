//! One call of `settle_and_lease`: what it settles, and how it is put for the script.
//!
//! Pure but for the clock it is given. A call that is repeated differs from its
//! first sending only in its age, by which the script knows that it may have
//! run already.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nobat_core::job::{Outcome, Settlement};
use nobat_core::{ErrorCode, JobId};
use redis::Cmd;

use super::super::keys::{INLINE_MAX, MEMBER_LEN, QueueKeys, VALUE_LIMIT, key_of, lease_member};
use super::super::record::{self, Record, flag};
use super::super::scripts;
use super::super::store::Store;
use super::push_delivery::{WAITING_LEN, WaitingEntry};
use crate::errors::bounded;

/// The store's clock, carried on by this host's monotonic one.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) server_us: u64,
    pub(crate) at: Instant,
}

impl Clock {
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
    successes: Vec<Success>,
    others: Vec<OtherOutcome>,
}

/// A job that succeeded: its final record is made here, not in the script.
struct Success {
    member: [u8; MEMBER_LEN],
    id: JobId,
    /// Negative when its payload travels beside and goes with the job's end.
    ttl_ms: i64,
    client: Option<[u8; 8]>,
    record: Vec<u8>,
    /// A result that travels beside, and the token that names it.
    blob: Option<(u64, Bytes)>,
}

/// A job whose record the script changes.
struct OtherOutcome {
    member: [u8; MEMBER_LEN],
    id: JobId,
    what: &'static str,
    delay: Duration,
    code: u8,
    message: String,
}

impl SettleCall {
    pub(crate) fn new(token: u64, name: [u8; 8]) -> SettleCall {
        SettleCall {
            token,
            name,
            first_sent: None,
            withdraw: None,
            register: None,
            successes: Vec::new(),
            others: Vec::new(),
        }
    }

    /// How many jobs it settles.
    pub(crate) fn len(&self) -> usize {
        self.successes.len() + self.others.len()
    }

    /// One call per settlement, for a call that the store refuses as a whole. They count
    /// as sent: the refused one may have settled some. The first takes over its token, and
    /// so the leases it may have taken; the others get one each from `token`.
    pub(crate) fn split(self, mut token: impl FnMut() -> u64) -> VecDeque<SettleCall> {
        let SettleCall { token: first, name, first_sent, withdraw, register, successes, others } = self;
        let mut calls = VecDeque::with_capacity(successes.len() + others.len());
        let mut add = |successes: Option<Success>, other: Option<OtherOutcome>| {
            let (successes, others) = (successes.into_iter().collect(), other.into_iter().collect());
            calls.push_back(match calls.is_empty() {
                true => SettleCall { token: first, name, first_sent, withdraw, register, successes, others },
                false => SettleCall { first_sent, successes, others, ..SettleCall::new(token(), name) },
            });
        };
        successes.into_iter().for_each(|successes| add(Some(successes), None));
        others.into_iter().for_each(|other| add(None, Some(other)));
        calls
    }

    /// The one settlement of a call that the store refuses, put as a failure that says
    /// so; `None` when that is what it was: nothing more can be done for the job than to
    /// let its lease run out.
    pub(crate) fn failed(self, why: &str) -> Result<SettleCall, Option<JobId>> {
        let SettleCall { token, name, first_sent, withdraw, register, mut successes, others } = self;
        let Some(refused) = successes.pop() else { return Err(others.first().map(|other| other.id)) };
        let failure = OtherOutcome {
            member: refused.member,
            id: refused.id,
            what: "D",
            delay: Duration::ZERO,
            code: record::code_number(ErrorCode::Internal),
            message: format!("redis refused to keep the job's result: {why}"),
        };
        Ok(SettleCall { token, name, first_sent, withdraw, register, successes, others: vec![failure] })
    }

    /// Adds a settlement. A success needs the leased record; a result of more than
    /// `most` bytes fails the job: the server would close the connection on it, each time.
    pub(crate) fn add(&mut self, settlement: Settlement, held: Option<Record>, clock: Clock, most: usize) {
        let Settlement { id, token, outcome } = settlement;
        let member = lease_member(id, token);
        let outcome = bounded(outcome, most, VALUE_LIMIT);
        let mut other =
            |what, delay, code, message| self.others.push(OtherOutcome { member, id, what, delay, code, message });
        match (outcome, held) {
            (Outcome::Succeeded(result), Some(held)) => {
                let beside = (result.len() > INLINE_MAX).then_some(token.0);
                let record = record::succeeded(&held, held.attempts.saturating_add(1), clock.now_us(), &result, beside);
                let ttl_ms = held.ttl_ms.min(i64::MAX as u64) as i64;
                self.successes.push(Success {
                    member,
                    id,
                    ttl_ms: if held.flags & flag::BLOB != 0 { -ttl_ms } else { ttl_ms },
                    client: (held.flags & flag::REPLY != 0).then_some(held.client),
                    record,
                    blob: beside.map(|token| (token, result)),
                });
            }
            // Its record is gone: only the lease is given up.
            (Outcome::Succeeded(_), None) | (Outcome::Released, _) => other("R", Duration::ZERO, 0, String::new()),
            (Outcome::Failed { error, retry_in: Some(delay) }, _) => {
                other("F", delay, record::code_number(error.code), error.message)
            }
            (Outcome::Failed { error, retry_in: None }, _) => {
                other("D", Duration::ZERO, record::code_number(error.code), error.message)
            }
            (Outcome::Expired(error), _) => other("X", Duration::ZERO, record::code_number(error.code), error.message),
        }
    }

    /// Puts jobs of one client together: the script publishes once per run.
    pub(crate) fn sort(&mut self) {
        self.successes.sort_by_key(|success| success.client);
    }

    /// The script call, marked as sent; a repeat carries its age.
    pub(crate) fn command(&mut self, store: &Store, queue: &QueueKeys, want: usize) -> Cmd {
        // At least 1: 0 stands for the first time.
        let again_us = self.first_sent.map_or(0, |at| at.elapsed().as_micros().max(1) as u64);
        self.first_sent.get_or_insert_with(Instant::now);
        let settings = &store.settings;
        let mut cmd = scripts::STEP.on(&queue.base);
        cmd.arg(want)
            .arg(u64::from(settings.lease_ms) * 1000)
            .arg(&self.token.to_le_bytes()[..])
            .arg(again_us)
            .arg(settings.aging().step_us())
            .arg(settings.max_dead)
            .arg(u64::from(settings.dead_ttl_s) * 1000)
            .arg(store.prefix.client_channel())
            .arg(store.prefix.sweeper_channel())
            .arg(self.register.as_ref().map_or(&[][..], |entry| entry))
            .arg(self.withdraw.as_ref().map_or(&[][..], |waiting| &waiting.entry))
            .arg(&self.name[..])
            .arg(self.successes.len())
            .arg(self.others.len());
        for success in &self.successes {
            let client = success.client.as_ref().map_or(&[][..], |client| client);
            cmd.arg(&success.member[..]).arg(success.ttl_ms).arg(client).arg(&success.record);
        }
        for other in &self.others {
            cmd.arg(&other.member[..])
                .arg(other.what)
                .arg(other.delay.as_micros() as u64)
                .arg(other.code)
                .arg(&other.message);
        }
        cmd
    }

    /// Results that must be in the store before the script: key, ttl, bytes.
    pub(crate) fn blobs(&self, queue: &QueueKeys) -> Vec<(Vec<u8>, i64, &Bytes)> {
        let beside = self.successes.iter().filter_map(|success| success.blob.as_ref().map(|blob| (success, blob)));
        beside
            .map(|(success, (token, bytes))| (queue.result(&key_of(success.id), *token), success.ttl_ms.abs(), bytes))
            .collect()
    }

    /// The settlement of a (one-based) index in a reply, and the key of its
    /// result that travels beside.
    pub(crate) fn settlement(&self, index: usize, queue: &QueueKeys) -> Option<(JobId, Option<Vec<u8>>)> {
        let index = index.checked_sub(1)?;
        match self.successes.get(index) {
            Some(success) => {
                let key = success.blob.as_ref().map(|(token, _)| queue.result(&key_of(success.id), *token));
                Some((success.id, key))
            }
            None => self.others.get(index - self.successes.len()).map(|other| (other.id, None)),
        }
    }
}
