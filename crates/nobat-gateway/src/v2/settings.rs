//! Extensions that clients ask about and nobat does not keep: shared memory,
//! trace and log settings. They can be read; none can be changed here.

use nobat_core::{Error, ErrorCode};

/// Trace settings as clients read them: tracing of this kind is off.
pub(crate) const TRACE: [(&str, &str); 5] =
    [("trace_level", "OFF"), ("trace_rate", "1000"), ("trace_count", "-1"), ("log_frequency", "0"), ("trace_file", "")];

/// Which log levels are written.
pub(crate) fn log_levels() -> [(&'static str, bool); 3] {
    [
        ("log_info", log::log_enabled!(log::Level::Info)),
        ("log_warning", log::log_enabled!(log::Level::Warn)),
        ("log_error", log::log_enabled!(log::Level::Error)),
    ]
}

/// The refusal of a change to `kind` settings.
pub(crate) fn read_only(kind: &str) -> Error {
    Error::new(
        ErrorCode::Unsupported,
        format!("{kind} settings cannot be changed here; set them where the server is started"),
    )
}

/// The refusal of a shared memory region.
pub(crate) fn no_shared_memory() -> Error {
    Error::new(ErrorCode::Unsupported, "shared memory is not supported; send the tensor in the request")
}
