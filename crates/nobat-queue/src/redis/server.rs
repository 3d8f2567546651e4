//! What was learned about the server, and what an enqueue may wait for behind it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{Cmd, Value};

use crate::api::Durability;

/// What was learned about the server.
#[derive(Debug)]
pub(crate) struct ServerInfo {
    pub(crate) version: String,
    pub(crate) append_only: AtomicBool,
    /// Whether it can wait for its file (WAITAOF).
    pub(crate) waits_for_file: bool,
    /// Most bytes of one value.
    pub(crate) value_max: usize,
}

impl ServerInfo {
    /// Whether it kept an append-only file when it was last asked.
    pub(crate) fn append_only(&self) -> bool {
        self.append_only.load(Ordering::Relaxed)
    }

    /// Most bytes that one value may have: a larger one breaks the connection.
    pub(crate) fn value_max(&self) -> usize {
        self.value_max
    }

    /// What must be waited for behind an enqueue, and what its answer must be at least.
    pub(crate) fn wait(&self, durability: Durability, patience: Duration) -> Option<DurabilityWait> {
        let (name, counts): (_, &[u8]) = match (durability, self.waits_for_file) {
            (Durability::Memory, _) => return None,
            (Durability::Fsync, _) => ("WAITAOF", &[1, 0]),
            (Durability::Replicated, true) => ("WAITAOF", &[1, 1]),
            (Durability::Replicated, false) => ("WAIT", &[1]),
        };
        let mut cmd = redis::cmd(name);
        for count in counts {
            cmd.arg(*count);
        }
        cmd.arg(patience.as_millis() as u64);
        Some(DurabilityWait { cmd, replicated: durability == Durability::Replicated })
    }
}

/// A command behind an enqueue that answers when the jobs are where they must be.
pub(crate) struct DurabilityWait {
    pub(crate) cmd: Cmd,
    replicated: bool,
}

impl DurabilityWait {
    /// What its answer lacks, if anything: WAITAOF says how many local and replica files
    /// have the jobs, WAIT how many replicas.
    pub(crate) fn lacks(&self, answer: Option<&Value>) -> Option<&'static str> {
        let count = |value: Option<&Value>| match value {
            Some(Value::Int(count)) => *count,
            _ => 0,
        };
        let (local, replicas) = match answer {
            Some(Value::Array(counts)) => (count(counts.first()), count(counts.get(1))),
            other => (1, count(other)),
        };
        if local < 1 {
            Some("redis did not write the job to disk in time; is its disk overloaded?")
        } else if self.replicated && replicas < 1 {
            Some(
                "no replica has the job in time; look whether one is connected (and has `appendonly yes`), or set queue.durability to `fsync` or `memory`",
            )
        } else {
            None
        }
    }
}

/// The text of an answer to `INFO` or `CONFIG`.
pub(crate) fn text(value: Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => text,
        _ => String::new(),
    }
}

/// One line's value of an answer to `INFO`.
pub(crate) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Whether the server of this `INFO` keeps an append-only file.
pub(crate) fn keeps_file(info: &str) -> bool {
    field(info, "aof_enabled").is_some_and(|enabled| enabled != "0")
}
