//! What the HTTP and gRPC servers of one gateway share beside serving itself.

use std::net::ToSocketAddrs;

use nobat_batches::Batches;
use nobat_runtime::Metrics;
use nobat_serving::limits::Seats;

use crate::config::GatewayConfig;
use crate::metrics::RequestMetrics;
use crate::origin::Origins;

/// Subscribers to the events of a gateway at a time.
pub(crate) const SUBSCRIBERS: usize = 256;

/// Settings of the servers, and what they count.
pub struct HttpState {
    /// Settings the gateway was started with.
    pub config: GatewayConfig,
    /// Which web pages may send what.
    pub origins: Origins,
    /// Requests by protocol and status.
    pub requests: RequestMetrics,
    /// Places of those who follow events.
    pub subscribers: Seats,
    /// Files and batches; none where there is no folder for them.
    pub batches: Option<Batches>,
}

impl HttpState {
    /// As the configuration says; `has_keys`: callers need a key. Series are shown in `metrics`.
    pub fn new(config: GatewayConfig, has_keys: bool, metrics: &Metrics, batches: Option<Batches>) -> HttpState {
        let is_local = !has_keys && is_loopback(&config.listen);
        HttpState {
            origins: Origins::new(config.cors.clone(), &config.hosts, &config.listen, is_local),
            requests: RequestMetrics::new(metrics),
            subscribers: Seats::new(SUBSCRIBERS),
            batches,
            config,
        }
    }
}

/// Whether a listener's address is reached from its own host only.
fn is_loopback(listen: &str) -> bool {
    listen.to_socket_addrs().is_ok_and(|mut found| found.all(|address| address.ip().is_loopback()))
}
