//! A server whose latency is scripted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 19\r\nserver-timing: \
    queue;dur=3.000, batch;dur=1.000;desc=4, input;dur=0.100, infer;dur=4.800, output;dur=0.100\r\n\r\n{\"predictions\":[1]}";

/// What the server does with a request that came at this moment, being the nth.
pub(crate) enum Act {
    /// Answers at this moment.
    AnswerAt(Instant),
    /// Answers with this status at once.
    Refuse(u16),
    /// Answers nothing and closes the connection.
    HangUp,
}

pub(crate) struct Scripted {
    pub(crate) url: String,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Scripted {
    /// Serves on a port of its own, from a thread of its own, until it is dropped.
    pub(crate) fn start(script: impl Fn(u64, Instant) -> Act + Send + Sync + 'static) -> Scripted {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address: SocketAddr = listener.local_addr().expect("an address");
        let (script, count) = (Arc::new(script), Arc::new(AtomicU64::new(0)));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, count) = (script.clone(), count.clone());
                tokio::spawn(async move { converse(stream, &*script, &count).await });
            }
        });
        Scripted { url: format!("http://{address}"), runtime: Some(runtime) }
    }

    /// Goes away, with all its connections.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn converse(mut stream: TcpStream, script: &(impl Fn(u64, Instant) -> Act + Sync), count: &AtomicU64) {
    drop(stream.set_nodelay(true));
    let mut bytes = Vec::new();
    loop {
        let Some(length) = request_length(&bytes) else {
            match stream.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(_) => continue,
            }
        };
        bytes.drain(..length);
        let written = match script(count.fetch_add(1, Ordering::Relaxed), Instant::now()) {
            Act::AnswerAt(moment) => {
                tokio::time::sleep_until(moment.into()).await;
                stream.write_all(ANSWER.as_bytes()).await
            }
            Act::Refuse(status) => {
                let body = r#"{"code":"queue_full","detail":"come back later"}"#;
                let head = format!("HTTP/1.1 {status} No\r\nretry-after: 1\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all((head + body).as_bytes()).await
            }
            Act::HangUp => return,
        };
        if written.is_err() {
            return;
        }
    }
}

/// The length of the request that `bytes` begin with, where it is whole.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).expect("a head is text").to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = head + length.map_or(0, |length| length.trim().parse::<usize>().expect("a length"));
    (bytes.len() >= length).then_some(length)
}
