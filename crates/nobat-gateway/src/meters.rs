//! What the gateway counts, on handles made before they are needed: a request
//! costs a few atomic additions.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nobat_runtime::{LATENCY_BUCKETS, Metrics};
use parking_lot::RwLock;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};
use smol_str::SmolStr;

/// Which protocol a request spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `/api/v1`.
    Native,
    /// `/v1` and its relatives.
    TfServing,
    /// `/v2` over HTTP.
    V2,
    /// gRPC.
    Grpc,
    /// Health, documentation and what is not there.
    Other,
}

const PROTOCOLS: [Protocol; 5] = [Protocol::Native, Protocol::TfServing, Protocol::V2, Protocol::Grpc, Protocol::Other];

impl Protocol {
    /// The protocol of an HTTP path.
    pub fn of_path(path: &str) -> Protocol {
        let starts = |prefix: &str| path.starts_with(prefix);
        match path {
            _ if starts("/api/v1/") => Protocol::Native,
            _ if starts("/v1/") || starts("/invocations") || starts("/predict") => Protocol::TfServing,
            _ if starts("/v2/") => Protocol::V2,
            _ => Protocol::Other,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Protocol::Native => "native",
            Protocol::TfServing => "tensorflow",
            Protocol::V2 => "v2",
            Protocol::Grpc => "grpc",
            Protocol::Other => "other",
        }
    }
}

/// The gateway's own series.
pub struct Meters {
    requests: IntCounterVec,
    /// `requests` by protocol and status, filled as statuses occur.
    request_handles: [[OnceLock<IntCounter>; 500]; PROTOCOLS.len()],
    durations: [Histogram; PROTOCOLS.len()],
    predictions: IntCounterVec,
    prediction_seconds: HistogramVec,
    models: RwLock<HashMap<SmolStr, Arc<ModelMeter>>>,
}

/// One model's handles.
pub struct ModelMeter {
    /// Predictions answered.
    pub succeeded: IntCounter,
    /// Predictions that failed on our side (5xx).
    pub failed: IntCounter,
    /// Predictions refused or at fault (4xx).
    pub refused: IntCounter,
    /// Edge to answer.
    pub seconds: Histogram,
}

impl Meters {
    /// Makes the series and shows them in `metrics`.
    pub fn new(metrics: &Metrics) -> Meters {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let made = IntCounterVec::new(Opts::new(name, help), labels);
            let made = valid(made);
            metrics.register(made.clone());
            made
        };
        let histograms = |name: &str, help: &str, label: &str| {
            let options = HistogramOpts::new(name, help).buckets(LATENCY_BUCKETS.to_vec());
            let made = valid(HistogramVec::new(options, &[label]));
            metrics.register(made.clone());
            made
        };
        let durations =
            histograms("nobat_http_request_duration_seconds", "Head read to answer, by protocol.", "protocol");
        Meters {
            requests: counters("nobat_http_requests_total", "Requests answered.", &["protocol", "status"]),
            request_handles: std::array::from_fn(|_| std::array::from_fn(|_| OnceLock::new())),
            durations: PROTOCOLS.map(|protocol| durations.with_label_values(&[protocol.label()])),
            predictions: counters(
                "nobat_predictions_total",
                "Predictions that callers waited for: succeeded, failed (ours) or refused (theirs).",
                &["model", "outcome"],
            ),
            prediction_seconds: histograms("nobat_prediction_seconds", "Request to answer, by model.", "model"),
            models: RwLock::default(),
        }
    }

    /// Counts an answered request.
    pub fn http(&self, protocol: Protocol, status: u16, took: Duration) {
        let at = protocol as usize;
        let slot = usize::from(status).saturating_sub(100).min(499);
        self.request_handles[at][slot]
            .get_or_init(|| self.requests.with_label_values(&[protocol.label(), &status.to_string()]))
            .inc();
        self.durations[at].observe(took.as_secs_f64());
    }

    /// A model's handles; made once.
    pub fn model(&self, model: &SmolStr) -> Arc<ModelMeter> {
        if let Some(meter) = self.models.read().get(model) {
            return meter.clone();
        }
        let outcome = |outcome| self.predictions.with_label_values(&[model.as_str(), outcome]);
        let meter = || {
            Arc::new(ModelMeter {
                succeeded: outcome("succeeded"),
                failed: outcome("failed"),
                refused: outcome("refused"),
                seconds: self.prediction_seconds.with_label_values(&[model]),
            })
        };
        self.models.write().entry(model.clone()).or_insert_with(meter).clone()
    }

    /// Every model's handles.
    pub fn models(&self) -> Vec<(SmolStr, Arc<ModelMeter>)> {
        self.models.read().iter().map(|(model, meter)| (model.clone(), meter.clone())).collect()
    }
}

impl ModelMeter {
    /// Counts a prediction that a caller waited for. Its job, like any other, is
    /// counted by its worker.
    pub fn record(&self, outcome: Result<(), &nobat_core::Error>, took: Duration) {
        match outcome {
            Ok(()) => {
                self.succeeded.inc();
                self.seconds.observe(took.as_secs_f64());
            }
            Err(error) if crate::error::http_status(error.code).is_server_error() => self.failed.inc(),
            Err(_) => self.refused.inc(),
        }
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
    fn requests_and_predictions_are_counted_by_their_labels() {
        let metrics = Metrics::new();
        let meters = Meters::new(&metrics);
        meters.http(Protocol::of_path("/v1/models/m:predict"), 200, Duration::from_millis(2));
        meters.http(Protocol::of_path("/v1/models/m:predict"), 200, Duration::from_millis(2));
        meters.http(Protocol::of_path("/nowhere"), 404, Duration::ZERO);
        let meter = meters.model(&"m".into());
        meter.record(Ok(()), Duration::from_millis(3));
        meter.record(Err(&nobat_core::Error::new(nobat_core::ErrorCode::QueueFull, "full")), Duration::ZERO);
        let text = metrics.render();
        for line in [
            "nobat_http_requests_total{protocol=\"tensorflow\",status=\"200\"} 2",
            "nobat_http_requests_total{protocol=\"other\",status=\"404\"} 1",
            "nobat_http_request_duration_seconds_bucket{protocol=\"tensorflow\",le=\"0.0025\"} 2",
            "nobat_predictions_total{model=\"m\",outcome=\"succeeded\"} 1",
            "nobat_predictions_total{model=\"m\",outcome=\"failed\"} 1",
            "nobat_prediction_seconds_count{model=\"m\"} 1",
        ] {
            assert!(text.lines().any(|shown| shown == line) || unordered(&text, line), "{line} is not in\n{text}");
        }
    }

    fn unordered(text: &str, line: &str) -> bool {
        let parts = |line: &str| {
            let mut parts: Vec<_> = line.split(['{', '}', ',', ' ']).map(str::to_owned).collect();
            parts.sort();
            parts
        };
        text.lines().any(|shown| parts(shown) == parts(line))
    }
}
