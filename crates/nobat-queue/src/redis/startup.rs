//! What every server must be before it is trusted with jobs, and what an operator
//! is told about one that could be safer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nobat_core::{Error, ErrorCode, IdIssuer, Result};
use redis::{Cmd, RedisError, RedisResult, Value};

use super::connect::{Hub, coded};
use super::keys::Prefix;
use crate::api::{Durability, QueueSettings, StoreHealth};

/// The oldest server whose scripting and commands the scripts need.
const OLDEST: (u32, u32) = (7, 0);
/// The first that can wait for its file.
const WAITAOF: (u32, u32) = (7, 2);
/// Most bytes of one value unless the server says otherwise.
const VALUE_MAX: usize = 512 << 20;

/// How long a start waits for a server that is not up yet: under a supervisor
/// or in a compose file everything starts at once.
const REACH: Duration = Duration::from_secs(10);

/// What was learned about the server.
#[derive(Debug)]
pub(crate) struct Server {
    version: String,
    append_only: AtomicBool,
    /// Whether it can wait for its file (WAITAOF).
    waits_for_file: bool,
    /// Most bytes of one value.
    value_max: usize,
}

impl Server {
    /// Whether it kept an append-only file when it was last asked.
    pub(crate) fn append_only(&self) -> bool {
        self.append_only.load(Ordering::Relaxed)
    }

    /// Most bytes that one value may have: a larger one breaks the connection.
    pub(crate) fn value_max(&self) -> usize {
        self.value_max
    }

    /// What must be waited for behind an enqueue, and what its answer must be at least.
    pub(crate) fn wait(&self, durability: Durability, patience: Duration) -> Option<Wait> {
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
        Some(Wait { cmd, replicated: durability == Durability::Replicated })
    }
}

/// A command behind an enqueue that answers when the jobs are where they must be.
pub(crate) struct Wait {
    pub(crate) cmd: Cmd,
    replicated: bool,
}

impl Wait {
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

/// Checks the server, loads the scripts and reads (or creates) the secret that
/// ids are keyed with.
pub(crate) async fn prepare(hub: &Hub, prefix: &Prefix, settings: &QueueSettings) -> Result<(Server, IdIssuer)> {
    let nodes = reach(hub).await?;
    if let Some(advice) = nodes.first().and_then(|node| hub.advice(field(&node.info, "redis_mode"))) {
        return Err(refuse(advice));
    }
    for node in &nodes {
        node.check(settings.durability)?;
    }
    let waits_for_file = nodes.iter().all(|node| node.number() >= WAITAOF && keeps_file(&node.info));
    let append_only = AtomicBool::new(nodes.iter().all(|node| keeps_file(&node.info)));
    let version = nodes.first().map(|node| node.version().to_owned()).unwrap_or_default();
    let value_max = value_max(hub).await;
    // A server without the scripts is given them by any first call; this one reads.
    let probe = prefix.global("");
    hub.send(super::scripts::GET.on(&probe).arg("probe")).await.map_err(|e| coded(&e))?;
    let secret_key = prefix.global("secret");
    let mut known = hub.send(redis::cmd("GET").arg(&secret_key)).await.map_err(|e| coded(&e))?;
    if known == Value::Nil {
        let mut fresh = [0; 16];
        getrandom::fill(&mut fresh)
            .map_err(|e| Error::new(ErrorCode::Internal, format!("no random bytes for a secret: {e}")))?;
        hub.send(redis::cmd("SET").arg(&secret_key).arg(&fresh[..]).arg("NX")).await.map_err(|e| coded(&e))?;
        known = hub.send(redis::cmd("GET").arg(&secret_key)).await.map_err(|e| coded(&e))?;
    }
    let secret = match known {
        Value::BulkString(bytes) => <[u8; 16]>::try_from(bytes).ok(),
        _ => None,
    };
    let secret = secret.ok_or_else(|| refuse(format!("redis key `{secret_key}` is not a secret of 16 bytes; delete it (all job ids become invalid) or use another prefix")))?;
    Ok((Server { version, append_only, waits_for_file, value_max }, IdIssuer::new(secret)))
}

/// A server of the deployment: one, or each master of a cluster.
struct Node {
    /// Its address, where there are several.
    name: String,
    info: String,
}

impl Node {
    /// Whether it is fit.
    fn check(&self, durability: Durability) -> Result<()> {
        let (at, version) = (self.at(), self.version());
        if self.number() < OLDEST {
            return Err(refuse(format!("redis{at} is version {version}; nobat needs 7.0 or later")));
        }
        if durability == Durability::Fsync {
            if self.number() < WAITAOF {
                return Err(refuse(format!(
                    "durability = \"fsync\" needs WAITAOF, which redis {version}{at} does not have; use redis 7.2 or later, or durability = \"memory\" with `appendfsync always`"
                )));
            }
            if !keeps_file(&self.info) {
                return Err(refuse(format!(
                    "durability = \"fsync\" needs append-only; set `appendonly yes` in redis{at}"
                )));
            }
        }
        match field(&self.info, "maxmemory_policy") {
            None | Some("noeviction") => Ok(()),
            Some(policy) => Err(refuse(format!(
                "redis{at} has maxmemory-policy `{policy}`, which would drop jobs; set `maxmemory-policy noeviction`"
            ))),
        }
    }

    /// What an operator should know about it.
    fn warnings(&self) -> Vec<String> {
        let (at, info) = (self.at(), &self.info);
        let mut warnings = Vec::new();
        if !keeps_file(info) {
            warnings
                .push(format!("append-only is off{at}: a restart of redis loses accepted jobs; set `appendonly yes`"));
        }
        if field(info, "aof_last_write_status").is_some_and(|status| status != "ok") {
            warnings.push(format!("redis{at} cannot write its append-only file; free disk space"));
        }
        if field(info, "maxmemory_policy").is_some_and(|policy| policy != "noeviction") {
            warnings
                .push(format!("redis{at} evicts keys: accepted jobs may vanish; set `maxmemory-policy noeviction`"));
        }
        let number = |name: &str| field(info, name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let (used, most) = (number("used_memory"), number("maxmemory"));
        if most > 0 && used > most / 10 * 9 {
            warnings.push(format!("redis{at} uses {used} of {most} bytes; raise maxmemory or drain the queues"));
        }
        warnings
    }

    fn at(&self) -> String {
        if self.name.is_empty() { String::new() } else { format!(" at `{}`", self.name) }
    }

    fn version(&self) -> &str {
        field(&self.info, "redis_version").unwrap_or("unknown")
    }

    fn number(&self) -> (u32, u32) {
        let mut numbers = self.version().split('.').map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

/// The server's health now.
pub(crate) async fn health(hub: &Hub, server: &Server, durability: Durability) -> Result<StoreHealth> {
    let nodes = ask(hub).await.map_err(|e| coded(&e))?;
    server.append_only.store(nodes.iter().all(|node| keeps_file(&node.info)), Ordering::Relaxed);
    let mut warnings = Vec::new();
    for node in &nodes {
        let (info, at) = (&node.info, node.at());
        if field(info, "loading").is_some_and(|loading| loading != "0") {
            return Err(super::connect::unavailable(&format!("it is loading its data{at}")));
        }
        if field(info, "role") == Some("slave") {
            // Nothing this connection is asked for here fails on a replica: after a
            // failover it has to be told to look for the master again.
            hub.broken_now();
            return Err(super::connect::unavailable(&format!(
                "it is a replica{at}; give the url of the master, of the sentinels or of the cluster"
            )));
        }
        warnings.extend(node.warnings());
        if durability == Durability::Replicated && field(info, "connected_slaves") == Some("0") {
            warnings.push(format!(
                "no replica is connected to redis{at}: with durability = \"replicated\" every new job is refused"
            ));
        }
    }
    Ok(StoreHealth { store: format!("redis {}", server.version), warnings })
}

/// Waits for a server that is starting beside us, then reads what it says.
async fn reach(hub: &Hub) -> Result<Vec<Node>> {
    let since = Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        match ask(hub).await {
            Err(e) if starting(&e) && since.elapsed() < REACH => {
                if pause > Duration::from_millis(100) {
                    log::warn!("waiting for redis, up to {} s: {e}", REACH.as_secs());
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            other => return other.map_err(|e| unreached(&e)),
        }
    }
}

/// Says what to look at when nothing answers there.
fn unreached(error: &RedisError) -> Error {
    let told = coded(error);
    match error.is_io_error() || error.is_timeout() {
        true => Error {
            message: format!(
                "{}; is redis running there, and can this host reach it? the url is store.redis, --redis or NOBAT_REDIS",
                told.message
            ),
            ..told
        },
        false => told,
    }
}

/// Whether a server that is coming up answers so.
fn starting(error: &RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || error.code() == Some("LOADING")
}

/// What every server says about itself: a cluster's masters each answer.
async fn ask(hub: &Hub) -> RedisResult<Vec<Node>> {
    Ok(match hub.send(redis::cmd("INFO").arg("everything")).await? {
        Value::Map(nodes) => {
            nodes.into_iter().map(|(name, info)| Node { name: text(name), info: text(info) }).collect()
        }
        other => vec![Node { name: String::new(), info: text(other) }],
    })
}

/// The least that a server takes as one value; what Redis has by itself where it may
/// not be asked.
async fn value_max(hub: &Hub) -> usize {
    let answer = hub.send(redis::cmd("CONFIG").arg("GET").arg("proto-max-bulk-len")).await.unwrap_or(Value::Nil);
    let mut told = Vec::new();
    numbers(answer, &mut told);
    told.into_iter().min().unwrap_or(VALUE_MAX)
}

fn numbers(value: Value, out: &mut Vec<usize>) {
    match value {
        Value::Map(pairs) => pairs.into_iter().for_each(|(_, value)| numbers(value, out)),
        Value::Array(items) => items.into_iter().for_each(|item| numbers(item, out)),
        other => out.extend(text(other).parse::<usize>()),
    }
}

pub(crate) fn text(value: Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => text,
        _ => String::new(),
    }
}

pub(crate) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn keeps_file(info: &str) -> bool {
    field(info, "aof_enabled").is_some_and(|enabled| enabled != "0")
}

fn refuse(message: String) -> Error {
    Error::new(ErrorCode::QueueUnavailable, message)
}
