//! What every long-running process of nobat needs to be operated: the metrics
//! listener and the service manager's protocol.
//!
//! Owns the exposition of metrics ([`metrics`], [`triton`]), [`traces`] and
//! [`notify`] (systemd). It does not own what is measured: gateway and worker register
//! their own series. It knows no protocol of the gateway and no ONNX Runtime.
//!
//! Invariants:
//! - Recording a metric costs a few atomic additions on handles made at start;
//!   no sample is kept, so memory does not grow between two scrapes.
//! - Neither a slow scraper nor a missing service manager delays anything else.

pub mod metrics;
pub mod notify;
pub mod snapshot;
mod stop;
pub mod traces;
pub mod triton;

pub use metrics::{Metrics, MetricsServer};
pub use stop::{Stop, exit_now};
