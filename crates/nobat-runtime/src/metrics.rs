//! The registry of one process and the listener that shows it.
//!
//! The `prometheus` crate keeps a histogram as its buckets' counters. (The
//! `metrics` facade with its exporter keeps every sample until the next scrape
//! or upkeep: 16 bytes each, at 50,000 requests a second and three histograms
//! 12 MB for every five seconds.)

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nobat_core::{Error, Result};
use prometheus::core::Collector;
use prometheus::{Registry, TextEncoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::snapshot::{Family, Snapshot};

/// Time for a scraper to send its request and take the answer.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);
/// Scrapers served at once.
const SCRAPERS: usize = 8;
/// Longest request head.
const MAX_HEAD: usize = 8 * 1024;

/// The series of one process. A clone-able handle.
#[derive(Clone, Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// An empty registry with `nobat_build_info`.
    pub fn new() -> Metrics {
        let metrics = Metrics::default();
        let labels = prometheus::opts!("nobat_build_info", "Version of this process; always 1.")
            .const_label("version", env!("CARGO_PKG_VERSION"));
        if let Ok(info) = prometheus::IntGauge::with_opts(labels) {
            info.set(1);
            metrics.register(info);
        }
        metrics
    }

    /// Adds series. Series that are there already stay, and the newcomer is not
    /// shown: `nobat serve` joins two parts that may bring the same one.
    pub fn register(&self, collector: impl Collector + 'static) {
        if let Err(error) = self.registry.register(Box::new(collector)) {
            log::debug!("metrics: {error}");
        }
    }

    /// Adds series that `read` returns at each scrape; `name` tells this group
    /// from others and is not shown.
    pub fn snapshot(&self, name: &str, read: impl Fn() -> Vec<Family> + Send + Sync + 'static) {
        match Snapshot::new(name, read) {
            Ok(snapshot) => self.register(snapshot),
            Err(error) => log::error!("metrics: {error}"),
        }
    }

    /// Every series in Prometheus text format 0.0.4.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|error| {
            log::error!("metrics: cannot be shown: {error}");
            String::new()
        })
    }
}

/// Shows a registry at `GET /metrics`, and `GET /livez` and `GET /readyz` for probes of
/// processes without another listener. HTTP/1.1, one request a connection.
pub struct MetricsServer {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl MetricsServer {
    /// Binds and serves on the current tokio runtime until it is dropped; `ready`
    /// answers `/readyz`.
    ///
    /// # Errors
    /// `invalid_parameter` naming the address that cannot be bound.
    pub async fn start(
        address: &str,
        metrics: Metrics,
        ready: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<MetricsServer> {
        let listener = TcpListener::bind(address).await.map_err(|error| cannot_listen(address, &error))?;
        let listener = listener.into_std().map_err(|error| cannot_listen(address, &error))?;
        MetricsServer::serve(listener, metrics, ready)
    }

    /// As [`MetricsServer::start`], on an address that is bound already.
    ///
    /// # Errors
    /// `invalid_parameter` when the listener cannot be used.
    pub fn serve(
        listener: std::net::TcpListener,
        metrics: Metrics,
        ready: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<MetricsServer> {
        let told = |error: std::io::Error| cannot_listen("metrics", &error);
        listener.set_nonblocking(true).map_err(told)?;
        let listener = TcpListener::from_std(listener).map_err(told)?;
        let bound = listener.local_addr().map_err(told)?;
        log::info!(address = bound.to_string().as_str(); "metrics: listening on http://{bound}/metrics");
        let shown = Arc::new(Shown { metrics, ready: Box::new(ready) });
        Ok(MetricsServer { address: bound, serving: tokio::spawn(serve(listener, shown)) })
    }

    /// Where it listens; with port 0 the port that was free.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn cannot_listen(address: &str, error: &std::io::Error) -> Error {
    Error::invalid(format!(
        "cannot listen on `{address}` (setting `metrics`): {error}; choose another, or empty for none"
    ))
}

/// What the listener shows.
struct Shown {
    metrics: Metrics,
    ready: Box<dyn Fn() -> bool + Send + Sync>,
}

async fn serve(listener: TcpListener, shown: Arc<Shown>) {
    let slots = Arc::new(Semaphore::new(SCRAPERS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => {
                let shown = shown.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(SCRAPE_TIMEOUT, answer(socket, &shown)).await;
                    drop(slot);
                });
            }
            // Out of descriptors: they come back when connections end.
            Err(error) => {
                log::warn!("metrics: cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut socket: TcpStream, shown: &Shown) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= MAX_HEAD || socket.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split(|&byte| byte == b'?').next().unwrap_or_default();
    let (status, content_type, body) = match (method, path) {
        (b"GET" | b"HEAD", b"/metrics" | b"/") => ("200 OK", "text/plain; version=0.0.4", shown.metrics.render()),
        (b"GET" | b"HEAD", b"/livez") => ("200 OK", "application/json", "{\"live\":true}".to_owned()),
        (b"GET" | b"HEAD", b"/readyz") => match (shown.ready)() {
            true => ("200 OK", "application/json", "{\"ready\":true}".to_owned()),
            false => ("503 Service Unavailable", "application/json", "{\"ready\":false}".to_owned()),
        },
        (b"GET" | b"HEAD", _) => ("404 Not Found", "text/plain", "try /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "text/plain", "only GET\n".to_owned()),
    };
    let sent = if method == b"HEAD" { "" } else { &body };
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nallow: GET, HEAD\r\nconnection: close\r\n\r\n{sent}",
        body.len()
    );
    socket.write_all(response.as_bytes()).await?;
    socket.shutdown().await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut socket = TcpStream::connect(address).await.expect("connects");
        socket.write_all(request.as_bytes()).await.expect("sends");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    #[tokio::test]
    async fn a_scraper_gets_the_series_and_others_are_told() {
        let metrics = Metrics::new();
        let hits = prometheus::IntCounter::new("hits_total", "Hits.").expect("a counter");
        metrics.register(hits.clone());
        hits.inc_by(3);
        let ready = Arc::new(AtomicBool::new(false));
        let asked = ready.clone();
        let server =
            MetricsServer::start("127.0.0.1:0", metrics, move || asked.load(Ordering::SeqCst)).await.expect("starts");
        let answer = ask(server.address(), "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("\nhits_total 3\n") && answer.contains("nobat_build_info{version="), "{answer}");
        assert!(ask(server.address(), "GET /livez HTTP/1.1\r\n\r\n").await.contains("{\"live\":true}"));
        let ready_answer = async || ask(server.address(), "GET /readyz HTTP/1.1\r\n\r\n").await;
        assert!(ready_answer().await.starts_with("HTTP/1.1 503"));
        ready.store(true, Ordering::SeqCst);
        assert!(ready_answer().await.starts_with("HTTP/1.1 200"));
        assert!(ask(server.address(), "GET /x HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(ask(server.address(), "POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        assert!(!ask(server.address(), "HEAD /metrics HTTP/1.1\r\n\r\n").await.contains("hits_total"));
    }

    #[tokio::test]
    async fn a_taken_address_is_told() {
        let first = MetricsServer::start("127.0.0.1:0", Metrics::new(), || true).await.expect("starts");
        let error = MetricsServer::start(&first.address().to_string(), Metrics::new(), || true).await;
        let error = error.err().expect("taken");
        assert!(error.message.contains("setting `metrics`"), "{error}");
    }
}
