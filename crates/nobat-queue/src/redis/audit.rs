//! Looking a queue over for what no transition of ours leaves behind: keys of
//! the wrong type, members without records, records in no set, corrupt records,
//! bookkeeping that is gone. With `repair` each is set right or dead-lettered.
//!
//! It walks the whole queue in bounded steps and is for an operator
//! (`nobat doctor --queue`), not for service. A job that moves between two of
//! its reads can look misplaced: a finding counts only when a second look, by
//! one atomic script, confirms it.

use std::collections::HashSet;
use std::sync::Arc;

use nobat_core::Result;
use nobat_core::score::STRICT_SPAN;
use smol_str::SmolStr;

use super::keys::{KEY_LEN, QueueKeys, job_of};
use super::queue::RedisQueue;
use super::record::{self, Record, state};
use super::scripts;
use super::store::RedisStore;

/// The queue's own keys and the type each must have.
const OWN: [(&str, &str); 12] = [
    ("ready", "zset"),
    ("leases", "zset"),
    ("took", "zset"),
    ("lapsed", "zset"),
    ("sched", "zset"),
    ("dead", "zset"),
    ("due", "zset"),
    ("marker", "zset"),
    ("parked", "set"),
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
        let inner = &self.store;
        let queue = inner.queue(model).await?;
        let mut findings = Vec::new();
        inner.audit_types(&queue, repair, &mut findings).await?;
        // Looked at first: a repair on the way would put it there again, half empty.
        let bare = inner.is_bare(&queue).await?;
        let mut seen = AuditTally::default();
        for set in ["ready", "sched", "leases", "dead"] {
            // A set of the wrong type that was not repaired cannot be walked.
            if inner.type_of(&queue.own(set)).await? == "zset" {
                inner.audit_members(&queue, set, repair, &mut seen, &mut findings).await?;
            }
        }
        inner.audit_records(&queue, repair, &seen.placed, &mut findings).await?;
        if bare && seen.waiting > 0 {
            inner.audit_bookkeeping(&queue, repair, &seen, &mut findings).await?;
        }
        Ok(findings)
    }

    /// The models that have a queue on this server.
    ///
    /// # Errors
    /// `queue_unavailable` when the server cannot be reached.
    pub async fn models(&self) -> Result<Vec<SmolStr>> {
        Ok(self.store.all_queues().await?.iter().map(|queue| queue.model.clone()).collect())
    }
}

/// What a walk through the sets has found in its place.
#[derive(Default)]
struct AuditTally {
    placed: HashSet<Vec<u8>>,
    /// Jobs that wait, and the bytes they count for.
    waiting: u64,
    bytes: u64,
    /// The last positions given out, under aging and under strict order.
    last_us: u64,
    seq: u64,
}

impl RedisStore {
    async fn type_of(&self, key: &str) -> Result<String> {
        self.query(redis::cmd("TYPE").arg(key), "a type").await
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
        seen: &mut AuditTally,
        findings: &mut Vec<String>,
    ) -> Result<()> {
        let mut place = "0".to_owned();
        loop {
            let scan = redis::cmd("ZSCAN").arg(queue.own(set)).arg(&place).arg("COUNT").arg(STEP).clone();
            let (next, pairs): (String, Vec<(Vec<u8>, f64)>) = self.query(&scan, "a scan").await?;
            let keys: Vec<_> =
                pairs.iter().map(|(member, _)| member[member.len().saturating_sub(KEY_LEN)..].to_vec()).collect();
            for ((member, score), (key, value)) in pairs.iter().zip(keys.iter().zip(self.records(queue, &keys).await?))
            {
                match fault_of(set, value.as_deref()) {
                    None => seen.count(set, key, *score, value.as_deref()),
                    Some(what) => {
                        if let Some(done) = self.confirm_misplaced(queue, set, member, key, repair).await? {
                            findings.push(format!("job {} in `{}` {what}{done}", hex(key), queue.own(set)));
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
                let first = redis::cmd("GETRANGE").arg(queue.job(&key)).arg(0).arg(0).clone();
                let first: Vec<u8> = self.query(&first, "a record").await?;
                let living = first.first() == Some(&state::PENDING);
                let known =
                    first.first().is_some_and(|&first| first & 7 == state::SUCCEEDED || (1..=6).contains(&first));
                if !living && known {
                    continue;
                }
                if let Some(done) = self.confirm_misplaced(queue, "", b"", &key, repair).await? {
                    let what = if living { "is in no set" } else { "has a corrupt record" };
                    findings.push(format!("job {} of `{}` {what}{done}", hex(&key), queue.base));
                }
            }
            if next == "0" {
                return Ok(());
            }
            place = next;
        }
    }

    /// Confirms a finding atomically and, if asked, sets it right: what was done, `None`
    /// when it was nothing.
    async fn confirm_misplaced(
        &self,
        queue: &QueueKeys,
        set: &str,
        member: &[u8],
        key: &[u8],
        repair: bool,
    ) -> Result<Option<&'static str>> {
        let mut cmd = scripts::AUDIT.on(&queue.base);
        cmd.arg(set).arg(member).arg(key).arg(u8::from(repair)).arg(u64::from(self.settings.dead_ttl_s) * 1000);
        cmd.arg(self.prefix.client_channel());
        Ok(match self.query::<u8>(&cmd, "a verdict").await? {
            0 => None,
            2 if set.is_empty() => Some("; queued again"),
            2 => Some("; removed"),
            3 => Some("; dead-lettered"),
            _ => Some(""),
        })
    }

    /// A queue with jobs but without its bookkeeping loses FIFO order and limits.
    async fn audit_bookkeeping(
        &self,
        queue: &QueueKeys,
        repair: bool,
        seen: &AuditTally,
        findings: &mut Vec<String>,
    ) -> Result<()> {
        let meta = queue.own("meta");
        let mut finding = format!("`last` of key `{meta}` is missing though jobs wait");
        if repair {
            for (field, value) in [("bytes", seen.bytes), ("enq", seen.waiting)] {
                self.send(redis::cmd("HINCRBY").arg(&meta).arg(field).arg(value)).await?;
            }
            self.send(redis::cmd("HSET").arg(&meta).arg("last").arg(seen.last_us).arg("seq").arg(seen.seq)).await?;
            finding.push_str("; counted again (whether the queue was paused is lost)");
        }
        findings.push(finding);
        Ok(())
    }

    /// Whether the queue's bookkeeping is gone; what looks after its timers writes there too.
    async fn is_bare(&self, queue: &QueueKeys) -> Result<bool> {
        let meta = queue.own("meta");
        match &*self.type_of(&meta).await? {
            "hash" => Ok(!self.query::<bool>(redis::cmd("HEXISTS").arg(&meta).arg("last"), "a field").await?),
            kind => Ok(kind == "none"),
        }
    }
}

impl AuditTally {
    fn count(&mut self, set: &str, key: &[u8], score: f64, value: Option<&[u8]>) {
        self.placed.insert(key.to_vec());
        let waits = matches!(set, "ready" | "sched");
        let Some(record) = value.filter(|_| waits).and_then(Record::parse) else { return };
        self.waiting += 1;
        self.bytes += (record.head_len + record.payload_len) as u64;
        self.last_us = self.last_us.max(record.created_us);
        if set == "ready" {
            self.seq = self.seq.max(score.max(0.0) as u64 % STRICT_SPAN as u64);
        }
    }
}

/// What is wrong with a member's record; `None` when nothing is.
fn fault_of(set: &str, value: Option<&[u8]>) -> Option<&'static str> {
    let Some(bytes) = value else { return Some("has no record") };
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
    match job_of(key) {
        // As it begins in the job's public id.
        Some(random) => {
            let id = nobat_core::JobId { random, tombstone_min: 0, mac: 0, locator: 0 };
            String::from_utf8_lossy(&id.key()).into_owned()
        }
        None => format!("{:?}", String::from_utf8_lossy(key)),
    }
}
