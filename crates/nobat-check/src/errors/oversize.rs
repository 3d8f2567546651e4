//! A body of a terabyte, declared and not sent: who refuses it must do so before it is read.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{HttpCall, ReplyStatus, Target};

const DECLARED: u64 = 1 << 40;
/// How long a server may think about it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came instead of a status.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoStatus {
    /// TLS is left to real clients.
    Tls,
    /// The server waits for the rest.
    Waits,
    /// The connection broke.
    Broke(String),
}

/// Declares such a body to the call's address, and reads the answer's head and body.
pub(super) async fn declared(target: &Target, call: &HttpCall) -> Result<(ReplyStatus, String, String), NoStatus> {
    let broke = |error: std::io::Error| NoStatus::Broke(error.to_string());
    if call.url.scheme() != "http" {
        return Err(NoStatus::Tls);
    }
    let (host, port) = (call.url.host_str().unwrap_or_default(), call.url.port_or_known_default().unwrap_or(80));
    let query = call.url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let key = target.settings().api_key.as_ref();
    let key = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    let head = format!(
        "POST {}{query} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n{key}Content-Length: {DECLARED}\r\n\r\n{{\"inputs\": [",
        call.url.path(),
    );
    let exchange = async {
        let mut stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await.map_err(broke)?;
        stream.write_all(head.as_bytes()).await.map_err(broke)?;
        let mut read = Vec::new();
        loop {
            let n = stream.read_buf(&mut read).await.map_err(broke)?;
            if let Some(answer) = answer(&read, n == 0) {
                return Ok(answer);
            }
            if n == 0 {
                return Err(NoStatus::Broke("the connection was closed without an answer".into()));
            }
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap_or(Err(NoStatus::Waits))
}

/// Status, media type and body, once all of them are there.
fn answer(read: &[u8], ended: bool) -> Option<(ReplyStatus, String, String)> {
    let head_end = read.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&read[..head_end]).into_owned();
    let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let body = &read[head_end + 4..];
    let length = header("content-length").and_then(|length| length.parse::<usize>().ok());
    let whole = ended || length.is_some_and(|length| body.len() >= length);
    let kind = header("content-type").unwrap_or_default();
    // 100 Continue is no answer yet.
    (whole && status >= 200).then(|| (ReplyStatus::Http(status), kind, String::from_utf8_lossy(body).into_owned()))
}
