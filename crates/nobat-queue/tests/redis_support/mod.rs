//! A real Redis per test process or per test: started on a free port in a
//! temporary folder, stopped by its process id.

#![allow(dead_code)] // Each test binary uses a part.

pub(crate) mod proxy;
pub(crate) mod shim;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nobat_core::OwnerId;
use nobat_core::job::{JobOptions, JobResult, LeasedJob, NewJob, Outcome, Settlement};
use nobat_queue::redis::RedisQueue;
use nobat_queue::{Consumer, QueueClient, QueueSettings};

/// A redis-server of our own.
pub(crate) struct Server {
    process: Child,
    /// Where it listens.
    pub(crate) port: u16,
    folder: tempfile::TempDir,
    options: Vec<String>,
    env: Vec<(String, String)>,
}

impl Server {
    /// Starts a server without persistence, with more options.
    pub(crate) fn start(options: &[&str]) -> Server {
        Server::start_in(Vec::new(), options)
    }

    /// Starts a server in an environment.
    pub(crate) fn start_in(env: Vec<(String, String)>, options: &[&str]) -> Server {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let process = spawn(port, folder.path(), &options, &env);
        let server = Server { process, port, folder, options, env };
        server.await_ready();
        server
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Kills it with -9.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ended");
    }

    /// Starts it again on its port and data.
    pub(crate) fn restart(&mut self) {
        self.process = spawn(self.port, self.folder.path(), &self.options, &self.env);
        self.await_ready();
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// A plain connection, for looking.
    pub(crate) fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url()).and_then(|client| client.get_connection()).expect("it answers")
    }

    /// A figure of `INFO section`; 0 when it is not there.
    pub(crate) fn figure(&self, section: &str, name: &str) -> f64 {
        let info: String = redis::cmd("INFO").arg(section).query(&mut self.connection()).expect("told");
        let told = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        told.and_then(|number| number.trim().parse().ok()).unwrap_or(0.0)
    }

    /// Bytes in use but for what connections hold back.
    pub(crate) fn bytes(&self) -> f64 {
        self.figure("memory", "used_memory") - self.figure("memory", "mem_clients_normal")
    }

    fn await_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = redis::Client::open(self.url())
                .and_then(|client| client.get_connection_with_timeout(Duration::from_secs(1)))
                .and_then(|mut connection| redis::cmd("PING").query::<String>(&mut connection));
            match answer {
                Ok(_) => return,
                // It answers, if only to say that we lack a password or that it loads.
                Err(e) if e.code() == Some("NOAUTH") => return,
                Err(e) => assert!(Instant::now() < deadline, "redis-server did not start: {e}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A sentinel of our own that alone decides.
pub(crate) struct Sentinel {
    process: Child,
    /// Where it listens.
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

impl Sentinel {
    /// Watches the master at `master` under the name `main`.
    pub(crate) fn watch(master: u16) -> Sentinel {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let config = folder.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 10000\n",
            folder.path().display()
        );
        std::fs::write(&config, text).expect("written");
        let process = Command::new("redis-server")
            .arg(&config)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed (scripts/test-deps installs it)");
        let sentinel = Sentinel { process, port, _folder: folder };
        let deadline = Instant::now() + Duration::from_secs(20);
        while redis::Client::open(sentinel.url()).and_then(|client| client.get_connection()).is_err() {
            assert!(Instant::now() < deadline, "the sentinel did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        sentinel
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub(crate) fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url()).and_then(|client| client.get_connection()).expect("it answers")
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(port: u16, folder: &std::path::Path, options: &[String], env: &[(String, String)]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--dir", &folder.to_string_lossy()])
        .args(options)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed (scripts/test installs it)")
}

/// A port nobody uses now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// A queue on `server`.
pub(crate) async fn queue(server: &Server, settings: QueueSettings) -> Arc<RedisQueue> {
    RedisQueue::connect(&server.url(), settings, "nobat").await.expect("a fresh server is fit")
}

/// A plain job.
pub(crate) fn job(payload: impl Into<Vec<u8>>) -> NewJob {
    NewJob {
        model: "digits".into(),
        owner: OwnerId::ANONYMOUS,
        options: JobOptions::default(),
        payload: payload.into().into(),
        rows: 1,
        trace: "".into(),
    }
}

/// A plain job with options.
pub(crate) fn job_with(payload: impl Into<Vec<u8>>, options: JobOptions) -> NewJob {
    NewJob { options, ..job(payload) }
}

/// Succeeds with the job's own payload as outputs.
pub(crate) fn echo(job: &LeasedJob) -> Settlement {
    let result = JobResult { explain: Default::default(), outputs: job.payload.clone() };
    Settlement { id: job.id, token: job.token, outcome: Outcome::Succeeded(result.encode()) }
}

/// Answers every job with its payload until it is aborted.
pub(crate) async fn serve(mut consumer: Box<dyn Consumer>, want: usize) {
    let mut settle = Vec::new();
    loop {
        match consumer.settle_and_lease_or_wait(std::mem::take(&mut settle), want).await {
            Ok(step) if step.leased.is_empty() => consumer.idle().await,
            Ok(step) => settle.extend(step.leased.iter().map(echo)),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// How much a test does: `bounded` in every run, `full` with `NOBAT_FAULTS=full`.
pub(crate) fn amount(bounded: usize, full: usize) -> usize {
    match std::env::var("NOBAT_FAULTS").as_deref() {
        Ok("full") => full,
        _ => bounded,
    }
}

/// Enqueues jobs in their order, a thousand in flight.
pub(crate) async fn enqueue_all(client: &dyn QueueClient, jobs: impl IntoIterator<Item = NewJob>) {
    let mut jobs = jobs.into_iter().peekable();
    // The first goes alone: calls in flight together that meet a server without the
    // script are sent again, and need not arrive in their order then.
    if let Some(first) = jobs.next() {
        client.enqueue(first).await.expect("accepted");
    }
    while jobs.peek().is_some() {
        let accepted: Vec<_> = jobs.by_ref().take(1_000).map(|job| client.enqueue(job)).collect();
        for accepted in futures::future::join_all(accepted).await {
            accepted.expect("accepted");
        }
    }
}

/// Leases until `count` jobs are there, or fails after a while.
pub(crate) async fn lease(consumer: &mut dyn Consumer, count: usize) -> Vec<LeasedJob> {
    let mut leased = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while leased.len() < count {
        assert!(Instant::now() < deadline, "leased {} of {count} jobs", leased.len());
        let step = consumer.settle_and_lease(Vec::new(), count - leased.len()).await.expect("the store answers");
        if step.leased.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        leased.extend(step.leased);
    }
    leased
}
