//! Traces by OpenTelemetry's protocol (OTLP over HTTP): a span per request at
//! the gateway, a span per run of a job at the worker, its child.
//!
//! In builds without the feature `otlp` every call here is empty. With it,
//! spans are made once [`start`] found `OTEL_EXPORTER_OTLP_ENDPOINT` (or its form
//! for traces) in the environment; the other variables of the OpenTelemetry
//! specification hold as well. Callers' trace parents are honoured, their
//! sampling flag included.
//!
//! Invariants:
//! - Exporting happens on a thread of its own; a collector that is away or slow
//!   costs spans, nothing else.
//! - Spans hold what access lines hold: never tensors, bodies or keys.

mod collector;
#[cfg_attr(feature = "otlp", path = "otlp.rs")]
#[cfg_attr(not(feature = "otlp"), path = "off.rs")]
mod exporter;

pub use exporter::{Exporting, Span, is_on, start};
