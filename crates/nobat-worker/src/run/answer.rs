//! How one job ends: its answer packed, or its failure as an outcome, and how long its
//! parts took.

use std::time::{Duration, Instant};

use bytes::Bytes;
use nobat_core::ErrorCode;
use nobat_core::infer::InferResponse;
use nobat_core::job::{JobError, LeasedJob, Outcome};
use nobat_core::retry::RetryPolicy;
use nobat_core::statistics::BatchTimes;
use nobat_core::tensor::Tensor;
use nobat_core::timings::Timings;
use smol_str::SmolStr;

use super::failure::Failure;
use crate::model::Version;
use crate::stats::JobWaits;

/// Packs outputs that are whole tensors: timings, then those of them that were asked for.
/// More than `most` bytes are refused.
pub(crate) fn pack_tensors(
    version: &Version,
    wanted: &[SmolStr],
    tensors: &[Tensor],
    timings: &Timings,
    most: usize,
) -> Result<Bytes, Failure> {
    let asked = || tensors.iter().filter(|tensor| wanted.is_empty() || wanted.contains(&tensor.name));
    let size = asked().map(|tensor| tensor.name.len() + tensor.shape.len() * 3 + 16 + tensor.data.len()).sum();
    within(version, size, most)?;
    let mut out = Vec::with_capacity(size + version.signature.version.len() + 48);
    timings.encode(&mut out);
    InferResponse::encode_head(&mut out, &version.signature.version, asked().count());
    for tensor in asked() {
        InferResponse::encode_output(&mut out, &tensor.name, tensor.datatype, &tensor.shape, tensor.data.len());
        out.extend_from_slice(&tensor.data);
    }
    InferResponse::encode_mark(&mut out, version.mark);
    timings.encode_steps(&mut out);
    Ok(out.into())
}

/// Checks that a job's outputs are no more than may be kept.
pub(super) fn within(version: &Version, bytes: usize, most: usize) -> Result<(), Failure> {
    if bytes > most { Err(Failure::too_large(bytes, most, version)) } else { Ok(()) }
}

/// What becomes of a job that failed, which is counted and logged; `None` where its lease is
/// gone and nothing is left to settle.
pub(crate) fn failed(version: &Version, leased: &LeasedJob, failure: Failure) -> Option<Outcome> {
    let error = JobError { code: failure.code, message: failure.message };
    match failure.code {
        ErrorCode::JobCancelled => {
            log::info!(job = leased.id.to_string(); "{}", error.message);
            None
        }
        ErrorCode::DeadlineExceeded => {
            version.stats.expired();
            Some(Outcome::Expired(error))
        }
        _ => {
            let retry_in = failure.again.then(|| retry_delay(leased.retry, leased.attempt)).flatten();
            if retry_in.is_none() {
                version.stats.ended(error.code);
            }
            let (id, model, attempt) = (leased.id.to_string(), version.signature.name.as_str(), leased.attempt);
            // A caller's own mistake is reported to the caller only.
            let theirs = matches!(error.code, ErrorCode::InvalidTensor | ErrorCode::InvalidParameter);
            let level = if theirs { log::Level::Debug } else { log::Level::Warn };
            log::log!(level, job = id, model, attempt, request = leased.trace.request_id.as_str(), traceparent = leased.trace.traceparent.as_str(); "an attempt failed: {}", error.message);
            Some(Outcome::Failed { error, retry_in })
        }
    }
}

/// When a failed attempt runs again, with jitter; `None` where it was the last.
pub(crate) fn retry_delay(retry: RetryPolicy, attempt: u32) -> Option<Duration> {
    // Without entropy the schedule has no jitter, which only spreads retries less.
    retry.next_delay(attempt, getrandom::u32().unwrap_or(0))
}

/// How long a job that was leased at `since` waited for a run that began at `started`.
pub(crate) fn waits(leased: &LeasedJob, since: Instant, started: Instant) -> JobWaits {
    let queue = Duration::from_micros(leased.leased_at_us.saturating_sub(leased.queued_at_us));
    JobWaits { queue, batch_wait: started.saturating_duration_since(since) }
}

/// How a job's answer came about, its attempts so far included.
pub(crate) fn timings(leased: &LeasedJob, waits: JobWaits, worker: &SmolStr, times: &BatchTimes) -> Timings {
    Timings {
        queue_us: micros(waits.queue),
        batch_wait_us: micros(waits.batch_wait),
        input_us: micros(times.input),
        infer_us: micros(times.infer),
        output_us: micros(times.output),
        batch_size: times.rows,
        attempts: leased.attempt,
        worker: worker.clone(),
        steps: Vec::new(),
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
