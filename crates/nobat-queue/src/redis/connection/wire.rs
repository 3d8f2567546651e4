//! An open connection, and how commands travel on it.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, Pipeline, RedisError, RedisResult, Value};

use super::super::scripts;

/// How long opening a connection may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A reply that takes longer means the connection is dead.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes a second that a slow line carries.
const SLOW_LINE: usize = 4 << 20;

/// An open connection; clones share it.
#[derive(Clone)]
pub(crate) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    /// Waits longer for replies to what this handle sends: `bytes` travel first, on a
    /// line that may be slow.
    pub(crate) fn patient_for(&mut self, bytes: usize) {
        if let Connection::Single(connection) = self {
            connection.set_response_timeout(RESPONSE_TIMEOUT + Duration::from_secs((bytes / SLOW_LINE) as u64));
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
            Connection::Single(connection) => connection.req_packed_command(cmd).await,
            Connection::Cluster(connection) => connection.req_packed_command(cmd).await,
        };
        reply.and_then(Value::extract_error)
    }

    /// Sends a command that names no key to the server that has `key`.
    pub(crate) async fn send_near(&mut self, cmd: &Cmd, key: &str) -> RedisResult<Value> {
        use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
        let reply = match self {
            Connection::Single(connection) => connection.req_packed_command(cmd).await,
            Connection::Cluster(connection) => {
                let route = Route::with_key(key, SlotAddr::Master);
                connection
                    .route_command(cmd.clone(), RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(route)))
                    .await
            }
        };
        reply.and_then(Value::extract_error)
    }

    /// As [`Connection::send`], commands of one slot together; the replies in their order.
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
            Connection::Single(connection) => connection.req_packed_commands(pipeline, 0, count).await?,
            Connection::Cluster(connection) => connection.req_packed_commands(pipeline, 0, count).await?,
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
