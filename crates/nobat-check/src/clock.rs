//! When a stage began and how long it took.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::stage::{Finding, StageReport, TestStage};

/// Started with a stage, stopped into its report.
pub struct StageClock {
    stage: TestStage,
    at: Instant,
    started_at_ms: u64,
}

impl StageClock {
    /// Now.
    pub fn start(stage: TestStage) -> StageClock {
        StageClock { stage, at: Instant::now(), started_at_ms: now_ms() }
    }

    /// The report of what was found since.
    pub fn stop(self, findings: Vec<Finding>, notes: Vec<String>) -> StageReport {
        let StageClock { stage, at, started_at_ms } = self;
        StageReport { stage, findings, notes, started_at_ms, took_ms: at.elapsed().as_millis() as u64 }
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
