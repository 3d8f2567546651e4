//! When a stage began and how long it took.

use std::time::Instant;

use nobat_runtime::now_ms;

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

    /// When it was started: milliseconds since 1970.
    pub fn started_at_ms(&self) -> u64 {
        self.started_at_ms
    }

    /// The report of what was found since.
    pub fn stop(self, findings: Vec<Finding>, notes: Vec<String>) -> StageReport {
        let StageClock { stage, at, started_at_ms } = self;
        StageReport { stage, findings, notes, started_at_ms, took_ms: at.elapsed().as_millis() as u64 }
    }
}
