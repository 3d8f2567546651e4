//! redis-servers of the tests' own: on free ports, in folders of their own, ended
//! with their owner.

#![allow(dead_code)] // Each test binary uses a part.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) struct Server {
    process: Child,
    pub(crate) port: u16,
    _dir: tempfile::TempDir,
}

impl Server {
    /// A server without persistence, with more options.
    pub(crate) fn start(options: &[&str]) -> Server {
        Server::spawn(|port| {
            let port = port.to_string();
            ["--port", &port, "--bind", "127.0.0.1", "--save", ""]
                .into_iter()
                .chain(options.iter().copied())
                .map(str::to_owned)
                .collect()
        })
    }

    /// A sentinel that alone decides over the master at `master`, named `main`.
    pub(crate) fn sentinel(master: u16) -> Server {
        let dir = tempfile::tempdir().expect("a folder");
        let config = dir.path().join("sentinel.conf");
        std::fs::write(&config, format!("bind 127.0.0.1\nsentinel monitor main 127.0.0.1 {master} 1\n"))
            .expect("written");
        let file = config.to_string_lossy().into_owned();
        let mut server = Server::spawn(|port| vec![file, "--sentinel".into(), "--port".into(), port.to_string()]);
        server._dir = dir;
        server
    }

    /// A cluster of one server that has every slot.
    pub(crate) fn cluster() -> Server {
        // Its bus listens 10,000 above its port otherwise, where there may be none.
        let bus = free_port().to_string();
        let server = Server::start(&["--cluster-enabled", "yes", "--cluster-port", &bus]);
        server.cli(&["cluster", "addslotsrange", "0", "16383"]);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !server.cli(&["cluster", "info"]).contains("cluster_state:ok") {
            assert!(Instant::now() < deadline, "the cluster never formed");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What redis-cli says to it.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let said = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(arguments).output();
        String::from_utf8_lossy(&said.expect("redis-cli is installed").stdout).into_owned()
    }

    fn spawn(arguments: impl FnOnce(u16) -> Vec<String>) -> Server {
        let dir = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let process = Command::new("redis-server")
            .args(arguments(port))
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let server = Server { process, port, _dir: dir };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < deadline, "redis-server did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
