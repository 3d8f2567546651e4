//! Reaching Redis: one server, Sentinel or Cluster, plain or TLS, with or without
//! an ACL user; what a server must be; and how a lost connection comes back.
//!
//! Owns every connection's life. A [`Hub`] is one logical connection that is
//! opened when first needed and opened again, with back-off, after it broke;
//! callers repeat what is safe to repeat. Nothing here ends a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nobat_core::{Error, ErrorCode, Result};
use parking_lot::Mutex;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, Pipeline,
    ProtocolVersion, PushInfo, RedisError, RedisResult, ServerErrorKind, Value,
};

use tokio::sync::Notify;

use super::pulse::Cause;
use super::scripts;
use crate::api::Refusals;

/// How long opening a connection may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A reply that takes longer means the connection is dead.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// What bounds a value, for whoever reads why one was refused.
pub(crate) const VALUE_LIMIT: &str = "redis: `proto-max-bulk-len`";
const BACKOFF_FIRST: Duration = Duration::from_millis(20);
/// Bytes a second that a slow line carries.
const SLOW_LINE: usize = 4 << 20;
const BACKOFF_MOST: Duration = Duration::from_millis(500);

/// What a connection does with messages the server pushes.
pub(crate) type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// Where Redis is.
pub(crate) enum Target {
    Single(Client),
    Sentinel(tokio::sync::Mutex<redis::sentinel::SentinelClient>),
    Cluster(Vec<ConnectionInfo>),
}

impl Target {
    /// Reads `host:port`, `redis://`, `rediss://`, `unix://`, `redis+cluster://a,b,c`,
    /// `rediss+cluster://…`, `redis+sentinel://a,b/service[/db]` and the TLS form.
    ///
    /// # Errors
    /// `invalid_parameter` naming the part at fault.
    pub(crate) fn parse(url: &str) -> Result<Target> {
        let url = nobat_core::units::redis_url(url)?;
        let url = url.as_str();
        let invalid = |what: &str| {
            Error::new(
                ErrorCode::InvalidParameter,
                format!(
                    "redis url is not usable: {what}; forms: redis://[user:password@]host:port/db, rediss://…, redis+cluster://host1,host2, redis+sentinel://host1,host2/service"
                ),
            )
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("no `://` in it"))?;
        let (plain, kind) = match scheme.split_once('+') {
            Some((plain, kind)) => (plain, kind),
            None => (scheme, ""),
        };
        let node =
            |host: &str, tail: &str| info(&format!("{plain}://{host}{tail}")).map_err(|e| invalid(&e.to_string()));
        match kind {
            "" => {
                let client = info(url).and_then(Client::open).map_err(|e| invalid(&e.to_string()))?;
                Ok(Target::Single(client))
            }
            "cluster" => {
                let (login, hosts) = split_login(rest);
                let hosts = hosts.split('/').next().unwrap_or_default();
                let nodes: Result<Vec<_>> = hosts.split(',').map(|host| node(&format!("{login}{host}"), "")).collect();
                Ok(Target::Cluster(nodes?))
            }
            "sentinel" => {
                let (login, path) = split_login(rest);
                let mut parts = path.split('/');
                let hosts = parts.next().unwrap_or_default();
                let service = parts
                    .next()
                    .filter(|name| !name.is_empty())
                    .ok_or_else(|| invalid("no service name after the sentinels"))?;
                let db = parts.next().map(|db| format!("/{db}")).unwrap_or_default();
                let sentinels: Result<Vec<_>> = hosts.split(',').map(|host| node(host, "")).collect();
                let master = node(&format!("{login}master"), &db)?;
                let mut how = redis::sentinel::SentinelNodeConnectionInfo::default()
                    .set_redis_connection_info(master.redis_settings().clone());
                if plain == "rediss" {
                    how = how.set_tls_mode(redis::TlsMode::Secure);
                }
                let client = redis::sentinel::SentinelClient::build(
                    sentinels?,
                    service,
                    Some(how),
                    redis::sentinel::SentinelServerType::Master,
                )
                .map_err(|e| invalid(&e.to_string()))?;
                Ok(Target::Sentinel(tokio::sync::Mutex::new(client)))
            }
            other => Err(invalid(&format!("`{other}` is no kind of deployment"))),
        }
    }

    /// What to write instead where a server of this mode answers at this url.
    fn advice(&self, mode: Option<&str>) -> Option<String> {
        let Target::Single(client) = self else { return None };
        let info = client.get_connection_info();
        let (at, tls) = match info.addr() {
            ConnectionAddr::TcpTls { host, port, .. } => (format!("{host}:{port}"), "rediss"),
            other => (other.to_string(), "redis"),
        };
        match mode {
            Some("cluster") => Some(format!(
                "the redis at this url is a node of a cluster; write `{tls}+cluster://{at}` (with user and password before the host, more nodes after commas)"
            )),
            Some("sentinel") => Some(format!(
                "the redis at this url is a sentinel; write `{tls}+sentinel://{at}/SERVICE` with the name of the service it watches (more sentinels after commas)"
            )),
            _ => None,
        }
    }

    /// Whether keys of several slots must not meet in one command.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Target::Cluster(_))
    }

    /// Opens a connection whose driver runs on the current runtime.
    async fn open(&self, on_push: Option<OnPush>, response_timeout: Option<Duration>) -> RedisResult<Link> {
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(response_timeout);
        if let Some(on_push) = on_push.clone() {
            config = config.set_push_sender(push_sender(on_push));
        }
        match self {
            Target::Single(client) => {
                Ok(Link::Single(client.get_multiplexed_async_connection_with_config(&config).await?))
            }
            Target::Sentinel(client) => {
                // Asked anew each time: after a failover the master is another.
                let client = client.lock().await.async_get_client().await?;
                let info = client.get_connection_info().clone();
                let client = Client::open(resp3(info))?;
                Ok(Link::Single(client.get_multiplexed_async_connection_with_config(&config).await?))
            }
            Target::Cluster(nodes) => {
                let mut builder = redis::cluster::ClusterClientBuilder::new(nodes.clone())
                    .use_protocol(ProtocolVersion::RESP3)
                    // The client must not repeat a script behind our back: a
                    // repeat has to say that it is one.
                    .retries(0)
                    .connection_timeout(CONNECT_TIMEOUT)
                    .response_timeout(response_timeout.unwrap_or(Duration::from_secs(3600)))
                    .overall_response_timeout(response_timeout);
                if let Some(on_push) = on_push {
                    builder = builder.push_sender(push_sender(on_push));
                }
                Ok(Link::Cluster(builder.build()?.get_async_connection().await?))
            }
        }
    }
}

/// The URL, in full, where it names one plain server rather than a cluster's nodes or
/// sentinels: what any Redis client takes.
#[must_use]
pub fn single_server(url: &str) -> Option<String> {
    let url = nobat_core::units::redis_url(url).ok()?;
    matches!(Target::parse(&url), Ok(Target::Single(_))).then_some(url)
}

fn push_sender(on_push: OnPush) -> impl Fn(PushInfo) -> Result<(), redis::aio::SendError> + Send + Sync + 'static {
    move |info| {
        on_push(info);
        Ok(())
    }
}

fn split_login(rest: &str) -> (&str, &str) {
    rest.rfind('@').map_or(("", rest), |at| rest.split_at(at + 1))
}

fn info(url: &str) -> RedisResult<ConnectionInfo> {
    url.into_connection_info().map(resp3)
}

fn resp3(info: ConnectionInfo) -> ConnectionInfo {
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    info.set_redis_settings(settings)
}

/// An open connection; clones share it.
#[derive(Clone)]
pub(crate) enum Link {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Link {
    /// Waits longer for replies to what this handle sends: `bytes` travel first, on a
    /// line that may be slow.
    pub(crate) fn patient_for(&mut self, bytes: usize) {
        if let Link::Single(link) = self {
            link.set_response_timeout(RESPONSE_TIMEOUT + Duration::from_secs((bytes / SLOW_LINE) as u64));
        }
    }

    /// Sends one command; a server that does not know its function gets the library.
    pub(crate) async fn send(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        match self.send_once(cmd).await {
            Err(e) if is_unknown(&e) => {
                self.load().await?;
                self.send_once(cmd).await
            }
            other => other,
        }
    }

    async fn send_once(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        let reply = match self {
            Link::Single(link) => link.req_packed_command(cmd).await,
            Link::Cluster(link) => link.req_packed_command(cmd).await,
        };
        reply.and_then(Value::extract_error)
    }

    /// Sends a command that names no key to the server that has `key`.
    pub(crate) async fn send_near(&mut self, cmd: &Cmd, key: &str) -> RedisResult<Value> {
        use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
        let reply = match self {
            Link::Single(link) => link.req_packed_command(cmd).await,
            Link::Cluster(link) => {
                let route = Route::with_key(key, SlotAddr::Master);
                link.route_command(cmd.clone(), RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(route)))
                    .await
            }
        };
        reply.and_then(Value::extract_error)
    }

    /// As [`Link::send`], commands of one slot together; the replies in their order.
    pub(crate) async fn send_all(&mut self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        match self.send_all_once(pipeline).await {
            Err(e) if is_unknown(&e) => {
                self.load().await?;
                self.send_all_once(pipeline).await
            }
            other => other,
        }
    }

    async fn send_all_once(&mut self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let count = pipeline.cmd_iter().count();
        let replies = match self {
            Link::Single(link) => link.req_packed_commands(pipeline, 0, count).await?,
            Link::Cluster(link) => link.req_packed_commands(pipeline, 0, count).await?,
        };
        replies.into_iter().map(Value::extract_error).collect()
    }

    /// Gives the server the library of scripts.
    async fn load(&mut self) -> RedisResult<()> {
        log::debug!("loading the scripts into redis");
        self.send_once(&scripts::load()).await.map(drop)
    }
}

fn is_unknown(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("Function not found"))
}

/// What to do about a failed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection is of no more use.
    Broken,
    /// The server cannot now (loading, failing over, out of memory): wait.
    Busy,
    /// It will fail again.
    Ours,
}

/// Sorts a failure.
pub(crate) fn fault(error: &RedisError) -> Fault {
    match error.kind() {
        ErrorKind::Io
        | ErrorKind::Parse
        | ErrorKind::AuthenticationFailed
        | ErrorKind::ClusterConnectionNotFound
        | ErrorKind::Client => Fault::Broken,
        ErrorKind::MasterNameNotFoundBySentinel | ErrorKind::NoValidReplicasFoundBySentinel => Fault::Broken,
        // After a failover a replica answers on the old connection.
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::Moved) => Fault::Broken,
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::MasterDown
            | ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::Ask
            | ServerErrorKind::NoPerm,
        ) => Fault::Busy,
        _ => match error.code() {
            Some("OOM" | "MISCONF" | "NOREPLICAS" | "BUSY" | "UNBLOCKED" | "NOAUTH") => Fault::Busy,
            _ => Fault::Ours,
        },
    }
}

/// The error a caller sees.
pub(crate) fn coded(error: &RedisError) -> Error {
    match (fault(error), error.code()) {
        (_, Some("NOPERM")) => Error::new(
            ErrorCode::QueueUnavailable,
            format!(
                "redis denies a command: {error}; give the user `~nobat* &nobat* +@all -@admin -@dangerous +info +config|get` or what your prefix needs"
            ),
        ),
        (_, Some("WRONGPASS" | "NOAUTH")) => refused_login(error),
        _ if error.kind() == ErrorKind::AuthenticationFailed => refused_login(error),
        (_, Some("WRONGTYPE")) => Error::new(
            ErrorCode::QueueUnavailable,
            "a key of the queue has the wrong type; `nobat doctor --queue` names it and `--repair` sets it aside",
        ),
        (_, Some("OOM")) => {
            Error::new(ErrorCode::QueueUnavailable, "redis is out of memory (OOM); raise maxmemory or drain the queues")
                .retry_after(Duration::from_secs(5))
        }
        _ if error.detail().is_some_and(|detail| detail.contains("cluster support disabled")) => Error::new(
            ErrorCode::QueueUnavailable,
            "the redis at this url is no cluster; write `redis://host:port` (TLS: `rediss://`)",
        ),
        (Fault::Ours, _) => Error::new(ErrorCode::Internal, format!("redis refused a call: {error}")),
        _ => unavailable(&error.to_string()),
    }
}

fn refused_login(error: &RedisError) -> Error {
    let message = format!("redis refuses the login: {error}; check user name and password in its url");
    Error::new(ErrorCode::QueueUnavailable, message)
}

/// The store cannot be used now.
pub(crate) fn unavailable(why: &str) -> Error {
    Error::new(ErrorCode::QueueUnavailable, format!("redis cannot be used: {why}")).retry_after(Duration::from_secs(1))
}

/// Doubling pauses between tries, with jitter so that a fleet does not return
/// in one instant.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to pause after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        let full = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(8)).min(BACKOFF_MOST);
        self.failures += 1;
        full.mul_f64(0.5 + f64::from(super::random_u32()) / f64::from(u32::MAX) / 2.0)
    }

    /// Forgets past failures.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// One logical connection that comes back after it broke.
pub(crate) struct Hub {
    target: Arc<Target>,
    on_push: Option<OnPush>,
    response_timeout: Option<Duration>,
    channels: Vec<String>,
    /// Where the connection's driver runs; `None`: the caller's runtime.
    runtime: Option<tokio::runtime::Handle>,
    // A std-like mutex: held for a clone of a handle, never across an await.
    current: Mutex<Current>,
    opening: tokio::sync::Mutex<Opening>,
    /// Where the condition of the store is kept, for a connection that decides it.
    report: Option<Report>,
    /// Whether this connection is held against the store.
    troubled: AtomicBool,
    trouble: Notify,
}

struct Report {
    refusals: Arc<Refusals<Cause>>,
    number: u64,
}

#[derive(Default)]
struct Current {
    link: Option<Link>,
    generation: u64,
}

#[derive(Default)]
struct Opening {
    backoff: Backoff,
    not_before: Option<Instant>,
    last: Option<RedisError>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        // A connection that is not there any more holds nobody up.
        self.works();
    }
}

impl Hub {
    /// A connection that is opened when first used.
    pub(crate) fn new(target: Arc<Target>, runtime: Option<tokio::runtime::Handle>) -> Hub {
        Hub {
            target,
            on_push: None,
            response_timeout: Some(RESPONSE_TIMEOUT),
            channels: Vec::new(),
            runtime,
            current: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            report: None,
            troubled: AtomicBool::new(false),
            trouble: Notify::new(),
        }
    }

    /// Says how it fares: without this connection no job is accepted.
    pub(crate) fn reporting(mut self, refusals: Arc<Refusals<Cause>>) -> Hub {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        self.report = Some(Report { refusals, number: COUNT.fetch_add(1, Ordering::Relaxed) });
        self
    }

    /// Subscribes to `channels` whenever the connection opens.
    pub(crate) fn subscribed(mut self, channels: Vec<String>, on_push: OnPush) -> Hub {
        self.channels = channels;
        self.on_push = Some(on_push);
        self
    }

    /// No limit on the time a reply takes: for blocking commands.
    pub(crate) fn without_response_timeout(mut self) -> Hub {
        self.response_timeout = None;
        self
    }

    /// The open connection and its generation; opens one if there is none. While
    /// a pause after a failure lasts it fails at once with that failure.
    pub(crate) async fn link(&self) -> RedisResult<(Link, u64)> {
        if let Some(open) = self.open_link() {
            return Ok(open);
        }
        let mut opening = self.opening.lock().await;
        if let Some(open) = self.open_link() {
            return Ok(open);
        }
        if let (Some(until), Some(last)) = (opening.not_before, &opening.last)
            && Instant::now() < until
        {
            return Err(last.clone());
        }
        match self.open().await {
            Ok(link) => {
                *opening = Opening::default();
                let mut current = self.current.lock();
                current.generation += 1;
                current.link = Some(link.clone());
                self.works();
                Ok((link, current.generation))
            }
            Err(e) => {
                self.failed(coded(&e));
                let pause = opening.backoff.next();
                opening.not_before = Some(Instant::now() + pause);
                opening.last = Some(e.clone());
                Err(e)
            }
        }
    }

    /// Says that the connection of this generation is of no more use.
    pub(crate) fn broken(&self, generation: u64) {
        let mut current = self.current.lock();
        if current.generation == generation {
            current.link = None;
        }
    }

    /// What url to write instead of this one for a server of this mode, if not this one.
    pub(crate) fn advice(&self, mode: Option<&str>) -> Option<String> {
        self.target.advice(mode)
    }

    /// Says that whatever connection there is broke.
    pub(crate) fn broken_now(&self) {
        self.current.lock().link = None;
    }

    /// Sends a command once; a fault of the connection closes it.
    pub(crate) async fn send(&self, cmd: &Cmd) -> RedisResult<Value> {
        let (mut link, generation) = self.link().await?;
        self.judge(link.send(cmd).await, generation)
    }

    /// Sends a command that names no key to the server that has `key`.
    pub(crate) async fn send_near(&self, cmd: &Cmd, key: &str) -> RedisResult<Value> {
        let (mut link, generation) = self.link().await?;
        self.judge(link.send_near(cmd, key).await, generation)
    }

    /// Sends commands of one slot once; a fault of the connection closes it.
    pub(crate) async fn send_all(&self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let (mut link, generation) = self.link().await?;
        self.judge(link.send_all(pipeline).await, generation)
    }

    /// Draws the conclusions of a reply that came on the connection of `generation`.
    pub(crate) fn judge<T>(&self, reply: RedisResult<T>, generation: u64) -> RedisResult<T> {
        match &reply {
            Ok(_) => self.works(),
            Err(e) if fault(e) == Fault::Broken => {
                self.broken(generation);
                self.failed(coded(e));
            }
            // Whatever it is asked, it answers so.
            Err(e) if matches!(e.code(), Some("LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "BUSY" | "NOAUTH")) => {
                self.failed(coded(e));
            }
            Err(_) => self.works(),
        }
        reply
    }

    /// It cannot be used at present.
    pub(crate) fn failed(&self, error: Error) {
        if let Some(Report { refusals, number }) = &self.report {
            refusals.raise(Cause::Connection(*number), error);
            if !self.troubled.swap(true, Ordering::AcqRel) {
                self.trouble.notify_one();
            }
        }
    }

    fn works(&self) {
        if self.troubled.load(Ordering::Relaxed)
            && self.troubled.swap(false, Ordering::AcqRel)
            && let Some(Report { refusals, number }) = &self.report
        {
            refusals.clear(&Cause::Connection(*number));
        }
    }

    /// Resolves when it cannot be used.
    pub(crate) async fn in_trouble(&self) {
        while !self.is_troubled() {
            self.trouble.notified().await;
        }
    }

    pub(crate) fn is_troubled(&self) -> bool {
        self.troubled.load(Ordering::Acquire)
    }

    fn open_link(&self) -> Option<(Link, u64)> {
        let current = self.current.lock();
        current.link.clone().map(|link| (link, current.generation))
    }

    async fn open(&self) -> RedisResult<Link> {
        let (target, on_push, timeout, channels) =
            (self.target.clone(), self.on_push.clone(), self.response_timeout, self.channels.clone());
        let open = async move {
            let opening = async {
                let mut link = target.open(on_push, timeout).await?;
                for channel in &channels {
                    link.send(redis::cmd("SUBSCRIBE").arg(channel)).await?;
                }
                Ok(link)
            };
            tokio::time::timeout(CONNECT_TIMEOUT * 2, opening).await.unwrap_or_else(|_| {
                Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer while connecting").into())
            })
        };
        match &self.runtime {
            None => open.await,
            Some(runtime) => runtime.spawn(open).await.unwrap_or_else(|_| {
                Err(std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the store is closing").into())
            }),
        }
    }
}
