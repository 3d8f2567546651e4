//! What every server must be before it is trusted with jobs, and what an operator
//! is told about one that could be safer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nobat_core::retry::Backoff;
use nobat_core::{Error, ErrorCode, Result};
use redis::{RedisError, RedisResult, Value};

use super::connection::{ConnectionManager, to_error, unavailable};
use super::keys::Prefix;
use super::scripts;
use super::server::{ServerInfo, field, keeps_file, text};
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

/// Checks the server, loads the scripts and reads (or creates) the secret that
/// ids are keyed with.
pub(crate) async fn prepare(
    manager: &ConnectionManager,
    prefix: &Prefix,
    settings: &QueueSettings,
) -> Result<(ServerInfo, [u8; 16])> {
    let nodes = reach(manager).await?;
    if let Some(advice) = nodes.first().and_then(|node| manager.advice(field(&node.info, "redis_mode"))) {
        return Err(refuse(advice));
    }
    for node in &nodes {
        node.check(settings.durability)?;
    }
    let waits_for_file = nodes.iter().all(|node| node.number() >= WAITAOF && keeps_file(&node.info));
    let append_only = AtomicBool::new(nodes.iter().all(|node| keeps_file(&node.info)));
    let version = nodes.first().map(|node| node.version().to_owned()).unwrap_or_default();
    let value_max = value_max(manager).await;
    // A server without the scripts is given them by any first call; this one reads.
    let probe = prefix.global("");
    manager.send(scripts::GET.on(&probe).arg("probe")).await.map_err(|e| to_error(&e))?;
    let secret_key = prefix.global("secret");
    let mut known = manager.send(redis::cmd("GET").arg(&secret_key)).await.map_err(|e| to_error(&e))?;
    if known == Value::Nil {
        let fresh: [u8; 16] = rand::random();
        manager.send(redis::cmd("SET").arg(&secret_key).arg(&fresh[..]).arg("NX")).await.map_err(|e| to_error(&e))?;
        known = manager.send(redis::cmd("GET").arg(&secret_key)).await.map_err(|e| to_error(&e))?;
    }
    let secret = match known {
        Value::BulkString(bytes) => <[u8; 16]>::try_from(bytes).ok(),
        _ => None,
    };
    let secret = secret.ok_or_else(|| refuse(format!("redis key `{secret_key}` is not a secret of 16 bytes; delete it (all job ids become invalid) or use another prefix")))?;
    Ok((ServerInfo { version, append_only, waits_for_file, value_max }, secret))
}

/// A server of the deployment: one, or each master of a cluster.
struct ServerNode {
    /// Its address, where there are several.
    name: String,
    info: String,
}

impl ServerNode {
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
pub(crate) async fn health(
    manager: &ConnectionManager,
    server: &ServerInfo,
    durability: Durability,
) -> Result<StoreHealth> {
    let nodes = ask(manager).await.map_err(|e| to_error(&e))?;
    server.append_only.store(nodes.iter().all(|node| keeps_file(&node.info)), Ordering::Relaxed);
    let mut warnings = Vec::new();
    for node in &nodes {
        let (info, at) = (&node.info, node.at());
        if field(info, "loading").is_some_and(|loading| loading != "0") {
            return Err(unavailable(&format!("it is loading its data{at}")));
        }
        if field(info, "role") == Some("slave") {
            // Nothing this connection is asked for here fails on a replica: after a
            // failover it has to be told to look for the master again.
            manager.reset();
            return Err(unavailable(&format!(
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
async fn reach(manager: &ConnectionManager) -> Result<Vec<ServerNode>> {
    let since = Instant::now();
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    loop {
        match ask(manager).await {
            Err(e) if starting(&e) && since.elapsed() < REACH => {
                let pause = backoff.pause();
                if pause > Duration::from_millis(100) {
                    log::warn!("waiting for redis, up to {} s: {e}", REACH.as_secs());
                }
                tokio::time::sleep(pause).await;
            }
            other => return other.map_err(|e| unreached(&e)),
        }
    }
}

/// Says what to look at when nothing answers there.
fn unreached(error: &RedisError) -> Error {
    let told = to_error(error);
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
async fn ask(manager: &ConnectionManager) -> RedisResult<Vec<ServerNode>> {
    Ok(match manager.send(redis::cmd("INFO").arg("everything")).await? {
        Value::Map(nodes) => {
            nodes.into_iter().map(|(name, info)| ServerNode { name: text(name), info: text(info) }).collect()
        }
        other => vec![ServerNode { name: String::new(), info: text(other) }],
    })
}

/// The least that a server takes as one value; what Redis has by itself where it may
/// not be asked.
async fn value_max(manager: &ConnectionManager) -> usize {
    let answer = manager.send(redis::cmd("CONFIG").arg("GET").arg("proto-max-bulk-len")).await.unwrap_or(Value::Nil);
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

fn refuse(message: String) -> Error {
    Error::new(ErrorCode::QueueUnavailable, message)
}
