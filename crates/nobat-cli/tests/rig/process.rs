//! Processes: nobat's three binaries and Redis, started, killed, stopped, continued.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::http::Http;
use super::wait_for;

/// A free loopback port. Another process may take it before it is used; the
/// range is wide enough for a test run.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// The binary `name` of this build: `nobat` and its siblings.
pub(crate) fn binary(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_nobat")).with_file_name(name);
    assert!(path.is_file(), "{} is not built; run `cargo build --workspace --bins` first", path.display());
    path
}

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace is there")
}

/// A child process with its output in a file.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    pub(crate) started: Instant,
}

impl Process {
    /// Starts `name` with `args` and `env`, in `folder`, logging to `folder/name-N.log`.
    pub(crate) fn start(folder: &Path, name: &str, args: &[&str], env: &[(&str, &str)]) -> Process {
        let stem = name.trim_start_matches("examples/");
        let log = (0..).map(|n| folder.join(format!("{stem}-{n}.log"))).find(|path| !path.exists()).expect("a name");
        let out = File::create(&log).expect("the log file");
        let both = [out.try_clone().expect("a second handle").into(), out.into()];
        Process { child: Process::spawn(folder, name, args, env, both), log, started: Instant::now() }
    }

    /// One that writes to a terminal that was closed: whoever read its output is gone.
    pub(crate) fn unread(folder: &Path, name: &str, args: &[&str], env: &[(&str, &str)]) -> Process {
        let both = [(); 2].map(|()| std::io::pipe().expect("a pipe").1.into());
        Process { child: Process::spawn(folder, name, args, env, both), log: PathBuf::new(), started: Instant::now() }
    }

    fn spawn(folder: &Path, name: &str, args: &[&str], env: &[(&str, &str)], [out, err]: [Stdio; 2]) -> Child {
        let mut command = match name {
            "redis-server" => Command::new(name),
            "bucket" => Command::new(root().join(".nobat/bucket/bin/moto_server")),
            _ => Command::new(binary(name)),
        };
        // A developer's own settings must not reach a test.
        for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("NOBAT_") && key != "NOBAT_ORT_LIB") {
            command.env_remove(key);
        }
        command
            .args(args)
            .envs(env.iter().copied())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}; run scripts/test-deps"))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.id().to_string()]).status().expect("kill runs");
        assert!(status.success(), "kill {signal} {}", self.id());
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it was running");
        self.child.wait().expect("it ends");
    }

    /// Waits for the end by itself.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it can be waited for").is_none()
    }

    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.log.display(), tail(&self.output()));
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// A server that speaks as S3 does, with the bucket `batches`.
pub(crate) struct Bucket {
    _process: Process,
    address: SocketAddr,
    pub(crate) endpoint: String,
}

impl Bucket {
    pub(crate) fn start(folder: &Path) -> Bucket {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let port = address.port().to_string();
        let process = Process::start(folder, "bucket", &["-H", "127.0.0.1", "-p", &port], &[]);
        let bucket = Bucket { _process: process, address, endpoint: format!("http://{address}") };
        wait_for("the bucket is made", || {
            bucket.http().send("PUT", "/batches", &[], b"").is_ok_and(|answer| answer.status == 200)
        });
        bucket
    }

    pub(crate) fn http(&self) -> Http {
        Http::new(self.address)
    }
}

/// A Redis server of the test's own.
pub(crate) struct Redis {
    process: Process,
    folder: PathBuf,
    pub(crate) port: u16,
    append_only: bool,
}

impl Redis {
    pub(crate) fn start(folder: &Path, append_only: bool) -> Redis {
        let port = free_port();
        let process = Redis::spawn(folder, port, append_only);
        Redis { process, folder: folder.to_owned(), port, append_only }
    }

    fn spawn(folder: &Path, port: u16, append_only: bool) -> Process {
        let port_text = port.to_string();
        let append_only = if append_only { "yes" } else { "no" };
        let process = Process::start(
            folder,
            "redis-server",
            &[
                "--port",
                &port_text,
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                append_only,
                "--appendfsync",
                "everysec",
                "--maxmemory-policy",
                "noeviction",
            ],
            &[],
        );
        wait_for("redis accepts connections", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        process
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// kill -9, `down` without a server, then a new one on the same files and port.
    pub(crate) fn crash(&mut self, down: Duration) {
        self.process.kill();
        std::thread::sleep(down);
        self.process = Redis::spawn(&self.folder, self.port, self.append_only);
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    pub(crate) fn restart(&mut self) {
        self.process = Redis::spawn(&self.folder, self.port, self.append_only);
    }
}

/// A gateway, or `nobat serve`, that answers on a known port.
pub(crate) struct Service {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

impl Service {
    /// `nobat serve` on the embedded queue.
    pub(crate) fn serve(folder: &Path, models: &Path, args: &[&str], env: &[(&str, &str)]) -> Service {
        let models = models.display().to_string();
        let data = folder.join("data").display().to_string();
        let all = [&["serve", "--models", &models, "--data", &data], args].concat();
        Service::start(folder, "nobat", free_port(), &all, env)
    }

    /// `nobat-gateway` on Redis.
    pub(crate) fn gateway(folder: &Path, redis: &str, port: u16, env: &[(&str, &str)]) -> Service {
        Service::start(folder, "nobat-gateway", port, &["--redis", redis], env)
    }

    fn start(folder: &Path, name: &str, port: u16, args: &[&str], env: &[(&str, &str)]) -> Service {
        let listen = format!("127.0.0.1:{port}");
        let args = [args, &["--listen", &listen]].concat();
        let env = [&[("NOBAT_GRPC", "127.0.0.1:0"), ("NOBAT_METRICS", "127.0.0.1:0")], env].concat();
        let process = Process::start(folder, name, &args, &env);
        Service { process, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    pub(crate) fn http(&self) -> Http {
        Http::new(self.address)
    }

    /// Waits until `model` answers; a process that ended shows why.
    pub(crate) fn wait_for_model(&mut self, model: &str) {
        let address = self.address;
        wait_for(&format!("{model} is ready"), || {
            assert!(self.process.is_running(), "the service ended: {}", self.process.output());
            Http::new(address)
                .get(&format!("/v1/models/{model}"))
                .is_ok_and(|answer| answer.status == 200 && answer.text().contains("AVAILABLE"))
        });
    }
}

/// A worker on Redis.
pub(crate) fn worker(folder: &Path, redis: &str, models: &Path, env: &[(&str, &str)]) -> Process {
    let models = models.display().to_string();
    Process::start(folder, "nobat-worker", &["--redis", redis, "--models", &models], env)
}
