//! What is known of a file.

use nobat_core::{Error, OwnerId, Result};
use serde::{Deserialize, Serialize};

/// One file. Stored as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileRecord {
    /// `file-…`.
    pub id: String,
    /// Whose it is.
    pub owner: OwnerId,
    /// Its size.
    pub bytes: u64,
    /// The name that its owner gave it.
    pub filename: String,
    /// What it is for: `batch`, `batch_output`.
    pub purpose: String,
    /// Since when it is there, seconds since 1970 by the store's clock.
    pub created_at: u64,
    /// When it is deleted.
    pub expires_at: u64,
}

impl FileRecord {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::internal(format!("a file's record cannot be written: {e}")))
    }
}

/// Whether a text has the form of an id, which is a name in the folder.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with("file-")
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
