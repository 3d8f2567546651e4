//! One model version's counters, shared by its sessions.
//!
//! The numbers are [`ModelStatistics`], which every gateway sums; beside them
//! stand the two that only nobat has: time between lease and run, and jobs
//! dropped for their deadline. A batch is counted before its jobs are settled.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nobat_core::statistics::{BatchTimes, ModelStatistics, Tally};
use parking_lot::Mutex;
use serde_json::json;

/// Counters behind one lock, taken once per batch.
#[derive(Debug)]
pub struct Stats {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    counted: ModelStatistics,
    batch_wait: Tally,
    expired: u64,
}

/// One job of a run: how long it was queued, and leased before the run.
#[derive(Clone, Copy, Debug)]
pub struct JobWaits {
    /// Enqueued to leased.
    pub queue: Duration,
    /// Leased to the start of the run.
    pub batch_wait: Duration,
}

impl Stats {
    /// Counters of a version that has not run, or `earlier` counters to go on
    /// from: a reload must not make them fall.
    pub fn new(counted: ModelStatistics) -> Stats {
        Stats { inner: Mutex::new(Inner { counted, batch_wait: Tally::default(), expired: 0 }) }
    }

    /// Counts one run and the jobs that were in it.
    pub fn ran(&self, times: BatchTimes, jobs: impl ExactSizeIterator<Item = JobWaits>) {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let mut inner = self.inner.lock();
        inner.counted.record_batch(times, jobs.len() as u64, now_ms);
        for job in jobs {
            let waited = job.queue + job.batch_wait;
            inner.counted.record_job(true, waited, waited + times.input + times.infer + times.output);
            inner.batch_wait.add(job.batch_wait);
        }
    }

    /// Counts a failed attempt.
    pub fn failed(&self, waits: JobWaits, took: Duration) {
        let waited = waits.queue + waits.batch_wait;
        self.inner.lock().counted.record_job(false, waited, waited + took);
    }

    /// Counts a job dropped for its deadline.
    pub fn expired(&self) {
        self.inner.lock().expired += 1;
    }

    /// The counters now.
    pub fn counted(&self) -> ModelStatistics {
        self.inner.lock().counted.clone()
    }

    /// What stands beside the counters in a report.
    pub fn extra(&self) -> serde_json::Value {
        let inner = self.inner.lock();
        json!({ "batch_wait": inner.batch_wait, "expired": inner.expired })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_counts_rows_runs_jobs_and_their_waits() {
        let ms = Duration::from_millis;
        let stats = Stats::new(ModelStatistics::new("m", "1"));
        let times = BatchTimes { rows: 6, input: ms(1), infer: ms(10), output: ms(2) };
        stats.ran(times, vec![JobWaits { queue: ms(10), batch_wait: ms(1) }; 3].into_iter());
        stats.failed(JobWaits { queue: ms(1), batch_wait: ms(1) }, ms(5));
        stats.expired();
        let seen = stats.counted();
        assert_eq!((seen.inference_count, seen.execution_count), (6, 1));
        assert_eq!(seen.success, Tally { count: 3, ns: 72_000_000 });
        assert_eq!(seen.fail, Tally { count: 1, ns: 7_000_000 });
        assert_eq!(stats.extra()["batch_wait"]["ns"], 3_000_000);
        assert_eq!(stats.extra()["expired"], 1);
    }
}
