//! What is refused before anything is sent.

use nobat_core::{Error, ErrorCode};

/// A setting or an input that cannot be used, and why.
pub(super) fn refuse(why: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidParameter, why.into())
}
