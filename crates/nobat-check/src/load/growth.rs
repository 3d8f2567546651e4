//! Whether a series of readings of memory, one before the first of equal runs and one after each,
//! is a leak's: it rises surely, by more than an allocator's own, and goes on to the end.

use nobat_statistics::runs::trend;

use crate::stage::{AxisScale, Chart, Verdict};

/// How sure a rise must be.
pub(super) const LEVEL: f64 = 0.99;
/// A rise over all runs that is too small to tell from an allocator's own.
const SMALLEST: (f64, f64) = (4.0 * MIB, 0.02);
/// Readings without which nothing is said.
const READINGS: usize = 5;
const MIB: f64 = 1_048_576.0;

/// What a series says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Growth {
    /// The first reading, in bytes.
    pub(super) first: f64,
    /// The last.
    pub(super) last: f64,
    /// Runs between them.
    pub(super) runs: usize,
    /// Bytes that a run adds.
    pub(super) slope: f64,
    /// It adds no less than this.
    pub(super) slope_at_least: f64,
    /// What a leak over all runs would have to come to.
    pub(super) smallest: f64,
    /// Whether it is a leak.
    pub(super) leaks: bool,
}

impl Growth {
    /// Judges readings at `level`; `None` where they are too few.
    pub(super) fn of(values: &[f64], level: f64) -> Option<Growth> {
        let rise = trend(values, level).filter(|_| values.len() >= READINGS)?;
        let (first, last, runs) = (values[0], values[values.len() - 1], values.len() - 1);
        let smallest = SMALLEST.0.max(first * SMALLEST.1);
        let late = last - values[runs / 2];
        let goes_on = late >= 0.5 * rise.slope * (runs - runs / 2) as f64;
        let leaks = rise.low > 0.0 && rise.slope * runs as f64 >= smallest && goes_on;
        Some(Growth { first, last, runs, slope: rise.slope, slope_at_least: rise.low, smallest, leaks })
    }

    /// What it rose by over all runs.
    pub(super) fn risen(&self) -> f64 {
        self.slope * self.runs as f64
    }
}

/// So many readings are too few to judge.
pub(super) fn too_few(readings: usize) -> Verdict {
    Verdict::needs(format!("{readings} readings are too few"), "five runs (--runs 5)")
}

/// Readings in bytes after so many runs, a line for each name.
pub(super) fn chart(lines: Vec<(String, Vec<(usize, f64)>)>) -> Chart {
    let drawn = lines
        .into_iter()
        .map(|(name, points)| (name, points.into_iter().map(|(run, bytes)| (run as f64, bytes / MIB)).collect()));
    Chart::Lines { x: "runs".into(), y: "MiB".into(), lines: drawn.collect(), scale: AxisScale::Linear, limit: None }
}
