//! What an operator may set about files.

use std::path::PathBuf;

use nobat_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Where uploaded files are kept, and how much of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FileSettings {
    /// The folder of the files, which all gateways of a deployment share; empty: `files`
    /// in the folder of the embedded store, and none around Redis.
    pub folder: PathBuf,
    /// Most bytes of one file.
    pub max_file_bytes: u64,
    /// Most bytes of all files together.
    pub max_bytes: u64,
    /// Most files.
    pub max_files: usize,
    /// How long a file, or the record of a batch that has ended, is kept, in seconds.
    pub keep_s: u32,
}

impl Default for FileSettings {
    fn default() -> FileSettings {
        FileSettings {
            folder: PathBuf::new(),
            max_file_bytes: 200 << 20,
            max_bytes: 10 << 30,
            max_files: 10_000,
            keep_s: 30 * 86_400,
        }
    }
}

impl FileSettings {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the key and the remedy.
    pub fn validate(&self) -> Result<()> {
        if self.max_file_bytes > self.max_bytes {
            return Err(Error::invalid(
                "gateway.files.max_file_bytes is over gateway.files.max_bytes: no file of that size could come in; raise \
                 max_bytes, or lower max_file_bytes",
            ));
        }
        if self.max_file_bytes == 0 || self.max_files == 0 || self.keep_s == 0 {
            return Err(Error::invalid(
                "gateway.files.max_file_bytes, max_files and keep_s take 1 or more; to have no files around Redis leave \
                 gateway.files.folder empty",
            ));
        }
        Ok(())
    }
}
