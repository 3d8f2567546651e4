//! Where a run's progress and report go.

use std::fs::File;
use std::io::{IsTerminal, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use nobat_check::report;
use nobat_check::stage::TestReport;

use super::args::RunArgs;
use crate::client::{Service, print};

/// A bar over so many requests.
pub(crate) fn progress(requests: u64) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{elapsed:>4} [{bar:40}] {pos}/{len} {msg}")?.progress_chars("=> ");
    Ok(ProgressBar::new(requests).with_style(style))
}

/// Files of the report, opened before anything is asked: one that cannot be written is told
/// before a long run, not after it.
pub(super) struct ReportFiles {
    html: Option<(PathBuf, File)>,
    junit: Option<(PathBuf, File)>,
}

impl ReportFiles {
    pub(super) fn open(args: &RunArgs) -> Result<ReportFiles> {
        let open = |path: &Option<PathBuf>| path.as_deref().map(writable).transpose();
        Ok(ReportFiles { html: open(&args.report)?, junit: open(&args.junit)? })
    }

    /// Writes them all, and says of the first that could not be why.
    pub(super) fn write(self, report: &TestReport) -> Result<()> {
        let html = self.html.map(|file| (file, report::html(report)));
        let junit = self.junit.map(|file| (file, report::junit(report)));
        let done: Vec<Result<()>> =
            html.into_iter().chain(junit).map(|((path, file), text)| replace(&path, file, &text)).collect();
        done.into_iter().collect()
    }
}

fn writable(path: &Path) -> Result<(PathBuf, File)> {
    // An older report stays as it is until there is a newer one.
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.with_context(|| format!("cannot write the report `{}`; nothing was asked", path.display()))?;
    Ok((path.to_owned(), file))
}

fn replace(path: &Path, mut file: File, text: &str) -> Result<()> {
    let done = file.rewind().and_then(|()| file.set_len(0)).and_then(|()| file.write_all(text.as_bytes()));
    done.with_context(|| format!("cannot write the report `{}`", path.display()))
}

/// Prints the report: lines for people, JSON for programs.
pub(super) fn show(report: &TestReport, service: &Service) -> Result<()> {
    match service.is_for_people() {
        true => print(report::terminal(report, has_colours()).as_bytes()),
        false => service.print(&serde_json::to_value(report)?, None),
    }
}

/// Whether the terminal shows colours, by its user's wish.
fn has_colours() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
