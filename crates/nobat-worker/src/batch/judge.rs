//! What a version's controller and its recent runs say of waiting jobs: how large the next
//! run may be, and which jobs cannot be in time.

use std::time::{Duration, Instant};

use nobat_core::ErrorCode;
use nobat_core::job::{JobError, Outcome};

use super::planner::{Limits, Slot};
use super::triage::{Triage, triage};
use crate::model::Version;

/// Triage of a bucket, and how long a run of the size that it allows takes.
pub(super) fn judge(version: &Version, slots: &[Slot], bucket: u32, now: Instant) -> (Triage, Option<Duration>) {
    let mut controller = version.controller.lock();
    let cap = if version.batches() { controller.cap() } else { 1 };
    let line = controller.latency().p75(now);
    let run = |rows| line.map(|line| line.run(rows));
    let own = || slots.iter().filter(|slot| slot.bucket == bucket);
    let least = own().map(|slot| slot.rows).min().unwrap_or(1);
    let mut verdict = triage(slots, bucket, cap, run, controller.latency().fastest(least, now), now);
    if verdict.hopeless.len() == own().count() {
        // Nothing of the bucket would run, so nothing new would be measured.
        let passed = |&at: &usize| slots[at].deadline.is_some_and(|deadline| deadline <= now);
        if !verdict.hopeless.iter().all(passed) && controller.latency().allow_test_run(now) {
            verdict.hopeless.retain(passed);
            verdict.rows = cap;
        }
    }
    let run = run(verdict.rows);
    (verdict, run)
}

/// What the version's controller allows a run now, of `most` rows at most.
pub(super) fn limits(version: &Version, most: u32, now: Instant) -> Limits {
    let mut controller = version.controller.lock();
    let (cap, delay) = match version.batches() {
        true => (controller.cap(), controller.delay()),
        // One job, however large: the first one is always picked.
        false => (1, Duration::ZERO),
    };
    let rows = cap.min(most);
    let run = if delay.is_zero() { None } else { controller.run(rows, now) };
    Limits { rows, bytes: version.max_batch_bytes, delay, run }
}

/// How a job ends that cannot meet `deadline`, where a run takes `run`.
pub(super) fn too_late(deadline: Option<Instant>, run: Option<Duration>, now: Instant) -> Outcome {
    let left = deadline.map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(now));
    let message = match run {
        Some(run) if !left.is_zero() => format!(
            "the deadline is in {:.1} ms and a run takes {:.1} ms; allow more time or send less",
            left.as_secs_f64() * 1e3,
            run.as_secs_f64() * 1e3
        ),
        _ => "the deadline passed while the job waited; allow more time or send less".to_owned(),
    };
    Outcome::Expired(JobError { code: ErrorCode::DeadlineExceeded, message })
}
