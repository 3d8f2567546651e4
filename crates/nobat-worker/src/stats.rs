//! A model version's counters, shared by its sessions and by all that serve under
//! its number, one after the other.
//!
//! The numbers are [`ModelStatistics`], which every gateway sums; beside them
//! stand those that only nobat has: time between lease and run, jobs dropped for
//! their deadline, back-offs of the batch controller. A batch is counted before
//! its jobs are settled. Counters never fall while the worker lives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nobat_core::ErrorCode;
use nobat_core::statistics::{BatchTimes, ModelStatistics, Tally};
use nobat_runtime::now_ms;
use nobat_runtime::snapshot::Latencies;
use parking_lot::Mutex;
use smol_str::SmolStr;

/// The counters of every version that a worker ever served.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<BTreeMap<(SmolStr, SmolStr), Stats>>);

impl Counters {
    /// A version's counters: those from before, if it served before.
    pub(crate) fn of(&self, model: &str, version: &str) -> Stats {
        let mut all = self.0.lock();
        let stats = all.entry((model.into(), version.into()));
        stats.or_insert_with(|| Stats::new(ModelStatistics::new(model, version))).clone()
    }
}

/// Counters behind one lock, taken once per batch.
#[derive(Clone, Debug)]
pub(crate) struct Stats {
    inner: Arc<Mutex<Counted>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Counted {
    /// What gateways sum.
    pub(crate) statistics: ModelStatistics,
    /// Jobs that ran: leased to the start of their run.
    pub(crate) batch_wait: Tally,
    pub(crate) expired: u64,
    pub(crate) back_offs: u64,
    /// Jobs that failed for good on our side.
    pub(crate) dead: u64,
    /// Jobs that their own input made fail.
    pub(crate) refused: u64,
    /// Tokens (pixels of pictures) of the rows that ran, where rows have unlike lengths.
    pub(crate) tokens: u64,
    /// Of what shorter rows were padded with, to run beside longer ones.
    pub(crate) padding: u64,
    /// What every job that succeeded took, whether its caller waited or not.
    pub(crate) took: JobTimes,
}

/// How long jobs took, by its parts.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobTimes {
    /// Enqueued (or due again) to the end of the run.
    pub(crate) total: Latencies,
    pub(crate) queue: Latencies,
    pub(crate) infer: Latencies,
}

/// One job of a run: how long it was queued, and leased before the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobWaits {
    pub(crate) queue: Duration,
    pub(crate) batch_wait: Duration,
}

impl Stats {
    /// Counters that begin at `statistics`.
    pub(crate) fn new(statistics: ModelStatistics) -> Stats {
        let counted = Counted {
            statistics,
            batch_wait: Tally::default(),
            expired: 0,
            back_offs: 0,
            dead: 0,
            refused: 0,
            tokens: 0,
            padding: 0,
            took: JobTimes::default(),
        };
        Stats { inner: Arc::new(Mutex::new(counted)) }
    }

    /// Counts one run and the jobs that were in it.
    pub(crate) fn ran(&self, times: BatchTimes, jobs: impl ExactSizeIterator<Item = JobWaits>) {
        let mut inner = self.inner.lock();
        inner.statistics.record_batch(times, jobs.len() as u64, now_ms());
        jobs.for_each(|job| inner.succeeded(times, job));
    }

    /// Counts one of several runs of a job.
    pub(crate) fn ran_part(&self, times: BatchTimes) {
        self.inner.lock().statistics.record_batch(times, 0, now_ms());
    }

    /// Counts a job whose runs took `times` in all.
    pub(crate) fn joined(&self, times: BatchTimes, job: JobWaits) {
        let mut inner = self.inner.lock();
        inner.statistics.record_times(times);
        inner.succeeded(times, job);
    }

    pub(crate) fn failed(&self, waits: JobWaits, took: Duration) {
        let waited = waits.queue + waits.batch_wait;
        self.inner.lock().statistics.record_job(false, waited, waited + took);
    }

    /// Counts a job that failed with this code and does not run again.
    pub(crate) fn ended(&self, code: ErrorCode) {
        let mut inner = self.inner.lock();
        match code {
            ErrorCode::InvalidTensor | ErrorCode::InvalidParameter => inner.refused += 1,
            _ => inner.dead += 1,
        }
    }

    /// Counts the tokens of a run's rows, and what they were padded with.
    pub(crate) fn padded(&self, tokens: u64, padding: u64) {
        let mut inner = self.inner.lock();
        inner.tokens += tokens;
        inner.padding += padding;
    }

    pub(crate) fn expired(&self) {
        self.inner.lock().expired += 1;
    }

    pub(crate) fn backed_off(&self) {
        self.inner.lock().back_offs += 1;
    }

    pub(crate) fn counted(&self) -> Counted {
        self.inner.lock().clone()
    }
}

impl Counted {
    fn succeeded(&mut self, times: BatchTimes, job: JobWaits) {
        let waited = job.queue + job.batch_wait;
        let total = waited + times.input + times.infer + times.output;
        self.statistics.record_job(true, waited, total);
        self.batch_wait.add(job.batch_wait);
        self.took.total.observe(total);
        self.took.queue.observe(job.queue);
        self.took.infer.observe(times.infer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_run_counts_rows_runs_jobs_and_their_waits() {
        let stats = Stats::new(ModelStatistics::new("m", "1"));
        let times = BatchTimes { rows: 6, input: MS, infer: 10 * MS, output: 2 * MS };
        stats.ran(times, vec![JobWaits { queue: 10 * MS, batch_wait: MS }; 3].into_iter());
        stats.failed(JobWaits { queue: MS, batch_wait: MS }, 5 * MS);
        stats.expired();
        stats.backed_off();
        stats.ended(ErrorCode::InvalidTensor);
        stats.ended(ErrorCode::InferenceFailed);
        let Counted { statistics, batch_wait, expired, back_offs, dead, refused, took, .. } = stats.counted();
        assert_eq!((dead, refused, took.total.count(), took.queue.count(), took.infer.count()), (1, 1, 3, 3, 3));
        assert_eq!((statistics.inference_count, statistics.execution_count), (6, 1));
        assert_eq!(statistics.success, Tally { count: 3, ns: 72_000_000 });
        assert_eq!(statistics.fail, Tally { count: 1, ns: 7_000_000 });
        assert_eq!((batch_wait.ns, expired, back_offs), (3_000_000, 1, 1));
    }

    #[test]
    fn a_job_of_several_runs_counts_once_with_the_times_of_all() {
        let stats = Stats::new(ModelStatistics::new("m", "1"));
        let part = BatchTimes { rows: 4, input: MS, infer: 10 * MS, output: 2 * MS };
        (0..3).for_each(|_| stats.ran_part(part));
        stats.joined(
            BatchTimes { rows: 12, input: 3 * MS, infer: 30 * MS, output: 6 * MS },
            JobWaits { queue: MS, batch_wait: MS },
        );
        let Counted { statistics, batch_wait, .. } = stats.counted();
        assert_eq!((statistics.inference_count, statistics.execution_count), (12, 3));
        assert_eq!(statistics.infer, Tally { count: 1, ns: 30_000_000 });
        assert_eq!(statistics.input, Tally { count: 1, ns: 3_000_000 });
        assert_eq!(statistics.success, Tally { count: 1, ns: 41_000_000 });
        assert_eq!(statistics.queue.count, batch_wait.count);
        assert_eq!((statistics.batches[0].rows, statistics.batches[0].infer.count), (4, 3));
    }

    #[test]
    fn a_version_that_comes_back_counts_on() {
        let counters = Counters::default();
        counters.of("m", "1").expired();
        counters.of("m", "1").expired();
        assert_eq!(counters.of("m", "1").counted().expired, 2);
        assert_eq!(counters.of("m", "2").counted().expired, 0);
    }
}
