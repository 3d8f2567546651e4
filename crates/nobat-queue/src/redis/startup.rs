//! What a server must be before it is trusted with jobs, and what an operator
//! is told about one that could be safer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nobat_core::{Error, ErrorCode, IdIssuer, Result};
use redis::{RedisError, RedisResult, Value};

use super::connect::{Hub, coded};
use super::keys::Prefix;
use crate::queue::{Durability, QueueSettings, StoreHealth};

/// The oldest server whose scripting and commands the scripts need.
const OLDEST: (u32, u32) = (7, 0);

/// How long a start waits for a server that is not up yet: under a supervisor
/// or in a compose file everything starts at once.
const REACH: Duration = Duration::from_secs(10);

/// What was learned about the server.
#[derive(Debug)]
pub(crate) struct Server {
    version: String,
    append_only: AtomicBool,
}

impl Server {
    /// Whether it kept an append-only file when it was last asked.
    pub(crate) fn append_only(&self) -> bool {
        self.append_only.load(Ordering::Relaxed)
    }
}

/// Checks the server, loads the scripts and reads (or creates) the secret that
/// ids are keyed with.
pub(crate) async fn prepare(hub: &Hub, prefix: &Prefix, settings: &QueueSettings) -> Result<(Server, IdIssuer)> {
    let info = reach(hub).await?;
    let version = field(&info, "redis_version").unwrap_or("unknown").to_owned();
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if number < OLDEST {
        return Err(refuse(format!("redis at this url is version {version}; nobat needs 7.0 or later")));
    }
    if settings.durability == Durability::Fsync {
        if number < (7, 2) {
            return Err(refuse(format!(
                "durability = \"fsync\" needs WAITAOF, which redis {version} does not have; use redis 7.2 or later, or durability = \"memory\" with `appendfsync always`"
            )));
        }
        if !keeps_file(&info) {
            return Err(refuse("durability = \"fsync\" needs append-only; set `appendonly yes` in redis".to_owned()));
        }
    }
    let policy = eviction_policy(hub, &info).await?;
    if policy != "noeviction" {
        return Err(refuse(format!(
            "redis has maxmemory-policy `{policy}`, which would drop jobs; set `maxmemory-policy noeviction`"
        )));
    }
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
    let append_only = AtomicBool::new(keeps_file(&info));
    Ok((Server { version, append_only }, IdIssuer::new(secret)))
}

/// The server's health now.
pub(crate) async fn health(hub: &Hub, server: &Server) -> Result<StoreHealth> {
    let info = info(hub).await?;
    let mut warnings = Vec::new();
    let say = |warnings: &mut Vec<String>, text: String| warnings.push(text);
    server.append_only.store(keeps_file(&info), Ordering::Relaxed);
    if !keeps_file(&info) {
        say(
            &mut warnings,
            "append-only is off: a restart of redis loses accepted jobs; set `appendonly yes`".to_owned(),
        );
    }
    if field(&info, "aof_last_write_status").is_some_and(|status| status != "ok") {
        say(&mut warnings, "redis cannot write its append-only file; free disk space".to_owned());
    }
    if field(&info, "loading").is_some_and(|loading| loading != "0") {
        return Err(super::connect::unavailable("it is loading its data"));
    }
    if field(&info, "role") == Some("slave") {
        // Nothing this connection is asked for here fails on a replica: after a
        // failover it has to be told to look for the master again.
        hub.broken_now();
        return Err(super::connect::unavailable(
            "it is a replica; give the url of the master, of the sentinels or of the cluster",
        ));
    }
    if field(&info, "maxmemory_policy").is_some_and(|policy| policy != "noeviction") {
        say(&mut warnings, "redis evicts keys: accepted jobs may vanish; set `maxmemory-policy noeviction`".to_owned());
    }
    let number = |name: &str| field(&info, name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let (used, most) = (number("used_memory"), number("maxmemory"));
    if most > 0 && used > most / 10 * 9 {
        say(&mut warnings, format!("redis uses {used} of {most} bytes; raise maxmemory or drain the queues"));
    }
    Ok(StoreHealth { store: format!("redis {}", server.version), warnings })
}

/// Waits for a server that is starting beside us, then reads what it says.
async fn reach(hub: &Hub) -> Result<String> {
    let since = Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        match try_info(hub).await {
            Err(e) if starting(&e) && since.elapsed() < REACH => {
                if pause > Duration::from_millis(100) {
                    log::warn!("waiting for redis, up to {} s: {e}", REACH.as_secs());
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            other => return other.map_err(|e| coded(&e)),
        }
    }
}

/// Whether a server that is coming up answers so.
fn starting(error: &RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || error.code() == Some("LOADING")
}

async fn info(hub: &Hub) -> Result<String> {
    try_info(hub).await.map_err(|e| coded(&e))
}

async fn try_info(hub: &Hub) -> RedisResult<String> {
    Ok(match hub.send(redis::cmd("INFO").arg("everything")).await? {
        // A cluster answers per node: the first speaks for it.
        Value::Map(nodes) => nodes.into_iter().map(|(_, info)| text(info)).next().unwrap_or_default(),
        other => text(other),
    })
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

/// From CONFIG where it is allowed, else from INFO.
async fn eviction_policy(hub: &Hub, info: &str) -> Result<String> {
    if let Some(policy) = field(info, "maxmemory_policy") {
        return Ok(policy.to_owned());
    }
    let reply = hub.send(redis::cmd("CONFIG").arg("GET").arg("maxmemory-policy")).await.map_err(|e| coded(&e))?;
    let pairs: Vec<String> = match reply {
        Value::Map(pairs) => pairs.into_iter().flat_map(|(k, v)| [text(k), text(v)]).collect(),
        Value::Array(items) => items.into_iter().map(text).collect(),
        _ => Vec::new(),
    };
    Ok(pairs.into_iter().nth(1).unwrap_or_else(|| "noeviction".to_owned()))
}

fn refuse(message: String) -> Error {
    Error::new(ErrorCode::QueueUnavailable, message)
}
