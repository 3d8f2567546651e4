//! What a process of nobat needs to be run and operated: configuration, logs,
//! metrics, traces, the service manager's protocol and a stop in good order.
//!
//! Owns how layers of configuration are read ([`config`]), log4rs ([`logging`]), the
//! exposition of metrics ([`metrics`], [`triton`]), [`traces`], [`tls`], [`notify`] (systemd), what is
//! printed ([`streams`]) and how a program begins and ends ([`process`]). It does not own what is set, logged or measured: each crate owns the struct of its own
//! section, and gateway and worker register their own series. It knows no job and no model.
//!
//! Invariants:
//! - Recording a metric costs a few atomic additions on handles made at start;
//!   no sample is kept, so memory does not grow between two scrapes.
//! - Neither a slow scraper nor a missing service manager delays anything else.

#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod config;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod process;
pub mod snapshot;
mod stop;
pub mod streams;
pub mod tls;
pub mod traces;
pub mod triton;

pub use metrics::{Metrics, MetricsServer};
pub use snapshot::LATENCY_BUCKETS;
pub use stop::Stop;

/// Milliseconds since 1970 by this host's clock.
pub fn now_ms() -> u64 {
    nobat_core::units::unix_ms(std::time::SystemTime::now())
}
