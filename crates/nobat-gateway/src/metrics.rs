//! What is counted of requests, whatever became of them: a few atomic additions each.

use std::sync::OnceLock;
use std::time::Duration;

use nobat_runtime::LATENCY_BUCKETS;
use nobat_runtime::Metrics;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};

use crate::shape::Shape;

/// Which protocol a request spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `/api/v1`.
    Native,
    /// `/v1/models` and its relatives.
    TfServing,
    /// OpenAI's paths under `/v1`.
    OpenAi,
    /// text-embeddings-inference's paths, and the rerankers'.
    Tei,
    /// `/v2` over HTTP.
    V2,
    /// gRPC.
    Grpc,
    /// Health, documentation and what is not there.
    Other,
}

const PROTOCOLS: [Protocol; 7] = [
    Protocol::Native,
    Protocol::TfServing,
    Protocol::OpenAi,
    Protocol::Tei,
    Protocol::V2,
    Protocol::Grpc,
    Protocol::Other,
];

impl Protocol {
    /// The protocol of an HTTP path.
    pub fn of_path(path: &str) -> Protocol {
        let starts = |prefix: &str| path.starts_with(prefix);
        match path {
            // What is asked most comes first.
            _ if starts("/v1/models") => Protocol::TfServing,
            _ if starts("/api/v1/") => Protocol::Native,
            _ if starts("/v2/models") => Protocol::V2,
            _ => match Shape::of_path(path) {
                Shape::OpenAi => Protocol::OpenAi,
                Shape::Tei | Shape::Rerank => Protocol::Tei,
                Shape::Problem | Shape::Plain if starts("/v2/") => Protocol::V2,
                Shape::Plain if !starts("/ping") => Protocol::TfServing,
                Shape::Problem | Shape::Plain => Protocol::Other,
            },
        }
    }

    fn label(self) -> &'static str {
        match self {
            Protocol::Native => "native",
            Protocol::TfServing => "tensorflow",
            Protocol::OpenAi => "openai",
            Protocol::Tei => "tei",
            Protocol::V2 => "v2",
            Protocol::Grpc => "grpc",
            Protocol::Other => "other",
        }
    }
}

/// Requests by protocol.
pub struct RequestMetrics {
    requests: IntCounterVec,
    /// `requests` by protocol and status, filled as statuses occur.
    handles: [[OnceLock<IntCounter>; 500]; PROTOCOLS.len()],
    durations: [Histogram; PROTOCOLS.len()],
}

impl RequestMetrics {
    /// Makes the series and shows them in `metrics`.
    pub fn new(metrics: &Metrics) -> RequestMetrics {
        let options = Opts::new("nobat_http_requests_total", "Requests answered.");
        let requests = valid(IntCounterVec::new(options, &["protocol", "status"]));
        let options = HistogramOpts::new("nobat_http_request_duration_seconds", "Head read to answer, by protocol.");
        let durations = valid(HistogramVec::new(options.buckets(LATENCY_BUCKETS.to_vec()), &["protocol"]));
        metrics.register(requests.clone());
        metrics.register(durations.clone());
        RequestMetrics {
            requests,
            handles: std::array::from_fn(|_| std::array::from_fn(|_| OnceLock::new())),
            durations: PROTOCOLS.map(|protocol| durations.with_label_values(&[protocol.label()])),
        }
    }

    /// Counts an answered request.
    pub fn record(&self, protocol: Protocol, status: u16, took: Duration) {
        let at = protocol as usize;
        let slot = usize::from(status).saturating_sub(100).min(499);
        self.handles[at][slot]
            .get_or_init(|| self.requests.with_label_values(&[protocol.label(), &status.to_string()]))
            .inc();
        self.durations[at].observe(took.as_secs_f64());
    }
}

/// Names and labels above are constants of a valid form.
fn valid<T>(made: prometheus::Result<T>) -> T {
    match made {
        Ok(made) => made,
        Err(error) => unreachable!("a series' name or label is not valid: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_protocol_and_status() {
        let metrics = Metrics::new();
        let requests = RequestMetrics::new(&metrics);
        requests.record(Protocol::of_path("/v1/models/m:predict"), 200, Duration::from_millis(2));
        requests.record(Protocol::of_path("/v1/models/m:predict"), 200, Duration::from_millis(2));
        requests.record(Protocol::of_path("/nowhere"), 404, Duration::ZERO);
        let text = metrics.render();
        for line in [
            "nobat_http_requests_total{protocol=\"tensorflow\",status=\"200\"} 2",
            "nobat_http_requests_total{protocol=\"other\",status=\"404\"} 1",
            "nobat_http_request_duration_seconds_bucket{protocol=\"tensorflow\",le=\"0.0025\"} 2",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
    }
}
