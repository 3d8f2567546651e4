//! What one value of a store can hold, and what becomes of more: the job that
//! brings it fails alone, with what to do about it. Sent all the same, a store
//! would refuse it each time: Redis closes the connection, SQLite rolls back
//! the whole commit with every other job in it.

use nobat_core::job::{JobError, NewJob, Outcome};
use nobat_core::{Error, ErrorCode, Result};

/// A message is for people; what is longer than this helps nobody.
const MESSAGE_MAX: usize = 2_000;

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
pub(crate) fn check(job: &NewJob, most: usize, limit: &str) -> Result<()> {
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
