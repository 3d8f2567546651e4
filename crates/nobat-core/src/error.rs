//! The closed set of error codes, and the one error type that carries them.
//!
//! Owns the codes and their stable spelling. It does not own how a protocol
//! renders them: the gateway maps code to HTTP status and to gRPC status in one
//! exhaustive match each. Use [`Error`] wherever a caller may have to act on
//! the failure; `anyhow` is for `main` functions and the command line.

use std::time::Duration;

use crate::id::JobId;
use crate::spelled::spelled;

/// Result of an operation that fails with a coded [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

spelled! {
    /// Why a request or a job was refused or failed. The set is closed.
    pub enum ErrorCode {
        /// The body is not JSON, or not the JSON this route takes.
        InvalidJson = "invalid_json",
        /// A query, header or field value is out of range or unknown.
        InvalidParameter = "invalid_parameter",
        /// A tensor does not fit the model's signature.
        InvalidTensor = "invalid_tensor",
        /// No or unusable credentials.
        Unauthenticated = "unauthenticated",
        /// The credentials do not cover this call.
        PermissionDenied = "permission_denied",
        /// No worker serves a model of this name.
        ModelNotFound = "model_not_found",
        /// The model has no such version.
        VersionNotFound = "version_not_found",
        /// No such job, or another caller's.
        JobNotFound = "job_not_found",
        /// No such path or exchange route.
        RouteNotFound = "route_not_found",
        /// The path exists, the method does not.
        MethodNotAllowed = "method_not_allowed",
        /// The job finished and its result has outlived its ttl.
        ResultExpired = "result_expired",
        /// A request with this idempotency key is still being accepted.
        IdempotencyInProgress = "idempotency_in_progress",
        /// The job is in a terminal state and cannot change.
        JobAlreadyFinished = "job_already_finished",
        /// The job was cancelled.
        JobCancelled = "job_cancelled",
        /// The body or a tensor is over a limit.
        PayloadTooLarge = "payload_too_large",
        /// The body did not arrive in time.
        RequestTimeout = "request_timeout",
        /// The content or transfer encoding is not supported.
        UnsupportedEncoding = "unsupported_encoding",
        /// The body is not of a type that this call takes.
        UnsupportedMediaType = "unsupported_media_type",
        /// The same idempotency key came with another body.
        IdempotencyMismatch = "idempotency_mismatch",
        /// This caller's request rate is over its limit.
        RateLimited = "rate_limited",
        /// This caller's quota is used up.
        QuotaExceeded = "quota_exceeded",
        /// A fault of ours.
        Internal = "internal",
        /// The model's run failed.
        InferenceFailed = "inference_failed",
        /// A worker settled a job with something that cannot be read.
        InvalidWorkerResult = "invalid_worker_result",
        /// The queue's length limit is reached.
        QueueFull = "queue_full",
        /// The queue's store cannot be reached.
        QueueUnavailable = "queue_unavailable",
        /// The model is loading or failed to load.
        ModelNotReady = "model_not_ready",
        /// No live worker serves this model.
        NoWorker = "no_worker",
        /// The process is shutting down.
        Draining = "draining",
        /// The deadline passed, or cannot be met.
        DeadlineExceeded = "deadline_exceeded",
        /// The protocol has this call, nobat does not.
        Unsupported = "unsupported",
    }
}

/// A refusal or failure: a code to match on and a message that names the value
/// and the remedy (lowercase, no final stop).
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind of failure this is.
    pub code: ErrorCode,
    /// The value at fault and the remedy.
    pub message: String,
    /// When trying again may help.
    pub retry_after: Option<Duration>,
    /// The job this is about, where there is one.
    pub job: Option<JobId>,
}

/// The beginning of what a caller wrote, as far as a message repeats it.
pub fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(80)]
}

impl Error {
    /// Makes an error of `code` with a message that names value and remedy.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Error {
        Error { code, message: message.into(), retry_after: None, job: None }
    }

    /// An `invalid_parameter` with a message that names value and remedy.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorCode::InvalidParameter, message)
    }

    /// An `internal`: something of ours, or of the machine, that was not to fail.
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(ErrorCode::Internal, message)
    }

    /// Says when trying again may help.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Error {
        self.retry_after = Some(after);
        self
    }

    /// Names the job this is about.
    #[must_use]
    pub fn for_job(mut self, job: JobId) -> Error {
        self.job = Some(job);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_parses_back_and_serializes_as_its_spelling() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(code));
            let json = serde_json::to_string(&code).expect("a unit variant serializes");
            assert_eq!(json, format!("\"{}\"", code.as_str()));
        }
    }
}
