//! A job of the row pool with the rows of it that wait, and what they cost.

use std::sync::Arc;

use nobat_core::score::rank;

use super::planner::Slot;
use super::row_job::RowJob;

/// A job with rows that wait.
pub(super) struct HeldJob {
    pub(super) job: Arc<RowJob>,
    /// Where it ranks before anything has waited.
    pub(super) level: i16,
    /// Nobody waits for it.
    pub(super) background: bool,
    /// Lower runs first.
    pub(super) order: (i64, u64),
    /// Places of rows that wait, ascending.
    pub(super) waiting: Vec<u32>,
    /// What they take one by one, as the controller counts it and in seconds.
    units: u32,
    pub(super) seconds: f64,
}

impl HeldJob {
    pub(super) fn new(job: Arc<RowJob>, background: bool, order: (i64, u64), waiting: Vec<u32>) -> HeldJob {
        let level = rank(job.leased.priority, background);
        let mut one = HeldJob { job, level, background, order, waiting, units: 0, seconds: 0.0 };
        (one.units, one.seconds) = one.cost(&one.waiting);
        one
    }

    /// What rows take one by one, as the controller counts it and in seconds.
    fn cost(&self, rows: &[u32]) -> (u32, f64) {
        let cost = self.job.version.transformed.as_ref().map(|own| own.cost);
        rows.iter().fold((0, 0.0), |(units, seconds), &at| {
            let longest = self.job.row(at).cost;
            let (own, took) = cost.map_or((1, 0.0), |cost| (cost.units(1, longest), cost.seconds(1, longest)));
            (units.saturating_add(own), seconds + took)
        })
    }

    /// Rows at these places, ascending, wait no longer.
    pub(super) fn take(&mut self, rows: &[u32]) {
        self.waiting.retain(|own| rows.binary_search(own).is_err());
        let (units, seconds) = self.cost(rows);
        (self.units, self.seconds) = (self.units.saturating_sub(units), (self.seconds - seconds).max(0.0));
    }

    /// It was in the hands of a worker that died: by itself it can take no other with it.
    pub(super) fn runs_alone(&self) -> bool {
        self.job.leased.deaths > 0
    }

    /// As triage sees it: what its rows take one by one.
    pub(super) fn slot(&self) -> Slot {
        let RowJob { since, deadline, .. } = &*self.job;
        Slot { bucket: 0, rows: self.units, bytes: 0, since: *since, deadline: *deadline }
    }
}
