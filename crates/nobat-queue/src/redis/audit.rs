//! Looking a queue over for what no transition of ours leaves behind: keys of
//! the wrong type, members without records, records in no set, corrupt records,
//! counters that are off. With `repair` each is set right or dead-lettered.
//!
//! It walks the whole queue in bounded steps and is for an operator
//! (`nobat doctor --queue`), not for service. A job that moves between two of
//! its reads can look misplaced: a finding counts only when a second look, by
//! one atomic script, confirms it.

use std::collections::HashSet;
use std::sync::Arc;

use nobat_core::Result;
use redis::Value;

use super::keys::{KEY_LEN, QueueKeys};
use super::record::{self, Record, state};
use super::{Inner, RedisQueue, scripts, unexpected};

/// The queue's own keys and the type each must have.
const OWN: [(&str, &str); 9] = [
    ("ready", "zset"),
    ("leases", "zset"),
    ("sched", "zset"),
    ("dead", "zset"),
    ("due", "zset"),
    ("marker", "zset"),
    ("meta", "hash"),
    ("cx", "set"),
    ("watch", "hash"),
];
/// Members or keys one step reads.
const STEP: usize = 500;

impl RedisQueue {
    /// Looks `model`'s queue over; each finding is one line that names the key
    /// and what was, or with `repair` what was done about it.
    ///
    /// # Errors
    /// `queue_unavailable` when the server cannot be reached.
    pub async fn audit(&self, model: &str, repair: bool) -> Result<Vec<String>> {
        let inner = &self.inner;
        let queue = inner.queue(model).await?;
        let mut findings = Vec::new();
        inner.audit_types(&queue, repair, &mut findings).await?;
        let mut placed = HashSet::new();
        for set in ["ready", "sched", "leases", "dead"] {
            // A set of the wrong type that was not repaired cannot be walked.
            if inner.type_of(&queue.own(set)).await? == "zset" {
                inner.audit_members(&queue, set, repair, &mut placed, &mut findings).await?;
            }
        }
        inner.audit_records(&queue, repair, &placed, &mut findings).await?;
        inner.audit_bytes(&queue, repair, &mut findings).await?;
        Ok(findings)
    }
}

impl Inner {
    async fn type_of(&self, key: &str) -> Result<String> {
        match self.send(redis::cmd("TYPE").arg(key)).await? {
            Value::SimpleString(name) => Ok(name),
            other => Err(unexpected("a type", &other)),
        }
    }

    /// A key of the wrong type stops its queue; set aside, not deleted: somebody
    /// put it there.
    async fn audit_types(&self, queue: &QueueKeys, repair: bool, findings: &mut Vec<String>) -> Result<()> {
        for (name, wanted) in OWN {
            let key = queue.own(name);
            let found = self.type_of(&key).await?;
            if found == "none" || found == wanted {
                continue;
            }
            let mut finding = format!("key `{key}` is a {found}, must be a {wanted}");
            if repair {
                let aside = format!("{key}:set-aside");
                self.send(redis::cmd("RENAME").arg(&key).arg(&aside)).await?;
                finding.push_str(&format!("; renamed to `{aside}`"));
            }
            findings.push(finding);
        }
        Ok(())
    }

    /// Members of one set that have no record, or one of another kind.
    async fn audit_members(
        &self,
        queue: &QueueKeys,
        set: &str,
        repair: bool,
        placed: &mut HashSet<Vec<u8>>,
        findings: &mut Vec<String>,
    ) -> Result<()> {
        let mut place = "0".to_owned();
        loop {
            let reply = self.send(redis::cmd("ZSCAN").arg(queue.own(set)).arg(&place).arg("COUNT").arg(STEP)).await?;
            let (next, pairs): (String, Vec<(Vec<u8>, f64)>) =
                redis::from_redis_value(reply).map_err(|_| unexpected("a scan", &Value::Nil))?;
            for (member, _) in pairs {
                let key = member[member.len().saturating_sub(KEY_LEN)..].to_vec();
                let fault = match self.send(redis::cmd("MGET").arg(queue.job(&key))).await? {
                    Value::Array(values) => fault_of(set, values.first()),
                    _ => None,
                };
                match fault {
                    None => drop(placed.insert(key)),
                    Some(what) => {
                        let verdict = self.settle_misplaced(queue, set, &member, &key, repair).await?;
                        if verdict != 0 {
                            let done =
                                ["", "", "; removed", "; dead-lettered"].get(verdict as usize).copied().unwrap_or("");
                            findings.push(format!("job {} in `{}` {what}{done}", hex(&key), queue.own(set)));
                        }
                    }
                }
            }
            if next == "0" {
                return Ok(());
            }
            place = next;
        }
    }

    /// Records of living jobs that are in no set, or that cannot be read.
    async fn audit_records(
        &self,
        queue: &Arc<QueueKeys>,
        repair: bool,
        placed: &HashSet<Vec<u8>>,
        findings: &mut Vec<String>,
    ) -> Result<()> {
        let mut place = "0".to_owned();
        loop {
            let (next, names) = self.scan_jobs(queue, &place).await?;
            for key in names {
                if placed.contains(&key) {
                    continue;
                }
                let Value::BulkString(bytes) =
                    self.send(redis::cmd("GETRANGE").arg(queue.job(&key)).arg(0).arg(0)).await?
                else {
                    continue;
                };
                let living = bytes.first() == Some(&state::PENDING);
                let known =
                    bytes.first().is_some_and(|&first| first & 7 == state::SUCCEEDED || (1..=6).contains(&first));
                if !living && known {
                    continue;
                }
                let verdict = self.settle_misplaced(queue, "", b"", &key, repair).await?;
                if verdict != 0 {
                    let what = if living { "is in no set" } else { "has a corrupt record" };
                    let done =
                        ["", "", "; queued again", "; dead-lettered"].get(verdict as usize).copied().unwrap_or("");
                    findings.push(format!("job {} of `{}` {what}{done}", hex(&key), queue.base));
                }
            }
            if next == "0" {
                return Ok(());
            }
            place = next;
        }
    }

    /// Confirms a finding atomically and, if asked, settles it: 0 it was
    /// nothing, 1 it is so, 2 and 3 it was repaired (see the script).
    async fn settle_misplaced(
        &self,
        queue: &QueueKeys,
        set: &str,
        member: &[u8],
        key: &[u8],
        repair: bool,
    ) -> Result<i64> {
        let mut cmd = scripts::AUDIT.on(&queue.base);
        cmd.arg(set).arg(member).arg(key).arg(u8::from(repair)).arg(u64::from(self.settings.dead_ttl_s) * 1000);
        cmd.arg(self.prefix.lane_channel());
        match self.call(&scripts::AUDIT, &cmd).await? {
            Value::Int(verdict) => Ok(verdict),
            other => Err(unexpected("a verdict", &other)),
        }
    }

    /// A queue with jobs but without its bookkeeping loses FIFO order and limits.
    async fn audit_bytes(&self, queue: &QueueKeys, repair: bool, findings: &mut Vec<String>) -> Result<()> {
        let meta = queue.own("meta");
        if self.type_of(&queue.own("ready")).await? != "zset" || self.type_of(&meta).await? != "none" {
            return Ok(());
        }
        let mut finding = format!("key `{meta}` is missing though jobs wait");
        if repair {
            let mut bytes = 0;
            let mut place = "0".to_owned();
            loop {
                let reply =
                    self.send(redis::cmd("ZSCAN").arg(queue.own("ready")).arg(&place).arg("COUNT").arg(STEP)).await?;
                let (next, pairs): (String, Vec<(Vec<u8>, f64)>) =
                    redis::from_redis_value(reply).map_err(|_| unexpected("a scan", &Value::Nil))?;
                for (key, _) in pairs {
                    if let Value::Int(length) = self.send(redis::cmd("STRLEN").arg(queue.job(&key))).await? {
                        bytes += length;
                    }
                }
                if next == "0" {
                    break;
                }
                place = next;
            }
            self.send(redis::cmd("HSETNX").arg(&meta).arg("bytes").arg(bytes)).await?;
            finding.push_str("; counted again");
        }
        findings.push(finding);
        Ok(())
    }
}

/// What is wrong with a member's record; `None` when nothing is.
fn fault_of(set: &str, value: Option<&Value>) -> Option<&'static str> {
    let Some(Value::BulkString(bytes)) = value else { return Some("has no record") };
    match (set, bytes.first()) {
        ("dead", Some(&(state::DEAD | state::CORRUPT))) => None,
        // Cancelled while leased: its record has ended, its lease has not.
        ("leases", Some(&state::CANCELLED)) => None,
        ("dead", _) => Some("is no dead letter"),
        (_, Some(&state::PENDING)) if Record::parse(bytes).is_some() => None,
        (_, Some(&state::PENDING)) => Some(record::CORRUPT),
        _ => Some("has ended already or is corrupt"),
    }
}

fn hex(key: &[u8]) -> String {
    match super::keys::job_of(key) {
        // As it begins in the job's public id.
        Some(random) => {
            let id = nobat_core::JobId { random, horizon_min: 0, mac: 0, locator: 0 };
            String::from_utf8_lossy(&id.key()).into_owned()
        }
        None => format!("{:?}", String::from_utf8_lossy(key)),
    }
}
