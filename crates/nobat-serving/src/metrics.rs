//! What is counted of predictions, on handles made before they are needed: one costs a
//! few atomic additions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use nobat_core::{Error, ErrorCode};
use nobat_runtime::{LATENCY_BUCKETS, Metrics};
use parking_lot::RwLock;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};
use smol_str::SmolStr;

/// Predictions that callers waited for.
pub struct PredictionMetrics {
    predictions: IntCounterVec,
    seconds: HistogramVec,
    tokens: IntCounterVec,
    models: RwLock<HashMap<SmolStr, Arc<ModelMetrics>>>,
}

/// One model's handles.
pub struct ModelMetrics {
    /// Predictions answered.
    pub succeeded: IntCounter,
    /// Predictions that failed on our side (5xx).
    pub failed: IntCounter,
    /// Predictions refused or at fault (4xx).
    pub refused: IntCounter,
    /// Request to answer.
    pub seconds: Histogram,
}

impl PredictionMetrics {
    /// Makes the series and shows them in `metrics`.
    pub fn new(metrics: &Metrics) -> PredictionMetrics {
        let predictions = valid(IntCounterVec::new(
            Opts::new(
                "nobat_predictions_total",
                "Predictions that callers waited for: succeeded, failed (ours) or refused (theirs).",
            ),
            &["model", "outcome"],
        ));
        let options = HistogramOpts::new("nobat_prediction_seconds", "Request to answer, by model.");
        let seconds = valid(HistogramVec::new(options.buckets(LATENCY_BUCKETS.to_vec()), &["model"]));
        let tokens = valid(IntCounterVec::new(
            Opts::new("nobat_key_tokens_total", "Tokens of texts whose answers callers waited for, by API key."),
            &["model", "key"],
        ));
        metrics.register(predictions.clone());
        metrics.register(tokens.clone());
        metrics.register(seconds.clone());
        PredictionMetrics { predictions, seconds, tokens, models: RwLock::default() }
    }

    /// Counts tokens that the texts of a caller had; `key` is its key's name, empty without one.
    pub fn have_read(&self, model: &str, key: &str, tokens: u64) {
        self.tokens.with_label_values(&[model, key]).inc_by(tokens);
    }

    /// A model's handles; made once.
    pub fn model(&self, model: &SmolStr) -> Arc<ModelMetrics> {
        if let Some(known) = self.models.read().get(model) {
            return known.clone();
        }
        let outcome = |outcome| self.predictions.with_label_values(&[model.as_str(), outcome]);
        let made = || {
            Arc::new(ModelMetrics {
                succeeded: outcome("succeeded"),
                failed: outcome("failed"),
                refused: outcome("refused"),
                seconds: self.seconds.with_label_values(&[model]),
            })
        };
        self.models.write().entry(model.clone()).or_insert_with(made).clone()
    }

    /// Every model's handles.
    pub fn models(&self) -> Vec<(SmolStr, Arc<ModelMetrics>)> {
        self.models.read().iter().map(|(model, metrics)| (model.clone(), metrics.clone())).collect()
    }
}

impl ModelMetrics {
    /// Counts a prediction that a caller waited for. Its job, like any other, is
    /// counted by its worker.
    pub fn record(&self, outcome: Result<(), &Error>, took: Duration) {
        match outcome {
            Ok(()) => {
                self.succeeded.inc();
                self.seconds.observe(took.as_secs_f64());
            }
            Err(error) if is_ours(error.code) => self.failed.inc(),
            Err(_) => self.refused.inc(),
        }
    }
}

/// Whether a failure is this side's and not the caller's; over HTTP a 5xx.
pub fn is_ours(code: ErrorCode) -> bool {
    use ErrorCode as Code;
    matches!(
        code,
        Code::Internal
            | Code::InferenceFailed
            | Code::InvalidWorkerResult
            | Code::QueueFull
            | Code::QueueUnavailable
            | Code::ModelNotReady
            | Code::NoWorker
            | Code::Draining
            | Code::DeadlineExceeded
            | Code::Unsupported
    )
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
    fn predictions_are_counted_by_model_and_outcome() {
        let metrics = Metrics::new();
        let predictions = PredictionMetrics::new(&metrics);
        let model = predictions.model(&"m".into());
        model.record(Ok(()), Duration::from_millis(3));
        model.record(Err(&Error::new(ErrorCode::QueueFull, "full")), Duration::ZERO);
        model.record(Err(&Error::new(ErrorCode::RateLimited, "slow down")), Duration::ZERO);
        let text = metrics.render();
        for line in [
            "nobat_predictions_total{model=\"m\",outcome=\"succeeded\"} 1",
            "nobat_predictions_total{model=\"m\",outcome=\"failed\"} 1",
            "nobat_predictions_total{model=\"m\",outcome=\"refused\"} 1",
            "nobat_prediction_seconds_count{model=\"m\"} 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
    }
}
