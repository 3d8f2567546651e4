//! One logical connection that is opened when first needed, and opened again, with
//! back-off, after it broke. Callers repeat what is safe to repeat; nothing here ends
//! a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nobat_core::retry::Backoff;
use nobat_core::{Error, Result};
use parking_lot::Mutex;
use redis::{Cmd, Pipeline, RedisError, RedisResult, Value};
use tokio::sync::Notify;

use super::backoff::BACKOFF;
use super::endpoint::{Endpoint, OnPush};
use super::fault::{Fault, fault, to_error};
use super::wire::{CONNECT_TIMEOUT, Connection, RESPONSE_TIMEOUT};
use crate::api::Refusals;

/// How long a call that may be repeated waits out a fault.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why the store takes no jobs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RefusalCause {
    /// A connection, by its manager's number.
    Connection(u64),
    /// Writes to a queue, by its base: in a cluster each has its own server.
    Writes(String),
}

/// One logical connection that comes back after it broke.
pub(crate) struct ConnectionManager {
    endpoint: Arc<Endpoint>,
    on_push: Option<OnPush>,
    response_timeout: Option<Duration>,
    channels: Vec<String>,
    /// Where the connection's driver runs; `None`: the caller's runtime.
    runtime: Option<tokio::runtime::Handle>,
    // A std-like mutex: held for a clone of a handle, never across an await.
    current: Mutex<OpenConnection>,
    opening: tokio::sync::Mutex<OpenAttempt>,
    /// Where the condition of the store is kept, for a connection that decides it.
    report: Option<ReadinessReport>,
    /// Whether this connection is held against the store.
    failing: AtomicBool,
    failed_notify: Notify,
}

struct ReadinessReport {
    refusals: Arc<Refusals<RefusalCause>>,
    number: u64,
}

#[derive(Default)]
struct OpenConnection {
    connection: Option<Connection>,
    generation: u64,
}

struct OpenAttempt {
    backoff: Backoff,
    not_before: Option<Instant>,
    last: Option<RedisError>,
}

impl Default for OpenAttempt {
    fn default() -> OpenAttempt {
        OpenAttempt { backoff: BACKOFF, not_before: None, last: None }
    }
}

impl Drop for ConnectionManager {
    fn drop(&mut self) {
        // A connection that is not there any more holds nobody up.
        self.mark_working();
    }
}

impl ConnectionManager {
    /// A connection that is opened when first used.
    pub(crate) fn new(endpoint: Arc<Endpoint>, runtime: Option<tokio::runtime::Handle>) -> ConnectionManager {
        ConnectionManager {
            endpoint,
            on_push: None,
            response_timeout: Some(RESPONSE_TIMEOUT),
            channels: Vec::new(),
            runtime,
            current: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            report: None,
            failing: AtomicBool::new(false),
            failed_notify: Notify::new(),
        }
    }

    /// Says how it fares: without this connection no job is accepted.
    pub(crate) fn reporting_to(mut self, refusals: Arc<Refusals<RefusalCause>>) -> ConnectionManager {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        self.report = Some(ReadinessReport { refusals, number: COUNT.fetch_add(1, Ordering::Relaxed) });
        self
    }

    /// Subscribes to `channels` whenever the connection opens.
    pub(crate) fn subscribed(mut self, channels: Vec<String>, on_push: OnPush) -> ConnectionManager {
        self.channels = channels;
        self.on_push = Some(on_push);
        self
    }

    /// No limit on the time a reply takes: for blocking commands.
    pub(crate) fn without_response_timeout(mut self) -> ConnectionManager {
        self.response_timeout = None;
        self
    }

    /// The open connection and its generation; opens one if there is none. While
    /// a pause after a failure lasts it fails at once with that failure.
    pub(crate) async fn connection(&self) -> RedisResult<(Connection, u64)> {
        if let Some(open) = self.open_connection() {
            return Ok(open);
        }
        let mut opening = self.opening.lock().await;
        if let Some(open) = self.open_connection() {
            return Ok(open);
        }
        if let (Some(until), Some(last)) = (opening.not_before, &opening.last)
            && Instant::now() < until
        {
            return Err(last.clone());
        }
        match self.open().await {
            Ok(connection) => {
                *opening = OpenAttempt::default();
                let mut current = self.current.lock();
                current.generation += 1;
                current.connection = Some(connection.clone());
                self.mark_working();
                Ok((connection, current.generation))
            }
            Err(e) => {
                self.failed(to_error(&e));
                let pause = opening.backoff.jittered(rand::random());
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
            current.connection = None;
        }
    }

    /// What url to write instead of this one for a server of this mode, if not this one.
    pub(crate) fn advice(&self, mode: Option<&str>) -> Option<String> {
        self.endpoint.advice(mode)
    }

    /// Says that whatever connection there is broke.
    pub(crate) fn reset(&self) {
        self.current.lock().connection = None;
    }

    /// Sends a command once; a fault of the connection closes it.
    pub(crate) async fn send(&self, cmd: &Cmd) -> RedisResult<Value> {
        let (mut connection, generation) = self.connection().await?;
        self.observe(connection.send(cmd).await, generation)
    }

    /// Sends a command that may be repeated, waiting out a short fault.
    pub(crate) async fn send_patiently(&self, cmd: &Cmd) -> Result<Value> {
        let (started, mut backoff) = (Instant::now(), BACKOFF);
        loop {
            match self.send(cmd).await {
                Ok(value) => return Ok(value),
                Err(e) if fault(&e) == Fault::Permanent || started.elapsed() > PATIENCE => return Err(to_error(&e)),
                Err(_) => tokio::time::sleep(backoff.jittered(rand::random())).await,
            }
        }
    }

    /// Sends a command that names no key to the server that has `key`.
    pub(crate) async fn send_near(&self, cmd: &Cmd, key: &str) -> RedisResult<Value> {
        let (mut connection, generation) = self.connection().await?;
        self.observe(connection.send_near(cmd, key).await, generation)
    }

    /// Sends commands of one slot once; a fault of the connection closes it.
    pub(crate) async fn send_all(&self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let (mut connection, generation) = self.connection().await?;
        self.observe(connection.send_all(pipeline).await, generation)
    }

    /// Draws the conclusions of a reply that came on the connection of `generation`.
    pub(crate) fn observe<T>(&self, reply: RedisResult<T>, generation: u64) -> RedisResult<T> {
        match &reply {
            Ok(_) => self.mark_working(),
            Err(e) if fault(e) == Fault::Broken => {
                self.broken(generation);
                self.failed(to_error(e));
            }
            // Whatever it is asked, it answers so.
            Err(e) if matches!(e.code(), Some("LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "BUSY" | "NOAUTH")) => {
                self.failed(to_error(e));
            }
            Err(_) => self.mark_working(),
        }
        reply
    }

    /// It cannot be used at present.
    pub(crate) fn failed(&self, error: Error) {
        if let Some(ReadinessReport { refusals, number }) = &self.report {
            refusals.raise(RefusalCause::Connection(*number), error);
            if !self.failing.swap(true, Ordering::AcqRel) {
                self.failed_notify.notify_one();
            }
        }
    }

    fn mark_working(&self) {
        if self.failing.load(Ordering::Relaxed)
            && self.failing.swap(false, Ordering::AcqRel)
            && let Some(ReadinessReport { refusals, number }) = &self.report
        {
            refusals.clear(&RefusalCause::Connection(*number));
        }
    }

    /// Resolves when it cannot be used.
    pub(crate) async fn until_failing(&self) {
        while !self.is_failing() {
            self.failed_notify.notified().await;
        }
    }

    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }

    fn open_connection(&self) -> Option<(Connection, u64)> {
        let current = self.current.lock();
        current.connection.clone().map(|connection| (connection, current.generation))
    }

    async fn open(&self) -> RedisResult<Connection> {
        let (endpoint, on_push, timeout, channels) =
            (self.endpoint.clone(), self.on_push.clone(), self.response_timeout, self.channels.clone());
        let open = async move {
            let opening = async {
                let mut connection = endpoint.open(on_push, timeout).await?;
                for channel in &channels {
                    connection.send(redis::cmd("SUBSCRIBE").arg(channel)).await?;
                }
                Ok(connection)
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
