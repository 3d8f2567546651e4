//! Where Redis is: one server, Sentinel or Cluster, plain or TLS, with or without an
//! ACL user.

use std::sync::Arc;
use std::time::Duration;

use nobat_core::{Error, ErrorCode, Result};
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, PushInfo,
    RedisResult,
};

use super::wire::{CONNECT_TIMEOUT, Connection};

/// What a connection does with messages the server pushes.
pub(crate) type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// After which silence a server's host is taken for gone.
const AWAY: Duration = Duration::from_secs(6);

/// Where Redis is.
pub(crate) enum Endpoint {
    Single(Client),
    Sentinel(tokio::sync::Mutex<redis::sentinel::SentinelClient>),
    Cluster(Vec<ConnectionInfo>),
}

impl Endpoint {
    /// Reads `host:port`, `redis://`, `rediss://`, `unix://`, `redis+cluster://a,b,c`,
    /// `rediss+cluster://…`, `redis+sentinel://a,b/service[/db]` and the TLS form.
    ///
    /// # Errors
    /// `invalid_parameter` naming the part at fault.
    pub(crate) fn parse(url: &str) -> Result<Endpoint> {
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
                Ok(Endpoint::Single(client))
            }
            "cluster" => {
                let (login, hosts) = split_login(rest);
                let hosts = hosts.split('/').next().unwrap_or_default();
                let nodes: Result<Vec<_>> = hosts.split(',').map(|host| node(&format!("{login}{host}"), "")).collect();
                Ok(Endpoint::Cluster(nodes?))
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
                Ok(Endpoint::Sentinel(tokio::sync::Mutex::new(client)))
            }
            other => Err(invalid(&format!("`{other}` is no kind of deployment"))),
        }
    }

    /// What to write instead where a server of this mode answers at this url.
    pub(super) fn advice(&self, mode: Option<&str>) -> Option<String> {
        let Endpoint::Single(client) = self else { return None };
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
        matches!(self, Endpoint::Cluster(_))
    }

    /// Opens a connection whose driver runs on the current runtime.
    pub(super) async fn open(
        &self,
        on_push: Option<OnPush>,
        response_timeout: Option<Duration>,
    ) -> RedisResult<Connection> {
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(response_timeout);
        if let Some(on_push) = on_push.clone() {
            config = config.set_push_sender(push_sender(on_push));
        }
        match self {
            Endpoint::Single(client) => {
                Ok(Connection::Single(client.get_multiplexed_async_connection_with_config(&config).await?))
            }
            Endpoint::Sentinel(client) => {
                // Asked anew each time: after a failover the master is another.
                let client = client.lock().await.async_get_client().await?;
                let info = client.get_connection_info().clone();
                let client = Client::open(prepared(info))?;
                Ok(Connection::Single(client.get_multiplexed_async_connection_with_config(&config).await?))
            }
            Endpoint::Cluster(nodes) => {
                let mut builder = redis::cluster::ClusterClientBuilder::new(nodes.clone())
                    .use_protocol(ProtocolVersion::RESP3)
                    .tcp_settings(watched())
                    // The client must not repeat a script behind our back: a
                    // repeat has to say that it is one.
                    .retries(0)
                    .connection_timeout(CONNECT_TIMEOUT)
                    .response_timeout(response_timeout.unwrap_or(Duration::from_secs(3600)))
                    .overall_response_timeout(response_timeout);
                if let Some(on_push) = on_push {
                    builder = builder.push_sender(push_sender(on_push));
                }
                Ok(Connection::Cluster(builder.build()?.get_async_connection().await?))
            }
        }
    }
}

/// The URL, in full, where it names one plain server rather than a cluster's nodes or
/// sentinels: what any Redis client takes.
#[must_use]
pub fn single_server(url: &str) -> Option<String> {
    let url = nobat_core::units::redis_url(url).ok()?;
    matches!(Endpoint::parse(&url), Ok(Endpoint::Single(_))).then_some(url)
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
    url.into_connection_info().map(prepared)
}

/// What every connection is opened with.
fn prepared(info: ConnectionInfo) -> ConnectionInfo {
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    info.set_redis_settings(settings).set_tcp_settings(watched())
}

/// A server's host that went away without a word is noticed within [`AWAY`], also on a
/// connection that waits: the system's probes ask after it, which costs Redis no command.
fn watched() -> TcpSettings {
    let probes = TcpKeepalive::new().with_time(AWAY / 2).with_interval(AWAY / 6).with_retries(3);
    let settings = TcpSettings::default().set_keepalive(probes);
    // The same for what was sent and is not acknowledged: there are no probes meanwhile.
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(AWAY);
    settings
}
