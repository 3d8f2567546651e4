//! Real Redis servers: on free ports, in folders of their own, ended by their process
//! ids with their owners.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::wait::until;

/// A redis-server of our own.
pub struct RedisServer {
    process: Child,
    /// Where it listens.
    pub port: u16,
    folder: tempfile::TempDir,
    options: Vec<String>,
    env: Vec<(String, String)>,
}

impl RedisServer {
    /// Starts a server without persistence, with more options.
    pub fn start(options: &[&str]) -> RedisServer {
        RedisServer::start_in(Vec::new(), options)
    }

    /// Starts a server in an environment.
    pub fn start_in(env: Vec<(String, String)>, options: &[&str]) -> RedisServer {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let process = spawn(port, folder.path(), &options, &env);
        let server = RedisServer { process, port, folder, options, env };
        server.await_ready();
        server
    }

    /// A cluster of one server that has every slot.
    pub fn cluster() -> RedisServer {
        // Its bus listens 10,000 above its port otherwise, where there may be none.
        let bus = free_port().to_string();
        let server = RedisServer::start(&["--cluster-enabled", "yes", "--cluster-port", &bus]);
        server.cli(&["cluster", "addslotsrange", "0", "16383"]);
        until("a cluster", || server.cli(&["cluster", "info"]).contains("cluster_state:ok"));
        server
    }

    /// The URL of one server for all tests of this process. A shell ends it, by its
    /// process id, when this process ends in whatever way: then the pipe to the shell's
    /// input closes.
    pub fn shared_url() -> &'static str {
        static SERVER: OnceLock<(String, Child)> = OnceLock::new();
        let start = || {
            let port = free_port();
            let script = format!(
                "dir=$(mktemp -d); redis-server --port {port} --bind 127.0.0.1 --save '' --appendonly no --dir \"$dir\" >/dev/null 2>&1 & \
                 pid=$!; cat >/dev/null; kill $pid; wait $pid; rm -rf \"$dir\""
            );
            let shell = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().expect("a shell starts");
            until("redis", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
            (format!("redis://127.0.0.1:{port}"), shell)
        };
        &SERVER.get_or_init(start).0
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// What redis-cli says to it.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let said = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(arguments).output();
        String::from_utf8_lossy(&said.expect("redis-cli is installed").stdout).into_owned()
    }

    /// Answers no write for so long.
    pub fn pause_writes(&self, time: Duration) {
        let answer = self.cli(&["client", "pause", &time.as_millis().to_string(), "write"]);
        assert_eq!(answer.trim(), "OK");
    }

    /// Kills it with -9.
    pub fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ended");
    }

    /// Starts it again on its port and data.
    pub fn restart(&mut self) {
        self.process = spawn(self.port, self.folder.path(), &self.options, &self.env);
        self.await_ready();
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// A plain connection, for looking.
    pub fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url()).and_then(|client| client.get_connection()).expect("it answers")
    }

    /// A figure of `INFO section`; 0 when it is not there.
    pub fn figure(&self, section: &str, name: &str) -> f64 {
        let info: String = redis::cmd("INFO").arg(section).query(&mut self.connection()).expect("told");
        let told = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        told.and_then(|number| number.trim().parse().ok()).unwrap_or(0.0)
    }

    /// Bytes in use but for what connections hold back.
    pub fn bytes(&self) -> f64 {
        self.figure("memory", "used_memory") - self.figure("memory", "mem_clients_normal")
    }

    fn await_ready(&self) {
        until("redis", || {
            let answer = redis::Client::open(self.url())
                .and_then(|client| client.get_connection_with_timeout(Duration::from_secs(1)))
                .and_then(|mut connection| redis::cmd("PING").query::<String>(&mut connection));
            // It answers, if only to say that we lack a password.
            answer.is_ok() || answer.is_err_and(|e| e.code() == Some("NOAUTH"))
        });
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A sentinel of our own that alone decides.
pub struct Sentinel {
    process: Child,
    /// Where it listens.
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl Sentinel {
    /// Watches the master at `master` under the name `main`.
    pub fn watch(master: u16) -> Sentinel {
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
        until("the sentinel", || {
            redis::Client::open(sentinel.url()).and_then(|client| client.get_connection()).is_ok()
        });
        sentinel
    }

    /// Its own URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// A plain connection, for looking.
    pub fn connection(&self) -> redis::Connection {
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
        .expect("redis-server is installed (scripts/test-deps installs it)")
}

/// A port nobody uses now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}
