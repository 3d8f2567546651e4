//! What a worker has done per model version, as it publishes it in the
//! registry and as the Open Inference Protocol's statistics call returns it.
//!
//! Owns the counters and their sums; who counts and who shows them do not
//! matter here. Counters only grow for a worker's life. A worker counts a batch
//! before it settles the batch's jobs, so whoever has an answer in hand finds
//! it counted in the next report.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// The part of a worker's registration report that holds its statistics; the
/// report may hold other members beside these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerReport {
    /// The nonce of the latest request for a fresh report that the counters
    /// below already answer; 0 before the first.
    pub nonce: u64,
    /// One entry per model version this worker has run.
    pub statistics: Vec<ModelStatistics>,
}

/// How often something happened and how long it took in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// How often.
    pub count: u64,
    /// Total time, nanoseconds.
    pub ns: u64,
}

impl Tally {
    /// Counts one occurrence that took `time`.
    pub fn add(&mut self, time: Duration) {
        self.add_many(1, time);
    }

    /// Counts `count` occurrences that took `each`.
    pub fn add_many(&mut self, count: u64, each: Duration) {
        let ns = u64::try_from(each.as_nanos()).unwrap_or(u64::MAX);
        self.count = self.count.saturating_add(count);
        self.ns = self.ns.saturating_add(ns.saturating_mul(count));
    }

    fn merge(&mut self, other: Tally) {
        self.count = self.count.saturating_add(other.count);
        self.ns = self.ns.saturating_add(other.ns);
    }
}

/// One batch's run, as a worker saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchTimes {
    /// Rows that ran together.
    pub rows: u32,
    /// Filling the input buffers.
    pub input: Duration,
    /// The model's run.
    pub infer: Duration,
    /// Splitting and encoding the outputs.
    pub output: Duration,
}

/// One model version's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelStatistics {
    /// The model.
    pub model: SmolStr,
    /// Its version.
    pub version: SmolStr,
    /// End of the last run, milliseconds since 1970.
    pub last_inference_ms: u64,
    /// Rows that ran.
    pub inference_count: u64,
    /// Batches that ran.
    pub execution_count: u64,
    /// Jobs that succeeded, enqueued to settled.
    pub success: Tally,
    /// Attempts that failed, enqueued to settled.
    pub fail: Tally,
    /// Jobs that ran: enqueued to the start of their run.
    pub queue: Tally,
    /// Jobs that ran: their batch's input phase.
    pub input: Tally,
    /// Jobs that ran: their batch's run.
    pub infer: Tally,
    /// Jobs that ran: their batch's output phase.
    pub output: Tally,
    /// Batches by their rows, ascending.
    pub batches: Vec<BatchStatistics>,
}

/// Batches of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchStatistics {
    /// Rows in each.
    pub rows: u32,
    /// Input phase.
    pub input: Tally,
    /// Run.
    pub infer: Tally,
    /// Output phase.
    pub output: Tally,
}

impl ModelStatistics {
    /// Counters of a model version that has not run.
    pub fn new(model: &str, version: &str) -> ModelStatistics {
        ModelStatistics { model: model.into(), version: version.into(), ..ModelStatistics::default() }
    }

    /// Counts a batch that ran for `jobs` jobs, ending at `now_ms` since 1970.
    pub fn record_batch(&mut self, times: BatchTimes, jobs: u64, now_ms: u64) {
        self.last_inference_ms = self.last_inference_ms.max(now_ms);
        self.inference_count += u64::from(times.rows);
        self.execution_count += 1;
        // A job of several batches has its times counted by itself.
        self.input.add_many(jobs, times.input);
        self.infer.add_many(jobs, times.infer);
        self.output.add_many(jobs, times.output);
        let batch = self.batch_mut(times.rows);
        batch.input.add(times.input);
        batch.infer.add(times.infer);
        batch.output.add(times.output);
    }

    /// Counts the times of one job that ran in several batches, each of which was
    /// counted as for no job.
    pub fn record_times(&mut self, times: BatchTimes) {
        self.input.add(times.input);
        self.infer.add(times.infer);
        self.output.add(times.output);
    }

    /// Counts one job of a batch: its time in the queue (to the start of its
    /// run) and from enqueue to settle.
    pub fn record_job(&mut self, succeeded: bool, queue: Duration, total: Duration) {
        self.queue.add(queue);
        if succeeded { self.success.add(total) } else { self.fail.add(total) }
    }

    /// Adds another worker's counters of the same model version.
    pub fn merge(&mut self, other: &ModelStatistics) {
        self.last_inference_ms = self.last_inference_ms.max(other.last_inference_ms);
        self.inference_count += other.inference_count;
        self.execution_count += other.execution_count;
        self.success.merge(other.success);
        self.fail.merge(other.fail);
        self.queue.merge(other.queue);
        self.input.merge(other.input);
        self.infer.merge(other.infer);
        self.output.merge(other.output);
        for theirs in &other.batches {
            let batch = self.batch_mut(theirs.rows);
            batch.input.merge(theirs.input);
            batch.infer.merge(theirs.infer);
            batch.output.merge(theirs.output);
        }
    }

    fn batch_mut(&mut self, rows: u32) -> &mut BatchStatistics {
        let at = match self.batches.binary_search_by_key(&rows, |batch| batch.rows) {
            Ok(at) => at,
            Err(at) => {
                self.batches.insert(at, BatchStatistics { rows, ..BatchStatistics::default() });
                at
            }
        };
        &mut self.batches[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ran(rows: u32, jobs: u64) -> ModelStatistics {
        let mut statistics = ModelStatistics::new("m", "1");
        statistics.record_batch(BatchTimes { rows, input: MS, infer: 2 * MS, output: MS }, jobs, 5);
        for _ in 0..jobs {
            statistics.record_job(true, 3 * MS, 7 * MS);
        }
        statistics
    }

    #[test]
    fn counters_of_jobs_rows_and_batches_add_up() {
        let mut all = ran(8, 2);
        all.merge(&ran(4, 4));
        all.merge(&ran(8, 8));
        assert_eq!((all.inference_count, all.execution_count), (20, 3));
        assert_eq!((all.success.count, all.queue.count, all.infer.count), (14, 14, 14));
        assert_eq!(all.infer.ns, 14 * 2_000_000);
        let sizes: Vec<_> = all.batches.iter().map(|batch| (batch.rows, batch.infer.count)).collect();
        assert_eq!(sizes, [(4, 1), (8, 2)]);
    }

    #[test]
    fn a_report_reads_back_and_ignores_its_neighbours() {
        let report = WorkerReport { nonce: 7, statistics: vec![ran(1, 1)] };
        let mut json = serde_json::to_value(&report).expect("serializes");
        json["controllers"] = serde_json::json!([1, 2]);
        assert_eq!(serde_json::from_value::<WorkerReport>(json).expect("reads"), report);
        assert_eq!(
            serde_json::from_value::<WorkerReport>(serde_json::json!({})).expect("reads"),
            WorkerReport::default()
        );
    }
}
