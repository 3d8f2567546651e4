//! How refusals look in gRPC: by the table that HTTP has too.

use nobat_core::{Error, ErrorCode};
use nobat_serving::limits::Quota;
use tonic::Status;

use crate::error::grpc_code;

/// The status of an error, by the shared table; its code travels beside it, and when
/// to come again.
pub(super) fn status(error: Error) -> Status {
    let retry_after = error.retry_after;
    let mut status = Status::new(grpc_code(error.code), error.message);
    let metadata = status.metadata_mut();
    if let Ok(code) = error.code.as_str().parse() {
        metadata.insert("nobat-error-code", code);
    }
    if let Some(after) = retry_after {
        metadata.insert("retry-after", (after.as_secs_f64().ceil().max(1.0) as u64).into());
    }
    status
}

/// As [`status`], with where the caller's limit stands.
pub(super) fn refused(error: Error, quota: Option<Quota>) -> Status {
    let is_limit = matches!(error.code, ErrorCode::RateLimited | ErrorCode::QuotaExceeded);
    let mut status = status(error);
    for (name, value) in quota.filter(|_| is_limit).iter().flat_map(Quota::headers) {
        if let Ok(value) = value.parse() {
            status.metadata_mut().insert(name, value);
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_the_code_of_the_error() {
        let status = status(Error::new(ErrorCode::QueueFull, "the queue is full"));
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(status.metadata().get("nobat-error-code").map(|code| code.as_bytes()), Some(&b"queue_full"[..]));
    }
}
