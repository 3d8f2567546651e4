//! Where a run's progress and report go.

use nobat_runtime::streams::print_bytes;
use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use nobat_check::report;
use nobat_check::stage::TestReport;

use super::args::RunArgs;
use crate::client::Service;

/// A bar over so many requests.
pub(crate) fn progress(requests: u64) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{elapsed:>4} [{bar:40}] {pos}/{len} {msg}")?.progress_chars("=> ");
    Ok(ProgressBar::new(requests).with_style(style))
}

/// Files of the report, opened before anything is asked: one that cannot be written is told
/// before a long run, not after it.
pub(super) struct ReportFiles {
    html: Option<ReportFile>,
    junit: Option<ReportFile>,
}

impl ReportFiles {
    pub(super) fn open(args: &RunArgs) -> Result<ReportFiles> {
        let open = |path: &Option<PathBuf>| path.as_deref().map(ReportFile::open).transpose();
        Ok(ReportFiles { html: open(&args.report)?, junit: open(&args.junit)? })
    }

    /// Writes them all, and says of the first that could not be why.
    pub(super) fn write(self, report: &TestReport) -> Result<()> {
        let html = self.html.map(|file| file.write(&report::html(report)));
        let junit = self.junit.map(|file| file.write(&report::junit(report)));
        html.into_iter().chain(junit).collect::<Vec<Result<()>>>().into_iter().collect()
    }
}

/// A file that is there before its report is. One that was made for a report which never came
/// goes again: an empty file would be read as one.
struct ReportFile {
    path: PathBuf,
    file: File,
    is_waiting: bool,
}

impl ReportFile {
    fn open(path: &Path) -> Result<ReportFile> {
        let (file, is_waiting) = match File::options().create_new(true).write(true).open(path) {
            // An older report stays as it is until there is a newer one.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => (File::options().write(true).open(path), false),
            made => (made, true),
        };
        let file = file.with_context(|| format!("cannot write the report `{}`; nothing was asked", path.display()))?;
        Ok(ReportFile { path: path.to_owned(), file, is_waiting })
    }

    fn write(mut self, text: &str) -> Result<()> {
        self.is_waiting = false;
        let done = self.empty().and_then(|()| self.file.write_all(text.as_bytes()));
        done.with_context(|| format!("cannot write the report `{}`", self.path.display()))
    }

    /// What can be emptied; a pipe cannot.
    fn empty(&mut self) -> std::io::Result<()> {
        match self.file.metadata()?.is_file() {
            true => self.file.rewind().and_then(|()| self.file.set_len(0)),
            false => Ok(()),
        }
    }
}

impl Drop for ReportFile {
    fn drop(&mut self) {
        if self.is_waiting {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// Prints the report: lines for people, JSON for programs.
pub(super) fn show(report: &TestReport, service: &Service) -> Result<()> {
    match service.is_for_people() {
        true => Ok(print_bytes(report::terminal(report, has_colours()).as_bytes())?),
        false => service.print(&serde_json::to_value(report)?, None),
    }
}

/// Whether the terminal shows colours, by its user's wish.
fn has_colours() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
