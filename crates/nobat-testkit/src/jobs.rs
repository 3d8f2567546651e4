//! Jobs to enqueue, and what a worker makes of them.

use nobat_core::OwnerId;
use nobat_core::job::{JobOptions, JobResult, LeasedJob, NewJob, Outcome, Settlement};

/// A plain job of the model `digits`.
pub fn job(payload: impl Into<Vec<u8>>) -> NewJob {
    NewJob {
        model: "digits".into(),
        owner: OwnerId::ANONYMOUS,
        options: JobOptions::default(),
        payload: payload.into().into(),
        rows: 1,
        trace: "".into(),
    }
}

/// A plain job with options.
pub fn job_with(payload: impl Into<Vec<u8>>, options: JobOptions) -> NewJob {
    NewJob { options, ..job(payload) }
}

/// Succeeds with the job's own payload as outputs.
pub fn echo(job: &LeasedJob) -> Settlement {
    let result = JobResult { timings: Default::default(), outputs: job.payload.clone() };
    Settlement { id: job.id, token: job.token, outcome: Outcome::Succeeded(result.encode()) }
}
