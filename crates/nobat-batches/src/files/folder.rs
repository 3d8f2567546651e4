//! Files in a folder: written under another name, synced, and renamed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::contents::{Contents, Draft, FileContents, Segment, is_ours};
use crate::random_id::random_id;

/// A folder of files. What callers sent and were answered is for the service's user alone.
pub(crate) struct Folder {
    path: Arc<Path>,
}

impl Folder {
    /// The folder at `path`, which is made where it is missing, and tried.
    pub(crate) fn open(path: PathBuf) -> io::Result<Folder> {
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(&path)?;
        let probe = path.join(random_id("probe-").map_err(|error| io::Error::other(error.message))?);
        own_file().truncate(true).open(&probe).and_then(|_| fs::remove_file(&probe))?;
        Ok(Folder { path: path.into() })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Contents for Folder {
    fn create(&self, name: &str, meanwhile: &str) -> io::Result<Box<dyn Draft>> {
        let (draft, path) = (self.at(meanwhile), self.at(name));
        let writer = BufWriter::with_capacity(256 << 10, own_file().truncate(true).open(&draft)?);
        Ok(Box::new(FolderDraft { writer, draft: Some(draft), path, folder: Arc::clone(&self.path), bytes: 0 }))
    }

    fn open(&self, name: &str) -> io::Result<FileContents> {
        let file = File::open(self.at(name))?;
        Ok(FileContents { bytes: file.metadata()?.len(), reader: Box::new(file) })
    }

    fn begin_segment(&self, name: &str) -> io::Result<Box<dyn Segment>> {
        Ok(Box::new(FolderSegment(own_file().append(true).open(self.at(name))?)))
    }

    fn measure_segment(&self, name: &str) -> io::Result<u64> {
        whole_lines(&self.at(name))
    }

    fn read_segment(&self, name: &str, bytes: u64) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(self.at(name))?.take(bytes)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        gone(fs::remove_file(self.at(name)))
    }

    fn used(&self) -> io::Result<u64> {
        let mut used = 0u64;
        for entry in fs::read_dir(&self.path)? {
            // One that has gone meanwhile takes no room.
            used += entry?.metadata().map_or(0, |about| about.len());
        }
        Ok(used)
    }

    fn older_than(&self, age: Duration) -> io::Result<Vec<String>> {
        let (now, mut names) = (SystemTime::now(), Vec::new());
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let modified = entry.metadata().and_then(|about| about.modified());
            let own = modified.map(|at| now.duration_since(at).unwrap_or_default());
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_ours(&name) && own.is_ok_and(|own| own > age) {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn pace(&self) -> Duration {
        Duration::ZERO
    }
}

struct FolderDraft {
    writer: BufWriter<File>,
    /// Where it is written; nothing once it is kept.
    draft: Option<PathBuf>,
    path: PathBuf,
    folder: Arc<Path>,
    bytes: u64,
}

impl Write for FolderDraft {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(piece)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Draft for FolderDraft {
    fn finish(mut self: Box<Self>) -> io::Result<u64> {
        self.writer.flush()?;
        self.writer.get_ref().sync_all()?;
        if let Some(draft) = &self.draft {
            rename(draft, &self.path, &self.folder)?;
        }
        self.draft = None;
        Ok(self.bytes)
    }
}

impl Drop for FolderDraft {
    fn drop(&mut self) {
        // What a process that ends here leaves is swept.
        if let Some(draft) = self.draft.take() {
            let _ = fs::remove_file(draft);
        }
    }
}

struct FolderSegment(File);

impl Segment for FolderSegment {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.0.write_all(lines)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// How a file is made that nobody else reads.
fn own_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Bytes of a file up to the end of its last whole line.
fn whole_lines(path: &Path) -> io::Result<u64> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        file => file?,
    };
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let (mut at, mut whole) = (0, 0);
    loop {
        let piece = reader.fill_buf()?;
        if piece.is_empty() {
            // What counts from now on outlives the machine, not only the process.
            reader.get_ref().sync_all()?;
            return Ok(whole);
        }
        if let Some(end) = piece.iter().rposition(|&byte| byte == b'\n') {
            whole = at + end as u64 + 1;
        }
        let read = piece.len();
        at += read as u64;
        reader.consume(read);
    }
}

/// Renames within the folder, so that the new name outlives the machine.
fn rename(from: &Path, to: &Path, folder: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    // Windows has no folders that could be synced.
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_callers_sent_is_for_the_services_user_alone() {
        let around = tempfile::tempdir().expect("a folder");
        let path = around.path().join("deep/files");
        let folder = Folder::open(path.clone()).expect("a folder");
        let mut draft = folder.create("whole", "draft").expect("a draft");
        draft.write_all(b"text").expect("written");
        draft.finish().expect("kept");
        folder.begin_segment("segment").expect("begun").append(b"line\n").expect("written");
        let mode = |name: &str| fs::metadata(path.join(name)).expect("there").mode() & 0o777;
        assert_eq!(["", "whole", "segment"].map(mode), [0o700, 0o600, 0o600]);
    }
}
