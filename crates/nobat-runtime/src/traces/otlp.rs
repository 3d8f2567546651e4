//! Spans by OpenTelemetry's SDK, exported in batches over HTTP.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nobat_core::{Error, Result};
use opentelemetry::trace::{
    SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
    TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Holds the exporter open; what is left goes out when this is dropped.
pub struct Exporting {
    provider: Option<SdkTracerProvider>,
}

/// Starts to export in the name of `service`, where the environment names a
/// collector. Call it once, outside of any runtime.
///
/// # Errors
/// `invalid_parameter` when the environment's settings cannot be used.
pub fn start(service: &'static str) -> Result<Exporting> {
    if !super::collector::is_asked_for() {
        return Ok(Exporting { provider: None });
    }
    crate::tls::use_ring();
    let exporter = SpanExporter::builder()
        .with_http()
        .build()
        .map_err(|error| Error::invalid(format!("traces cannot be exported: {error}; see OTEL_EXPORTER_OTLP_*")))?;
    let resource = Resource::builder().with_service_name(service).build();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    let _ = TRACER.set(provider.tracer("nobat"));
    log::info!("traces are exported");
    Ok(Exporting { provider: Some(provider) })
}

/// Whether spans are made.
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

impl Drop for Exporting {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.provider.as_ref().map(|provider| provider.shutdown()) {
            log::warn!("the last traces were not exported: {error}");
        }
    }
}

/// A request's span; cheap to clone. Ends when it is told to, or with its last
/// clone.
#[derive(Clone, Debug, Default)]
pub struct Span {
    context: Option<Context>,
}

impl Span {
    /// Begins a request's span under the caller's `traceparent`, which may be empty.
    #[must_use]
    pub fn request(traceparent: &str) -> Span {
        let context = TRACER.get().map(|tracer| {
            let builder = SpanBuilder::from_name("request").with_kind(SpanKind::Server);
            Context::new().with_span(tracer.build_with_context(builder, &parent(traceparent)))
        });
        Span { context }
    }

    /// What its children name as their parent; `None` without a span.
    pub fn traceparent(&self) -> Option<String> {
        let context = self.context.as_ref()?;
        let own = context.span().span_context().clone();
        own.is_valid().then(|| format!("00-{}-{}-{:02x}", own.trace_id(), own.span_id(), own.trace_flags().to_u8()))
    }

    /// Notes something about the request.
    pub fn note(&self, name: &'static str, value: &str) {
        if let Some(context) = self.context.as_ref().filter(|_| !value.is_empty()) {
            context.span().set_attribute(KeyValue::new(name, value.to_owned()));
        }
    }

    /// Ends it with the HTTP status of its answer.
    pub fn end(&self, status: u16) {
        let Some(context) = &self.context else { return };
        let span = context.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if status >= 500 {
            span.set_status(Status::error(""));
        }
        span.end();
    }

    /// Records the run of a job that took `took` until now, under the span of
    /// its request.
    pub fn run(traceparent: &str, took: Duration, notes: &[(&'static str, &str)]) {
        let Some(tracer) = TRACER.get() else { return };
        let now = SystemTime::now();
        let attributes = notes.iter().map(|&(name, value)| KeyValue::new(name, value.to_owned()));
        let builder = SpanBuilder::from_name("run")
            .with_kind(SpanKind::Consumer)
            .with_start_time(now.checked_sub(took).unwrap_or(now))
            .with_attributes(attributes);
        // Dropped at once, which ends it now.
        drop(tracer.build_with_context(builder, &parent(traceparent)));
    }
}

/// The remote parent that a W3C `traceparent` names; a root without one.
fn parent(traceparent: &str) -> Context {
    let mut parts = traceparent.split('-').skip(1);
    let mut next = || parts.next().unwrap_or_default();
    let (trace, span, flags) = (TraceId::from_hex(next()), SpanId::from_hex(next()), u8::from_str_radix(next(), 16));
    match (trace, span, flags) {
        (Ok(trace), Ok(span), Ok(flags)) => {
            let remote = SpanContext::new(trace, span, TraceFlags::new(flags), true, TraceState::default());
            Context::new().with_remote_span_context(remote)
        }
        _ => Context::new(),
    }
}
