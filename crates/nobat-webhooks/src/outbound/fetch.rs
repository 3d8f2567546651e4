//! Pictures fetched from addresses that callers gave: GETs under the same guard as webhooks,
//! bounded in bytes, time and redirects.
//!
//! Off until the operator names hosts. Each redirect is checked as the first address was.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nobat_core::{Error, ErrorCode, Result, clip};
use reqwest::header::LOCATION;
use reqwest::{Client, Response, redirect};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::client::{PostOutcome, outcome_of};
use super::guard::{AddressPolicy, GuardedResolver, WebhookUrl};

/// Most addresses in one request.
const MAX_ADDRESSES: usize = 64;

/// What an operator allows of fetching.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FetchSettings {
    /// Hosts that may be fetched from: names, `*.example.com` for all below one, `*` for any
    /// public one. Empty: nothing is fetched.
    pub hosts: Vec<String>,
    /// Plain http and private addresses, where the operator wants them.
    pub addresses: AddressPolicy,
    /// Most bytes of all that one request names.
    pub max_bytes: usize,
    /// Longest time for one address, redirects included, in seconds.
    pub timeout_s: u32,
    /// Most redirects that are followed.
    pub redirects: u32,
    /// GETs at once.
    pub concurrent: usize,
}

impl Default for FetchSettings {
    fn default() -> FetchSettings {
        FetchSettings {
            hosts: Vec::new(),
            addresses: AddressPolicy::default(),
            max_bytes: 16 << 20,
            timeout_s: 10,
            redirects: 3,
            concurrent: 16,
        }
    }
}

impl FetchSettings {
    /// Checks them.
    ///
    /// # Errors
    /// `invalid_parameter` naming the key and the remedy.
    pub fn validate(&self) -> Result<()> {
        for (key, value) in
            [("max_bytes", self.max_bytes), ("timeout_s", self.timeout_s as usize), ("concurrent", self.concurrent)]
        {
            if value == 0 {
                return Err(Error::invalid(format!("gateway.fetch.{key} is 0; take at least 1")));
            }
        }
        let odd = |host: &&String| host.contains(['/', ':']) || host.trim().is_empty();
        match self.hosts.iter().find(odd) {
            Some(host) => Err(Error::invalid(format!(
                "gateway.fetch.hosts has `{}`; give a host's name, such as `images.example.com`, `*.example.com` or `*`",
                clip(host)
            ))),
            None => Ok(()),
        }
    }

    fn allows(&self, host: &str) -> bool {
        self.hosts.iter().any(|allowed| match allowed.strip_prefix("*.") {
            _ if allowed == "*" => true,
            Some(domain) => host.len().checked_sub(domain.len()).is_some_and(|at| {
                at > 1
                    && host.is_char_boundary(at)
                    && host[at..].eq_ignore_ascii_case(domain)
                    && host[..at].ends_with('.')
            }),
            None => allowed.eq_ignore_ascii_case(host),
        })
    }
}

/// Fetches what callers name. A clone-able handle over one connection pool.
#[derive(Clone)]
pub struct Fetcher {
    client: Client,
    settings: Arc<FetchSettings>,
    slots: Arc<Semaphore>,
}

impl Fetcher {
    /// Makes a client.
    ///
    /// # Errors
    /// `internal` when TLS cannot be set up.
    pub fn new(settings: &FetchSettings) -> Result<Fetcher> {
        nobat_runtime::tls::use_ring();
        let client = Client::builder()
            .dns_resolver(Arc::new(GuardedResolver { policy: settings.addresses }))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(2)
            .user_agent(concat!("nobat/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::internal(format!("cannot set up the client that fetches: {error}")))?;
        let slots = Arc::new(Semaphore::new(settings.concurrent.max(1)));
        Ok(Fetcher { client, settings: Arc::new(settings.clone()), slots })
    }

    /// Fetches all of these, in their order; together they take at most `max_bytes`.
    ///
    /// # Errors
    /// `permission_denied` where fetching is off or the host is none that the operator names;
    /// `invalid_parameter` for an address that the guard refuses, that does not answer or
    /// answers with anything but 200; `payload_too_large`.
    ///
    /// # Cancel safety
    /// Dropping the future aborts the requests.
    pub async fn fetch(&self, urls: &[&str]) -> Result<Vec<Bytes>> {
        if urls.len() > MAX_ADDRESSES {
            return Err(Error::new(
                ErrorCode::PayloadTooLarge,
                format!("{} addresses in one request; send at most {MAX_ADDRESSES}", urls.len()),
            ));
        }
        let left = AtomicUsize::new(self.settings.max_bytes);
        futures::future::try_join_all(urls.iter().map(|url| self.one(url, &left))).await
    }

    async fn one(&self, url: &str, left: &AtomicUsize) -> Result<Bytes> {
        let target = self.check(url)?;
        let host = target.to_string();
        let Ok(_slot) = self.slots.acquire().await else {
            return Err(Error::internal("the client that fetches is closed"));
        };
        let limit = Duration::from_secs(u64::from(self.settings.timeout_s));
        match tokio::time::timeout(limit, self.follow(target, left)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(unfetched(&host, &format!("not within {} s", limit.as_secs()))),
        }
    }

    /// What may be fetched, as far as its address says.
    fn check(&self, url: &str) -> Result<WebhookUrl> {
        if self.settings.hosts.is_empty() {
            let message = "pictures are not fetched here; send the bytes, or name the hosts in gateway.fetch.hosts";
            return Err(Error::new(ErrorCode::PermissionDenied, message));
        }
        let target = self.settings.addresses.check(url)?;
        let host = target.url.host_str().unwrap_or_default();
        if !self.settings.allows(host) {
            return Err(Error::new(
                ErrorCode::PermissionDenied,
                format!("host `{}` is none of gateway.fetch.hosts; send the bytes, or have it added", clip(host)),
            ));
        }
        Ok(target)
    }

    async fn follow(&self, mut target: WebhookUrl, left: &AtomicUsize) -> Result<Bytes> {
        for _ in 0..=self.settings.redirects {
            let host = target.to_string();
            let answer =
                self.client.get(target.url.clone()).send().await.map_err(|error| match outcome_of(&error) {
                    PostOutcome::Forbidden(why) | PostOutcome::Unreachable(why) => unfetched(&host, &why),
                    _ => unfetched(&host, "no answer"),
                })?;
            if !answer.status().is_redirection() {
                return self.read(answer, &host, left).await;
            }
            let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| target.url.join(location).ok());
            let next = next.ok_or_else(|| unfetched(&host, "it redirects to nowhere"))?;
            target = self
                .check(next.as_str())
                .map_err(|error| Error { message: format!("{host} redirects: {}", error.message), ..error })?;
        }
        let message = format!("over {} redirects", self.settings.redirects);
        Err(unfetched(&target.to_string(), &message))
    }

    async fn read(&self, mut answer: Response, host: &str, left: &AtomicUsize) -> Result<Bytes> {
        if answer.status().as_u16() != 200 {
            return Err(unfetched(host, &format!("it answered {}", answer.status().as_u16())));
        }
        let too_large = || {
            Error::new(
                ErrorCode::PayloadTooLarge,
                format!(
                    "what is fetched from {host} takes over {} bytes with its neighbours; send fewer or smaller pictures, or raise gateway.fetch.max_bytes",
                    self.settings.max_bytes
                ),
            )
        };
        // What says that it is too large is not begun.
        if answer.content_length().is_some_and(|length| length > left.load(Ordering::Relaxed) as u64) {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        loop {
            match answer.chunk().await {
                Ok(Some(piece)) => {
                    let taken =
                        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(piece.len()));
                    taken.map_err(|_| too_large())?;
                    body.extend_from_slice(&piece);
                }
                Ok(None) => return Ok(body.freeze()),
                Err(_) => return Err(unfetched(host, "the answer broke off")),
            }
        }
    }
}

fn unfetched(host: &str, why: &str) -> Error {
    Error::invalid(format!("the picture at {host} cannot be fetched: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn fetcher(change: impl FnOnce(&mut FetchSettings)) -> Fetcher {
        let mut settings = FetchSettings {
            hosts: vec!["localhost".into()],
            addresses: AddressPolicy { allow_http: true, allow_private: true },
            ..FetchSettings::default()
        };
        change(&mut settings);
        settings.validate().expect("good settings");
        Fetcher::new(&settings).expect("a client")
    }

    /// Serves `/picture` (10 bytes), `/large` (1 MB without a length), `/moved`, `/away`,
    /// `/loop` and `/slow`; the address.
    async fn server() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://localhost:{}", listener.local_addr().expect("bound").port());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = vec![0; 4096];
                    let read = socket.read(&mut request).await.unwrap_or(0);
                    let request = String::from_utf8_lossy(&request[..read]).into_owned();
                    let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
                    let moved = |to: &str| format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
                    let answer = match &*path {
                        "/picture" => "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789".to_owned(),
                        "/large" => format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}", "x".repeat(1 << 20)),
                        "/moved" => moved("/picture"),
                        "/away" => moved("http://169.254.169.254/latest"),
                        "/loop" => moved("/loop"),
                        "/slow" => {
                            tokio::time::sleep(Duration::from_secs(30)).await;
                            String::new()
                        }
                        _ => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
                    };
                    let _ = socket.write_all(answer.as_bytes()).await;
                });
            }
        });
        base
    }

    #[tokio::test]
    async fn pictures_come_in_the_order_of_their_addresses() {
        let base = server().await;
        let urls = [format!("{base}/picture"), format!("{base}/moved")];
        let found = fetcher(|_| {}).fetch(&[&urls[0], &urls[1]]).await.expect("both");
        assert_eq!(found, [&b"0123456789"[..], b"0123456789"]);
    }

    #[tokio::test]
    async fn everything_has_a_bound_and_says_which() {
        let base = server().await;
        let refused =
            async |fetcher: Fetcher, path: &str| fetcher.fetch(&[&format!("{base}{path}")]).await.expect_err(path);
        let error = refused(fetcher(|settings| settings.max_bytes = 1000), "/large").await;
        assert_eq!(error.code, ErrorCode::PayloadTooLarge, "{error}");
        let error = refused(fetcher(|settings| settings.max_bytes = 9), "/picture").await;
        assert_eq!(error.code, ErrorCode::PayloadTooLarge, "{error}");
        let two = [format!("{base}/picture"), format!("{base}/picture")];
        let error = fetcher(|settings| settings.max_bytes = 19).fetch(&[&two[0], &two[1]]).await.expect_err("20 bytes");
        assert_eq!(error.code, ErrorCode::PayloadTooLarge, "{error}");
        let error = refused(fetcher(|settings| settings.timeout_s = 1), "/slow").await;
        assert!(error.message.ends_with("cannot be fetched: not within 1 s"), "{error}");
        let error = refused(fetcher(|_| {}), "/loop").await;
        assert!(error.message.ends_with("over 3 redirects"), "{error}");
        let error = refused(fetcher(|_| {}), "/none").await;
        assert!(error.message.ends_with("it answered 404"), "{error}");
    }

    #[tokio::test]
    async fn only_named_hosts_and_public_addresses_are_fetched_from_redirects_included() {
        let base = server().await;
        let url = format!("{base}/picture");
        let refused = async |fetcher: Fetcher, url: &str| fetcher.fetch(&[url]).await.expect_err(url);
        let error = refused(fetcher(|settings| settings.hosts.clear()), &url).await;
        assert!(error.code == ErrorCode::PermissionDenied && error.message.contains("gateway.fetch.hosts"), "{error}");
        let error = refused(fetcher(|settings| settings.hosts = vec!["example.com".into()]), &url).await;
        assert!(error.code == ErrorCode::PermissionDenied && error.message.contains("`localhost`"), "{error}");
        let error = refused(fetcher(|settings| settings.addresses.allow_private = false), &url).await;
        assert!(error.message.contains("`localhost`") && error.message.contains("private or reserved"), "{error}");
        let strict = |settings: &mut FetchSettings| {
            settings.hosts = vec!["*".into()];
            settings.addresses.allow_private = false;
        };
        let error = refused(fetcher(strict), "http://10.0.0.1/x.jpg").await;
        assert!(error.message.contains("`10.0.0.1` is private or reserved"), "{error}");
        // A redirect is checked as the first address is.
        let error = refused(fetcher(|_| {}), &format!("{base}/away")).await;
        assert!(error.message.contains("redirects: host `169.254.169.254`"), "{error}");
        let any = fetcher(|settings| settings.hosts = vec!["*".into()]);
        let error = refused(any, "ftp://localhost/x").await;
        assert!(error.message.contains("scheme `ftp`"), "{error}");
    }

    #[test]
    fn hosts_are_names_or_what_is_below_one() {
        let settings = FetchSettings { hosts: vec!["*.example.com".into(), "Other.org".into()], ..Default::default() };
        for (host, allowed) in [
            ("a.example.com", true),
            ("a.b.EXAMPLE.com", true),
            ("example.com", false),
            (".example.com", false),
            ("badexample.com", false),
            ("other.org", true),
            ("x.other.org", false),
        ] {
            assert_eq!(settings.allows(host), allowed, "{host}");
        }
        let odd = FetchSettings { hosts: vec!["https://x".into()], ..Default::default() };
        assert!(odd.validate().expect_err("a URL").message.contains("`https://x`"));
    }
}
