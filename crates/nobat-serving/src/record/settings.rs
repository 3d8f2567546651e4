//! What an operator may set about the recording of requests.

use nobat_core::{Error, Result};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// What an operator may set about the recording of requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordConfig {
    /// Where the files go, a folder per model; empty: nothing is recorded.
    pub folder: String,
    /// Models and routes of which requests are recorded, by the name that callers use; `*`: all.
    pub models: Vec<SmolStr>,
    /// Share of requests that are recorded.
    pub share: f64,
    /// Most requests of one model that are recorded per second.
    pub rate_per_s: f64,
    /// Largest row that is recorded, in bytes of its inputs; larger ones are left out.
    pub max_row_bytes: usize,
    /// A file of this size is followed by a new one.
    pub max_file_bytes: u64,
    /// Bytes of one model's files; the oldest go first.
    pub max_model_bytes: u64,
    /// Files older than this are removed, in seconds.
    pub max_age_s: u64,
    /// Inputs whose values are not written, by name.
    pub redact: Vec<SmolStr>,
    /// Write which caller sent it: its key's public id, never the key.
    pub owner: bool,
}

impl Default for RecordConfig {
    fn default() -> RecordConfig {
        RecordConfig {
            folder: String::new(),
            models: vec!["*".into()],
            share: 0.01,
            rate_per_s: 10.0,
            max_row_bytes: 64 << 10,
            max_file_bytes: 16 << 20,
            max_model_bytes: 256 << 20,
            max_age_s: 7 * 86_400,
            redact: Vec::new(),
            owner: false,
        }
    }
}

impl RecordConfig {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the key and the remedy.
    pub fn validate(&self) -> Result<()> {
        let refuse = |why: String| Err(Error::invalid(why));
        if !(self.share > 0.0 && self.share <= 1.0) {
            return refuse(format!("record.share is {}; give more than 0 and at most 1, such as 0.01", self.share));
        }
        if !(self.rate_per_s > 0.0 && self.rate_per_s.is_finite()) {
            return refuse(format!("record.rate_per_s is {}; give more than 0, such as 10", self.rate_per_s));
        }
        if self.max_row_bytes == 0 || self.max_age_s == 0 {
            return refuse("record.max_row_bytes and record.max_age_s must be 1 or more; to record nothing leave record.folder empty".into());
        }
        // A line is longer than its row: a byte may take four characters.
        let least = 8 * self.max_row_bytes as u64;
        if self.max_file_bytes < least || self.max_model_bytes < self.max_file_bytes {
            return refuse(format!(
                "record.max_row_bytes {} asks for record.max_file_bytes of {least} or more, and record.max_model_bytes of at least a file; they are {} and {}",
                self.max_row_bytes, self.max_file_bytes, self.max_model_bytes
            ));
        }
        Ok(())
    }

    /// Whether requests under this name are recorded.
    pub(super) fn covers(&self, name: &str) -> bool {
        self.models.iter().any(|model| model == "*" || model == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_are_refused_by_name() {
        let refused = |change: fn(&mut RecordConfig)| {
            let mut config = RecordConfig::default();
            config.validate().expect("the defaults");
            change(&mut config);
            config.validate().expect_err("refused").message
        };
        assert!(refused(|config| config.share = 1.5).contains("record.share is 1.5"));
        assert!(refused(|config| config.share = f64::NAN).contains("record.share is NaN"));
        assert!(refused(|config| config.rate_per_s = 0.0).contains("record.rate_per_s is 0"));
        assert!(refused(|config| config.max_age_s = 0).contains("record.max_age_s"));
        assert!(refused(|config| config.max_row_bytes = 64 << 20).contains("record.max_file_bytes of 536870912"));
    }
}
