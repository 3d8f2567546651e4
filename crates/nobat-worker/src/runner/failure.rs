//! Why a run failed, in words that say what to do.

use nobat_core::ErrorCode;

use crate::engine::RunError;
use crate::model::Version;
use crate::watchdog::Ended;

/// A failed run of several rows or one.
pub(super) struct Failure {
    pub(super) code: ErrorCode,
    pub(super) message: String,
    /// Whether another attempt may fare better.
    pub(super) again: bool,
}

impl Failure {
    pub(super) fn run(error: RunError, version: &Version) -> Failure {
        let (model, number) = (&version.signature.name, &version.signature.version);
        match error {
            RunError::Failed(reason) => Failure {
                code: ErrorCode::InferenceFailed,
                message: format!("model `{model}` version {number} failed: {reason}"),
                again: true,
            },
            RunError::Ended(Ended::TimedOut) => Failure {
                code: ErrorCode::DeadlineExceeded,
                message: format!("the run of model `{model}` was ended at the job's deadline; allow more time"),
                again: false,
            },
            RunError::Ended(Ended::Abandoned) => Failure {
                code: ErrorCode::JobCancelled,
                message: format!("the run of model `{model}` was ended: its job is cancelled or runs elsewhere"),
                again: false,
            },
        }
    }

    pub(super) fn invalid(message: String) -> Failure {
        Failure { code: ErrorCode::InvalidTensor, message, again: false }
    }
}
