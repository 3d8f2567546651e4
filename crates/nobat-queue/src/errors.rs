//! Errors that both stores have in the same words, and what one value can hold.
//!
//! A job that brings more than a store keeps as one value fails alone, with what to do
//! about it. Sent all the same, a store would refuse it each time: Redis closes the
//! connection, SQLite rolls back the whole commit with every other job in it.

use nobat_core::job::{JobError, JobState, NewJob, Outcome};
use nobat_core::{Error, ErrorCode, JobId, Result};

/// A message is for people; what is longer than this helps nobody.
const MESSAGE_MAX: usize = 2_000;

/// Nobody knows this job.
pub(crate) fn not_found(id: JobId) -> Error {
    Error::new(ErrorCode::JobNotFound, format!("there is no job `{id}`")).for_job(id)
}

/// A cancel came too late.
pub(crate) fn already_finished(id: JobId, state: JobState) -> Error {
    let message = format!("job `{id}` is {} and cannot be cancelled", state.as_str());
    Error::new(ErrorCode::JobAlreadyFinished, message).for_job(id)
}

/// A job ended, and its record went before its caller read it.
pub(crate) fn result_expired(id: JobId) -> Error {
    let message = format!("job `{id}` ended and its result expired before it was read; give it a longer result_ttl");
    Error::new(ErrorCode::ResultExpired, message).for_job(id)
}

/// A key came again with another request.
pub(crate) fn idempotency_mismatch() -> Error {
    let message = "this idempotency key came with another request before (body or parameters differ); use a new key";
    Error::new(ErrorCode::IdempotencyMismatch, message)
}

/// The process lets go of the queue.
pub(crate) fn closing() -> Error {
    Error::new(ErrorCode::QueueUnavailable, "the queue is closed: the process is shutting down")
}

/// An outcome that the store can keep; `limit` names what bounds it to `most` bytes.
pub(crate) fn bounded(outcome: Outcome, most: usize, limit: &str) -> Outcome {
    match outcome {
        Outcome::Succeeded(result) if result.len() > most => {
            let message = format!(
                "the result has {} bytes and the store keeps {most} at most ({limit}); ask for fewer outputs or send fewer rows per request",
                result.len()
            );
            Outcome::Failed { error: JobError { code: ErrorCode::PayloadTooLarge, message }, retry_in: None }
        }
        Outcome::Failed { error, retry_in } => Outcome::Failed { error: clipped(error), retry_in },
        Outcome::Expired(error) => Outcome::Expired(clipped(error)),
        other => other,
    }
}

/// Refuses a job whose input the store cannot keep.
///
/// # Errors
/// `payload_too_large` with both sizes.
pub(crate) fn check_input(job: &NewJob, most: usize, limit: &str) -> Result<()> {
    if job.payload.len() <= most {
        return Ok(());
    }
    let message = format!(
        "the input has {} bytes and the store keeps {most} at most ({limit}); send fewer rows per request",
        job.payload.len()
    );
    Err(Error::new(ErrorCode::PayloadTooLarge, message))
}

/// Refuses a document that the store cannot keep.
///
/// # Errors
/// `payload_too_large` naming it.
pub(crate) fn check_document(name: &str, bytes: usize, most: usize) -> Result<()> {
    if bytes <= most {
        return Ok(());
    }
    let message = format!("`{name}` has {bytes} bytes and the store keeps {most} at most; make it smaller");
    Err(Error::new(ErrorCode::PayloadTooLarge, message))
}

fn clipped(mut error: JobError) -> JobError {
    error.message.truncate(error.message.floor_char_boundary(MESSAGE_MAX));
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_over_the_limit_fails_its_job_and_says_what_to_do() {
        let fits = bounded(Outcome::Succeeded(vec![0; 10].into()), 10, "a limit");
        assert!(matches!(fits, Outcome::Succeeded(_)));
        match bounded(Outcome::Succeeded(vec![0; 11].into()), 10, "a limit") {
            Outcome::Failed { error, retry_in: None } => {
                assert_eq!(error.code, ErrorCode::PayloadTooLarge);
                assert!(
                    error.message.contains("11 bytes") && error.message.contains("fewer rows"),
                    "{}",
                    error.message
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        let error = JobError { code: ErrorCode::Internal, message: "é".repeat(MESSAGE_MAX) };
        match bounded(Outcome::Expired(error), 10, "a limit") {
            Outcome::Expired(error) => assert_eq!(error.message, "é".repeat(MESSAGE_MAX / 2)),
            other => panic!("{other:?}"),
        }
    }
}
