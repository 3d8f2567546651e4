//! How the binaries log, as an operator may set it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How the binaries log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// A log4rs YAML file; empty: the built-in one.
    pub config: PathBuf,
    /// Folder of the daily files; empty: console only.
    pub dir: PathBuf,
    /// How a line is written.
    pub format: LogFormat,
    /// Levels over the file's: `debug`, or `info,nobat_queue=trace`; empty: the file's.
    pub level: String,
}

impl LogSettings {
    /// With a folder for the daily files where none is named: systemd's
    /// LogsDirectory=, else none.
    #[must_use]
    pub fn or_service_dir(mut self) -> LogSettings {
        if self.dir.as_os_str().is_empty() {
            self.dir = std::env::var_os("LOGS_DIRECTORY").unwrap_or_default().into();
        }
        self
    }
}

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// `time LEVEL target message key=value …`
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
