//! Ids that cannot be guessed.

use std::fmt::Write;

use nobat_core::{Error, Result};

/// `PREFIX` and 128 random bits as hexadecimal digits.
///
/// # Errors
/// `internal` when the system has no random numbers.
pub(crate) fn random_id(prefix: &str) -> Result<String> {
    let mut bits = [0u8; 16];
    getrandom::fill(&mut bits).map_err(|error| Error::internal(format!("no random numbers: {error}")))?;
    let mut id = prefix.to_owned();
    for byte in bits {
        // Writing to a string cannot fail.
        let _ = write!(id, "{byte:02x}");
    }
    Ok(id)
}
