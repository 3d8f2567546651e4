//! The bounded client: one signed POST, one outcome.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nobat_core::{Error, Result};
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, StatusCode, redirect};
use tokio::sync::Semaphore;

use super::guard::{AddressPolicy, Forbidden, GuardedResolver, WebhookUrl};
use super::signature::WebhookSecret;

/// Longest a receiver may take, from name lookup to the answer's head.
pub const TIMEOUT: Duration = Duration::from_secs(15);

/// Longest a receiver's `Retry-After` is heeded.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(86_400);

/// Sends signed requests. A clone-able handle over one connection pool.
#[derive(Clone)]
pub struct Outbound {
    client: Client,
    policy: AddressPolicy,
    slots: Arc<Semaphore>,
}

/// What became of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostOutcome {
    /// The receiver took it (2xx).
    Delivered(u16),
    /// The receiver wants no more of these (410).
    Gone,
    /// The receiver answered anything else, a redirect included.
    Refused(u16),
    /// The receiver cannot now (429, 503), and says when to come again.
    Busy {
        /// What it answered.
        status: u16,
        /// Its `Retry-After`, a day at most.
        retry_after: Duration,
    },
    /// No answer: the name, the connection, TLS or the time limit.
    Unreachable(String),
    /// The address is not one we may call; trying again cannot help.
    Forbidden(String),
}

impl Outbound {
    /// Makes a client with room for `concurrent` requests at once; further
    /// ones wait their turn.
    ///
    /// # Errors
    /// `internal` when TLS cannot be set up.
    pub fn new(policy: AddressPolicy, concurrent: usize) -> Result<Outbound> {
        nobat_runtime::tls::use_ring();
        let client = Client::builder()
            .dns_resolver(Arc::new(GuardedResolver { policy }))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(TIMEOUT)
            .connect_timeout(Duration::from_secs(5))
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(2)
            .user_agent(concat!("nobat/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::internal(format!("cannot set up the webhook client: {e}")))?;
        Ok(Outbound { client, policy, slots: Arc::new(Semaphore::new(concurrent.max(1))) })
    }

    /// What this client may call.
    pub fn policy(&self) -> AddressPolicy {
        self.policy
    }

    /// POSTs `body` once, as JSON, under the Standard Webhooks headers: `id`
    /// stays the same over all attempts, `now_s` is this attempt's Unix time.
    /// Signed with each secret (two while one replaces the other); unsigned
    /// without any.
    ///
    /// # Cancel safety
    /// Dropping the future aborts the request; the receiver may have it.
    pub async fn post<'a>(
        &self,
        target: &WebhookUrl,
        secrets: impl IntoIterator<Item = &'a WebhookSecret>,
        id: &str,
        now_s: u64,
        body: Bytes,
    ) -> PostOutcome {
        let Ok(_slot) = self.slots.acquire().await else {
            return PostOutcome::Unreachable("the webhook client is closed".into());
        };
        let mut request = self
            .client
            .post(target.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", now_s);
        let signatures: Vec<String> = secrets.into_iter().map(|secret| secret.sign(id, now_s, &body)).collect();
        if !signatures.is_empty() {
            request = request.header("webhook-signature", signatures.join(" "));
        }
        match request.body(body).send().await {
            Ok(answer) if answer.status().is_success() => PostOutcome::Delivered(answer.status().as_u16()),
            Ok(answer) if answer.status() == StatusCode::GONE => PostOutcome::Gone,
            Ok(answer) => {
                let status = answer.status().as_u16();
                match answer.headers().get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now_s)) {
                    Some(retry_after) if matches!(status, 429 | 503) => PostOutcome::Busy { status, retry_after },
                    _ => PostOutcome::Refused(status),
                }
            }
            Err(error) => outcome_of(&error),
        }
    }
}

/// What a `Retry-After` asks for: seconds, or an instant of RFC 9110, section 5.6.7.
/// Nobody is waited for longer than a day.
fn retry_after(value: &str, now_s: u64) -> Option<Duration> {
    let seconds = match value.trim().parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let at = chrono::DateTime::parse_from_rfc2822(value.trim()).ok()?.timestamp();
            u64::try_from(at).ok()?.saturating_sub(now_s)
        }
    };
    Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
}

/// Why a request came to nothing.
pub(super) fn outcome_of(error: &reqwest::Error) -> PostOutcome {
    let mut cause: &dyn StdError = error;
    loop {
        if let Some(Forbidden(why)) = forbidden(cause) {
            return PostOutcome::Forbidden(why.clone());
        }
        match cause.source() {
            Some(next) => cause = next,
            // The outermost message repeats the URL, whose path may be secret.
            None if error.is_timeout() => return PostOutcome::Unreachable("timed out".into()),
            None => return PostOutcome::Unreachable(cause.to_string()),
        }
    }
}

fn forbidden<'a>(cause: &'a (dyn StdError + 'static)) -> Option<&'a Forbidden> {
    cause.downcast_ref::<Forbidden>().or_else(|| cause.downcast_ref::<Arc<Forbidden>>().map(|shared| &**shared))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const LOOSE: AddressPolicy = AddressPolicy { allow_http: true, allow_private: true };

    /// Answers one request with `status` and returns what it received.
    async fn receiver(status: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://localhost:{}/hook", listener.local_addr().expect("bound").port());
        let received = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a caller");
            let mut text = String::new();
            let mut chunk = [0; 4096];
            while !text.ends_with("{\"a\":1}") {
                let n = socket.read(&mut chunk).await.expect("a request");
                text.push_str(std::str::from_utf8(&chunk[..n]).expect("text"));
            }
            let answer = format!("HTTP/1.1 {status}\r\nlocation: http://localhost:1/\r\ncontent-length: 0\r\n\r\n");
            socket.write_all(answer.as_bytes()).await.expect("answered");
            text
        });
        (url, received)
    }

    fn header<'a>(request: &'a str, name: &str) -> &'a str {
        request.lines().find_map(|line| line.strip_prefix(name)).expect(name).trim_start_matches(": ")
    }

    #[tokio::test]
    async fn a_request_arrives_once_with_a_signature_that_verifies() {
        let secret = WebhookSecret::parse("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3").expect("good");
        let outbound = Outbound::new(LOOSE, 4).expect("a client");
        let (url, received) = receiver("204 No Content").await;
        let target = LOOSE.check(&url).expect("allowed");
        let delivery =
            outbound.post(&target, Some(&secret), "msg_1", 1_700_000_000, Bytes::from_static(b"{\"a\":1}")).await;
        assert_eq!(delivery, PostOutcome::Delivered(204));
        let request = received.await.expect("received");
        assert_eq!(header(&request, "webhook-id"), "msg_1");
        let stamp = header(&request, "webhook-timestamp").parse().expect("seconds");
        assert!(secret.verify("msg_1", stamp, b"{\"a\":1}", header(&request, "webhook-signature"), 1_700_000_000));
    }

    #[tokio::test]
    async fn redirects_are_refusals_410_is_the_end_and_retry_after_is_read() {
        let busy = |status, seconds| PostOutcome::Busy { status, retry_after: Duration::from_secs(seconds) };
        let outbound = Outbound::new(LOOSE, 4).expect("a client");
        for (status, expected) in [
            ("302 Found", PostOutcome::Refused(302)),
            ("500 Internal Server Error", PostOutcome::Refused(500)),
            ("410 Gone", PostOutcome::Gone),
            ("503 Service Unavailable", PostOutcome::Refused(503)),
            ("503 Service Unavailable\r\nretry-after: 120", busy(503, 120)),
            ("429 Too Many Requests\r\nretry-after: 7", busy(429, 7)),
            ("429 Too Many Requests\r\nretry-after: Thu, 01 Jan 1970 00:05:01 GMT", busy(429, 300)),
            ("429 Too Many Requests\r\nretry-after: 99999999999", busy(429, 86_400)),
            ("429 Too Many Requests\r\nretry-after: soon", PostOutcome::Refused(429)),
            ("400 Bad Request\r\nretry-after: 120", PostOutcome::Refused(400)),
        ] {
            let (url, received) = receiver(status).await;
            let target = LOOSE.check(&url).expect("allowed");
            assert_eq!(outbound.post(&target, None, "m", 1, Bytes::from_static(b"{\"a\":1}")).await, expected);
            assert!(!received.await.expect("received").contains("webhook-signature"));
        }
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_a_private_address_is_never_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let policy = AddressPolicy { allow_http: true, allow_private: false };
        let url = format!("http://localhost:{}/", listener.local_addr().expect("bound").port());
        let target = policy.check(&url).expect("a name passes until it is resolved");
        let outbound = Outbound::new(policy, 1).expect("a client");
        let delivery = outbound.post(&target, None, "m", 1, Bytes::from_static(b"{}")).await;
        assert!(matches!(&delivery, PostOutcome::Forbidden(why) if why.contains("`localhost`")), "{delivery:?}");
        let accepted = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(accepted.is_err(), "a connection reached the private address");
    }

    #[tokio::test]
    async fn an_unreachable_receiver_is_told_without_its_path() {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound").port();
        let target = LOOSE.check(&format!("http://127.0.0.1:{free}/secret")).expect("allowed");
        let delivery = Outbound::new(LOOSE, 1).expect("a client").post(&target, None, "m", 1, Bytes::new()).await;
        assert!(matches!(&delivery, PostOutcome::Unreachable(why) if !why.contains("secret")), "{delivery:?}");
    }
}
