//! The names that dashboards for Triton already read, from nobat's statistics.
//!
//! Source: Triton Inference Server, "Metrics"; durations are cumulative
//! microseconds.

use nobat_core::statistics::{ModelStatistics, Tally};

use crate::snapshot::{Family, Kind};

/// A series' name, its help and how it is read.
type Series = (&'static str, &'static str, fn(&ModelStatistics) -> u64);

const SERIES: &[Series] = &[
    ("nv_inference_request_success", "Jobs that succeeded.", |s| s.success.count),
    ("nv_inference_count", "Rows that ran.", |s| s.inference_count),
    ("nv_inference_exec_count", "Batches that ran.", |s| s.execution_count),
    ("nv_inference_request_duration_us", "Enqueue to settle, all jobs.", |s| us(s.success) + us(s.fail)),
    ("nv_inference_queue_duration_us", "Enqueue to the start of the run, all jobs.", |s| us(s.queue)),
    ("nv_inference_compute_input_duration_us", "Filling input buffers, all jobs.", |s| us(s.input)),
    ("nv_inference_compute_infer_duration_us", "The model's run, all jobs.", |s| us(s.infer)),
    ("nv_inference_compute_output_duration_us", "Splitting outputs, all jobs.", |s| us(s.output)),
];

/// Shows statistics, one entry per model version, under Triton's names, and
/// batches by their size under ours.
pub fn families(all: &[ModelStatistics]) -> Vec<Family> {
    let labels = |s: &ModelStatistics| vec![("model", s.model.to_string()), ("version", s.version.to_string())];
    let mut families: Vec<Family> = SERIES
        .iter()
        .map(|&(name, help, value)| {
            let mut family = Family::new(name, help, Kind::Counter);
            all.iter().for_each(|s| family.push(labels(s), value(s) as f64));
            family
        })
        .collect();
    let mut failures = Family::new("nv_inference_request_failure", "Attempts that failed.", Kind::Counter);
    let mut batches = Family::new("nobat_batches_total", "Batches that ran, by their rows.", Kind::Counter);
    for s in all {
        failures.push([labels(s), vec![("reason", "OTHER".to_owned())]].concat(), s.fail.count as f64);
        for batch in &s.batches {
            batches.push([labels(s), vec![("rows", batch.rows.to_string())]].concat(), batch.infer.count as f64);
        }
    }
    families.extend([failures, batches]);
    families
}

fn us(tally: Tally) -> u64 {
    tally.ns / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;
    use nobat_core::statistics::BatchTimes;
    use std::time::Duration;

    #[test]
    fn statistics_show_under_tritons_names() {
        let metrics = Metrics::new();
        metrics.snapshot("test_statistics", || {
            let mut statistics = ModelStatistics::new("digits", "1");
            let ms = Duration::from_millis(1);
            statistics.record_batch(BatchTimes { rows: 4, input: ms, infer: 2 * ms, output: ms }, 2, 9);
            statistics.record_job(true, ms, 5 * ms);
            statistics.record_job(false, ms, 5 * ms);
            families(&[statistics])
        });
        let text = metrics.render();
        for line in [
            "nv_inference_request_success{model=\"digits\",version=\"1\"} 1",
            "nv_inference_request_failure{model=\"digits\",reason=\"OTHER\",version=\"1\"} 1",
            "nv_inference_count{model=\"digits\",version=\"1\"} 4",
            "nv_inference_exec_count{model=\"digits\",version=\"1\"} 1",
            "nv_inference_request_duration_us{model=\"digits\",version=\"1\"} 10000",
            "nv_inference_compute_infer_duration_us{model=\"digits\",version=\"1\"} 4000",
            "nobat_batches_total{model=\"digits\",rows=\"4\",version=\"1\"} 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
    }
}
