//! Whether a job's webhook arrives.

use std::time::{Duration, Instant};

use nobat_core::tensor::Tensor;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::Target;
use crate::stage::{Finding, Verdict};

pub(super) const TITLE: &str = "a job's webhook arrives";
/// Largest message that is read.
const MOST_BYTES: usize = 1 << 20;

/// Enqueues a job that names a receiver on this machine, and waits for the message.
pub(super) async fn arrives(target: &Target, row: &[Tensor], patience: Duration) -> Finding {
    let not_judged = |why: String| Finding::new("webhook", TITLE, Verdict::not_judged(why));
    let Ok(listener) = TcpListener::bind("127.0.0.1:0").await else {
        return not_judged("no port could be opened to receive it".into());
    };
    let Ok(address) = listener.local_addr() else { return not_judged("the receiver has no address".into()) };
    let prepared = match target.prepare(row) {
        Ok(prepared) => prepared,
        Err(error) => return not_judged(error.message),
    };
    let Some(call) = prepared.http() else { return not_judged("webhooks go with jobs over HTTP".into()) };
    let call = call.clone().query("webhook", &format!("http://{address}/"));
    let start = Instant::now();
    let accepted = target.send(&call.into()).await;
    if !accepted.is_success() {
        // By default a gateway sends to public addresses over https alone.
        let needed = "a gateway that may send here: `gateway.webhooks.addresses` with allow_http and allow_private";
        return Finding::new("webhook", TITLE, Verdict::needs(accepted.in_words(), needed));
    }
    let id = accepted.json().and_then(|job| Some(job.get("id")?.as_str()?.to_owned())).unwrap_or_default();
    let message = tokio::time::timeout(patience, async {
        loop {
            if let Ok((stream, _)) = listener.accept().await
                && let Some(message) = receive(stream).await
                && message["data"]["id"] == id.as_str()
            {
                return message;
            }
        }
    })
    .await;
    let Ok(message) = message else {
        let why = format!("Job {id} was accepted, and its webhook did not arrive within {} s.", patience.as_secs());
        return Finding::new("webhook", TITLE, Verdict::Failed).say(why);
    };
    let (kind, took_ms) = (message["type"].as_str().unwrap_or_default(), start.elapsed().as_secs_f64() * 1e3);
    Finding::new("webhook", TITLE, Verdict::of(kind == "job.succeeded"))
        .say(format!("Job {id} ended as `{kind}`, told {took_ms:.0} ms after it was sent."))
        .figure("took_ms", took_ms)
}

/// Reads one POST, answers 204, returns its JSON.
async fn receive(mut stream: TcpStream) -> Option<Value> {
    let mut read = Vec::new();
    let body = loop {
        if stream.read_buf(&mut read).await.ok()? == 0 || read.len() > MOST_BYTES {
            return None;
        }
        let Some(head) = read.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&read[..head]).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.and_then(|length| length.trim().parse().ok())?;
        if read.len() >= head + 4 + length {
            break head + 4..head + 4 + length;
        }
    };
    stream.write_all(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.ok()?;
    serde_json::from_slice(&read[body]).ok()
}
