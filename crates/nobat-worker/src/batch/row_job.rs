//! A job whose rows may run in several runs, beside rows of other jobs: what is known of
//! it, and what its rows have come to so far.

use std::sync::Arc;
use std::time::Instant;

use nobat_core::job::LeasedJob;
use nobat_core::statistics::BatchTimes;
use nobat_queue::backend::Lease;
use nobat_transform::{Finished, Prepared, Row};
use parking_lot::Mutex;
use smol_str::SmolStr;

use crate::model::Version;

/// A prepared job.
#[derive(Debug)]
pub(crate) struct RowJob {
    pub(crate) leased: LeasedJob,
    pub(crate) version: Arc<Version>,
    /// Outputs asked for; empty for all.
    pub(crate) outputs: Vec<SmolStr>,
    pub(crate) prepared: Prepared,
    pub(crate) since: Instant,
    pub(crate) deadline: Option<Instant>,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    finished: Vec<Option<Finished>>,
    left: usize,
    /// Of what is finished.
    bytes: usize,
    times: BatchTimes,
    /// When its first run began.
    started: Option<Instant>,
    /// Settled, given back, or of no use to anybody.
    over: bool,
}

/// What a job has come to after a run.
pub(crate) enum RowsFinished {
    /// Others of its rows have not run, or it is over already.
    Part,
    /// Its rows came to so many bytes, more than a result may have; the job is over.
    TooLarge(usize),
    /// The last of its rows have run; the job is over.
    All(AllFinished),
}

/// All that a job's rows came to.
pub(crate) struct AllFinished {
    /// In the job's order.
    pub(crate) rows: Vec<Finished>,
    /// The times of all its runs together, and the most rows of one.
    pub(crate) times: BatchTimes,
    pub(crate) started: Instant,
}

impl RowJob {
    pub(crate) fn new(
        leased: LeasedJob,
        version: Arc<Version>,
        outputs: Vec<SmolStr>,
        prepared: Prepared,
        since: Instant,
        deadline: Option<Instant>,
    ) -> RowJob {
        let left = prepared.rows.len();
        let finished = (0..left).map(|_| None).collect();
        let progress = Progress { finished, left, bytes: 0, times: BatchTimes::default(), started: None, over: false };
        RowJob { leased, version, outputs, prepared, since, deadline, progress: Mutex::new(progress) }
    }

    pub(crate) fn lease(&self) -> Lease {
        (self.leased.id, self.leased.token)
    }

    pub(crate) fn row(&self, at: u32) -> &Row {
        &self.prepared.rows[at as usize]
    }

    /// Whether its rows need not run any more.
    pub(crate) fn is_over(&self) -> bool {
        self.progress.lock().over
    }

    /// Ends it; true for the one who does, who alone may settle it or give it back.
    pub(crate) fn end(&self) -> bool {
        !std::mem::replace(&mut self.progress.lock().over, true)
    }

    /// Notes what rows came to in one run, which took `times`: all of them, once, when they were
    /// the last. More than `most` bytes are not kept until then.
    pub(crate) fn finish(
        &self,
        rows: impl Iterator<Item = (u32, Finished)>,
        times: BatchTimes,
        started: Instant,
        most: usize,
    ) -> RowsFinished {
        let mut progress = self.progress.lock();
        for (at, finished) in rows {
            let bytes = finished.bytes();
            // A job that is over keeps nothing any more.
            let Some(place) = progress.finished.get_mut(at as usize) else { continue };
            if place.replace(finished).is_none() {
                progress.left -= 1;
                progress.bytes = progress.bytes.saturating_add(bytes);
            }
        }
        let all = progress.times;
        progress.times = BatchTimes {
            rows: all.rows.max(times.rows),
            input: all.input + times.input,
            infer: all.infer + times.infer,
            output: all.output + times.output,
        };
        let first = *progress.started.get_or_insert(started);
        if progress.over {
            return RowsFinished::Part;
        }
        if progress.bytes > most {
            progress.over = true;
            progress.finished = Vec::new();
            return RowsFinished::TooLarge(progress.bytes);
        }
        if progress.left > 0 {
            return RowsFinished::Part;
        }
        progress.over = true;
        let rows = std::mem::take(&mut progress.finished).into_iter().flatten().collect();
        RowsFinished::All(AllFinished { rows, times: progress.times, started: first })
    }
}
