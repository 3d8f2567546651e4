//! The files of the recording, written on a thread of their own.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use chrono::Utc;
use prometheus::IntCounterVec;
use smol_str::SmolStr;

use super::line::RecordedRow;
use super::settings::RecordConfig;

/// How long a line waits in memory for its file.
const FLUSH: Duration = Duration::from_secs(1);
/// How often files are looked at for their age.
const PRUNE: Duration = Duration::from_secs(60);
/// How long a disk that failed is left alone.
const AGAIN: Duration = Duration::from_secs(10);
/// A file is written to no longer, so that rows of days ago are not kept young by today's.
const LONGEST: Duration = Duration::from_secs(86_400);
/// Files open at a time; the models of a deployment are few.
const MOST_OPEN: usize = 64;

/// The files, one open per model.
pub(super) struct RecordFiles {
    config: RecordConfig,
    written: IntCounterVec,
    dropped: IntCounterVec,
    open: HashMap<SmolStr, RecordFile>,
    /// Numbers the files of this process.
    number: u64,
    failed_at: Option<Instant>,
    create: fn(&Path) -> io::Result<File>,
}

struct RecordFile {
    path: PathBuf,
    begun: Instant,
    out: BufWriter<File>,
    bytes: u64,
    /// Rows since the last flush.
    rows: u64,
}

impl RecordFiles {
    pub(super) fn new(config: RecordConfig, written: IntCounterVec, dropped: IntCounterVec) -> RecordFiles {
        RecordFiles { config, written, dropped, open: HashMap::new(), number: 0, failed_at: None, create }
    }

    /// Writes rows until nobody sends any more.
    pub(super) fn write(mut self, rows: &Receiver<RecordedRow>) {
        let (mut flushed, mut pruned) = (Instant::now(), None::<Instant>);
        loop {
            let received = rows.recv_timeout(FLUSH);
            if let Ok(row) = &received {
                self.add(row, Instant::now());
            }
            let ended = matches!(received, Err(RecvTimeoutError::Disconnected));
            if ended || flushed.elapsed() >= FLUSH {
                flushed = Instant::now();
                self.flush(flushed);
            }
            if pruned.is_none_or(|at| at.elapsed() >= PRUNE) {
                pruned = Some(Instant::now());
                self.prune(SystemTime::now());
            }
            if ended {
                return;
            }
        }
    }

    fn add(&mut self, row: &RecordedRow, now: Instant) {
        if self.failed_at.is_some_and(|at| now.saturating_duration_since(at) < AGAIN) {
            return self.dropped.with_label_values(&["failed"]).inc();
        }
        let line = row.line();
        let added = self.file(&row.name, line.len() as u64, now).and_then(|file| {
            file.out.write_all(&line)?;
            file.bytes += line.len() as u64;
            file.rows += 1;
            Ok(())
        });
        if let Err(error) = added {
            self.dropped.with_label_values(&["failed"]).inc();
            self.fail(&row.name, &error, now);
        }
    }

    /// The model's open file, a new one where that is full or old.
    fn file(&mut self, name: &SmolStr, bytes: u64, now: Instant) -> io::Result<&mut RecordFile> {
        let most = self.config.max_file_bytes;
        let longest = LONGEST.min(Duration::from_secs(self.config.max_age_s));
        let is_over = |file: &RecordFile| {
            file.bytes > 0 && (file.bytes + bytes > most || now.saturating_duration_since(file.begun) >= longest)
        };
        let is_new = self.open.get(name).is_none_or(is_over);
        if is_new {
            if self.open.len() >= MOST_OPEN || self.open.contains_key(name) {
                self.flush(Instant::now());
                self.open.clear();
            }
            let folder = Path::new(&self.config.folder).join(name.as_str());
            make_folder(&folder)?;
            prune(&folder, &self.config, most, SystemTime::now());
            self.number += 1;
            let begun = Utc::now().format("%Y%m%dT%H%M%S%3f");
            let file = folder.join(format!("{begun}-{}-{}.jsonl", std::process::id(), self.number));
            let out = BufWriter::new((self.create)(&file)?);
            self.open.insert(name.clone(), RecordFile { path: file, begun: now, out, bytes: 0, rows: 0 });
        }
        self.open.get_mut(name).ok_or_else(|| io::Error::other("the file was closed"))
    }

    fn flush(&mut self, now: Instant) {
        let mut failed = Vec::new();
        for (name, file) in &mut self.open {
            let rows = std::mem::take(&mut file.rows);
            match file.out.flush() {
                Ok(()) if rows > 0 => {
                    self.written.with_label_values(&[name.as_str()]).inc_by(rows);
                    if self.failed_at.take().is_some() {
                        log::info!("recording: `{}` can be written again", self.config.folder);
                    }
                }
                Ok(()) => {}
                Err(error) => failed.push((name.clone(), rows, error)),
            }
        }
        for (name, rows, error) in failed {
            self.dropped.with_label_values(&["failed"]).inc_by(rows);
            self.fail(&name, &error, now);
        }
    }

    /// Tells of a disk that cannot be written, and closes the file: a new one is tried later.
    fn fail(&mut self, name: &SmolStr, error: &io::Error, now: Instant) {
        if let Some(file) = self.open.remove(name) {
            // What it still holds is lost; a drop would try to write it again.
            drop(file.out.into_parts());
        }
        if self.failed_at.replace(now).is_none() {
            log::error!(
                "recording: requests to `{name}` cannot be written under `{}`: {error}; serving goes on, the recording is tried again every {} s",
                self.config.folder,
                AGAIN.as_secs()
            );
        }
    }

    fn prune(&mut self, now: SystemTime) {
        for folder in std::fs::read_dir(&self.config.folder).into_iter().flatten().flatten() {
            prune(&folder.path(), &self.config, 0, now);
        }
        // What is removed, by whomever, is not written to any more.
        self.open.retain(|_, file| file.path.exists());
    }
}

/// Removes files that are too old, and the oldest until there is room for one of `needed` bytes.
fn prune(folder: &Path, config: &RecordConfig, needed: u64, now: SystemTime) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<(PathBuf, u64, SystemTime)> = entries
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "jsonl"))
        .filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            Some((entry.path(), meta.len(), meta.modified().ok()?))
        })
        .collect();
    // Their names begin with when they were begun.
    files.sort();
    let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    let oldest = Duration::from_secs(config.max_age_s);
    for (file, own, changed) in files {
        let is_old = now.duration_since(changed).is_ok_and(|age| age > oldest);
        if !is_old && bytes + needed <= config.max_model_bytes {
            continue;
        }
        match std::fs::remove_file(&file) {
            Ok(()) => bytes -= own,
            Err(error) => log::warn!("recording: `{}` cannot be removed: {error}", file.display()),
        }
    }
}

/// Only the server's own user reads what callers sent.
fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

fn create(file: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create_new(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::line::RecordedInput;
    use nobat_core::tensor::{Datatype, Tensor};
    use prometheus::opts;

    fn files(folder: &Path, change: fn(&mut RecordConfig)) -> RecordFiles {
        let counter = |name: &str, label: &str| IntCounterVec::new(opts!(name, "x"), &[label]).expect("a counter");
        let mut config = RecordConfig { folder: folder.display().to_string(), ..RecordConfig::default() };
        change(&mut config);
        RecordFiles::new(config, counter("written", "model"), counter("dropped", "reason"))
    }

    fn row(name: &str) -> RecordedRow {
        let tensor = Tensor {
            name: "x".into(),
            datatype: Datatype::Uint8,
            shape: [1, 100].as_slice().into(),
            data: vec![7; 100].into(),
        };
        let inputs = vec![RecordedInput { tensor, redacted: false }];
        RecordedRow { name: name.into(), version: "".into(), at: Utc::now(), owner: None, inputs }
    }

    fn written(folder: &Path) -> Vec<String> {
        let mut paths: Vec<_> =
            std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
        paths.sort();
        paths.iter().map(|path| std::fs::read_to_string(path).expect("a file")).collect()
    }

    #[test]
    fn files_follow_each_other_and_the_oldest_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let small = |config: &mut RecordConfig| (config.max_file_bytes, config.max_model_bytes) = (1_000, 3_000);
        let mut files = files(folder.path(), small);
        (0..40).for_each(|_| files.add(&row("m"), Instant::now()));
        files.flush(Instant::now());
        let kept = written(&folder.path().join("m"));
        assert!(kept.len() <= 3 && kept.iter().all(|text| text.len() <= 1_000), "{}", kept.len());
        assert_eq!(files.written.with_label_values(&["m"]).get(), 40);
        let whole = |text: &String| text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok());
        assert!(kept.iter().all(whole));
        // A week later all of them are too old; what is no recording stays.
        std::fs::write(folder.path().join("m/notes.txt"), "kept").expect("written");
        files.prune(SystemTime::now() + Duration::from_secs(8 * 86_400));
        assert_eq!(written(&folder.path().join("m")), ["kept"]);
        files.add(&row("m"), Instant::now());
        files.flush(Instant::now());
        assert_eq!(written(&folder.path().join("m")).len(), 2, "a new file, not the removed one");
    }

    #[test]
    fn a_file_is_begun_anew_after_a_day_or_what_rows_may_be_kept_for() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, max_age_s, after) in [("day", 7 * 86_400, LONGEST), ("hour", 3_600, Duration::from_secs(3_600))] {
            let mut files = files(folder.path(), |_| {});
            files.config.max_age_s = max_age_s;
            let start = Instant::now();
            let early = after - Duration::from_secs(1);
            [Duration::ZERO, early, after].into_iter().for_each(|at| files.add(&row(name), start + at));
            files.flush(start + after);
            let lines = |text: &String| text.lines().count();
            assert_eq!(written(&folder.path().join(name)).iter().map(lines).collect::<Vec<_>>(), [2, 1], "{name}");
        }
    }

    #[test]
    fn a_disk_that_is_full_is_told_counted_and_tried_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = files(folder.path(), |_| {});
        files.create = |_| OpenOptions::new().write(true).open("/dev/full");
        let start = Instant::now();
        files.add(&row("m"), start);
        files.flush(start);
        assert_eq!(files.dropped.with_label_values(&["failed"]).get(), 1);
        files.create = create;
        files.add(&row("m"), start + Duration::from_secs(1));
        assert_eq!(files.dropped.with_label_values(&["failed"]).get(), 2, "it is left alone for a while");
        files.add(&row("m"), start + AGAIN);
        files.flush(start + AGAIN);
        assert_eq!((files.written.with_label_values(&["m"]).get(), files.failed_at), (1, None));
        assert_eq!(written(&folder.path().join("m")).len(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_no_reason_to_end() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("m"), "a file in its place").expect("written");
        let mut files = files(folder.path(), |_| {});
        files.add(&row("m"), Instant::now());
        assert_eq!(files.dropped.with_label_values(&["failed"]).get(), 1);
        files.add(&row("n"), Instant::now() + AGAIN);
        files.flush(Instant::now());
        assert_eq!(files.written.with_label_values(&["n"]).get(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_reads_what_callers_sent() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = files(folder.path(), |_| {});
        files.add(&row("m"), Instant::now());
        let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        let own = folder.path().join("m");
        let file = std::fs::read_dir(&own).expect("a folder").next().expect("one").expect("an entry").path();
        assert_eq!((mode(&own), mode(&file)), (0o700, 0o600));
    }
}
