//! What a failed command means, and the error a caller sees.

use std::time::Duration;

use nobat_core::{Error, ErrorCode, Result};
use redis::{ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value};

/// What to do about a failed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection is of no more use.
    Broken,
    /// The server cannot now (loading, failing over, out of memory): wait.
    Transient,
    /// It will fail again.
    Permanent,
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
        ) => Fault::Transient,
        _ => match error.code() {
            Some("OOM" | "MISCONF" | "NOREPLICAS" | "BUSY" | "UNBLOCKED" | "NOAUTH") => Fault::Transient,
            _ => Fault::Permanent,
        },
    }
}

/// The error a caller sees.
pub(crate) fn to_error(error: &RedisError) -> Error {
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
        (Fault::Permanent, _) => Error::new(ErrorCode::Internal, format!("redis refused a call: {error}")),
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

/// A reply as `T`; `what` names it where it is of another form than the script promises.
///
/// # Errors
/// `internal` naming what came instead.
pub(crate) fn parse<T: FromRedisValue>(reply: Value, what: &str) -> Result<T> {
    let kind = kind(&reply);
    T::from_redis_value(reply).map_err(|_| answered(kind, what))
}

/// A reply that is not of the form the script promises.
pub(crate) fn unexpected(what: &str, reply: &Value) -> Error {
    answered(kind(reply), what)
}

fn answered(kind: &str, what: &str) -> Error {
    let message = format!("redis answered {kind} where {what} was due; is another program using the prefix?");
    Error::new(ErrorCode::Internal, message)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) | Value::Okay => "text",
        Value::Array(_) => "a list",
        _ => "another type",
    }
}
