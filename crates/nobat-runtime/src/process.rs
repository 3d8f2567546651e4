//! How a program of nobat begins, is told to log, and ends.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use tokio::runtime::{Builder, Runtime};

use crate::logging::LogSettings;
use crate::stop::Stop;
use crate::streams::tell;

/// The flags of every program about its log.
#[derive(clap::Args, Clone, Debug)]
pub struct LogFlags {
    /// Levels over the configured ones, such as debug or info,nobat_queue=trace.
    #[arg(long, env = "NOBAT_LOG_LEVEL", value_name = "LEVELS")]
    log_level: Option<String>,
    /// Folder of the daily log files.
    #[arg(long, env = "NOBAT_LOG_DIR", value_name = "DIR")]
    log_dir: Option<PathBuf>,
}

impl LogFlags {
    /// Sets what was given.
    pub fn over(self, settings: &mut LogSettings) {
        self.log_level.into_iter().for_each(|level| settings.level = level);
        self.log_dir.into_iter().for_each(|dir| settings.dir = dir);
    }
}

/// The runtime of a program's main thread, and the stop that is heard from here on:
/// first of all, so that none is missed during the start.
///
/// # Errors
/// When the system refuses either.
pub fn begin() -> io::Result<(Runtime, Stop)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let stop = runtime.block_on(async { Stop::listen() })?;
    Ok((runtime, stop))
}

/// A program's exit code; what went wrong is told on stderr, what was counted in the log.
pub fn end<E: Display>(program: &str, done: Result<(), E>) -> ExitCode {
    log::logger().flush();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("{program}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
