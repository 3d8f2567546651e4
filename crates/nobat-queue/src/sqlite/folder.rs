//! The data folder: who holds it, and which jobs were running in it.
//!
//! | file | holds |
//! |---|---|
//! | `lock` | an advisory lock for the life of the process; its text is the process id |
//! | `queue.db`, `-wal`, `-shm` | the journal |
//! | `ledger.db`, `-wal`, `-shm` | the [`ledger`](super::ledger) |
//! | `running/N` | rows that consumer N holds under lease |
//!
//! A `running` file is rewritten before a batch is handed out, and never
//! synced: the kernel keeps it when the process is killed, which is when it is
//! needed. It tells the next process which jobs were running when this one
//! died, so that a job that kills its process each time is quarantined.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nobat_core::{Error, ErrorCode, Result};

use super::machine::Row;

/// The process that holds the folder at `path`, as it signed itself; none when
/// the folder is free or not there.
pub(super) fn holder(path: &Path) -> Option<String> {
    let name = path.join("lock");
    // Closing the file gives the lock back.
    match File::open(&name).ok()?.try_lock() {
        Err(TryLockError::WouldBlock) => Some(signature(&name)),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

/// Who signed the lock at `name`.
fn signature(name: &Path) -> String {
    let pid = fs::read_to_string(name).unwrap_or_default();
    if pid.trim().is_empty() { "another process".into() } else { format!("process {}", pid.trim()) }
}

/// The folder, held by this process.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Creates the folder when it is not there, and takes it.
    ///
    /// # Errors
    /// `queue_unavailable` when another process holds it or it cannot be written.
    pub(super) fn take(path: &Path) -> Result<Folder> {
        let unusable = |e: io::Error| {
            unavailable(
                path,
                &format!("cannot be written: {e}; check its owner and free space, or choose another with --data"),
            )
        };
        fs::create_dir_all(path.join("running")).map_err(unusable)?;
        let name = path.join("lock");
        let lock =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&name).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = signature(&name);
                let remedy = "stop it, choose another folder with --data, or share one queue between processes with --redis redis://HOST:6379";
                return Err(unavailable(path, &format!("is in use by {holder}; {remedy}")));
            }
            Err(TryLockError::Error(e)) => return Err(unusable(e)),
        }
        let pid = std::process::id().to_string();
        lock.set_len(0).and_then(|()| lock.write_all_at(pid.as_bytes(), 0)).map_err(unusable)?;
        Ok(Folder { path: path.to_owned(), lock })
    }

    /// The folder's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The ledger's file.
    pub(super) fn ledger(&self) -> PathBuf {
        self.path.join("ledger.db")
    }

    /// The journal's file.
    pub(super) fn journal(&self) -> PathBuf {
        self.path.join("queue.db")
    }

    /// Rows that were running when the last process on this folder ended.
    pub(super) fn were_running(&self) -> io::Result<Vec<Row>> {
        let mut rows = Vec::new();
        for entry in fs::read_dir(self.path.join("running"))? {
            rows.extend(parse_rows(&fs::read(entry?.path())?));
        }
        Ok(rows)
    }

    /// Forgets them, once the journal knows.
    pub(super) fn forget_running(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.path.join("running"))? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// The file in which consumer `number` notes what it runs.
    pub(super) fn running(&self, number: u32) -> io::Result<Running> {
        let name = self.path.join("running").join(number.to_string());
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&name)?;
        Ok(Running { name, file, rows: Vec::new(), bytes: Vec::new() })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Closing the file would do, but for a child process that is being
        // started at this moment and still shares it.
        let _ = self.lock.unlock();
    }
}

/// `queue_unavailable`, naming the folder.
pub(super) fn unavailable(path: &Path, what: &str) -> Error {
    Error::new(ErrorCode::QueueUnavailable, format!("the data folder `{}` {what}", path.display()))
}

/// What one consumer runs, where it survives the process.
#[derive(Debug)]
pub(super) struct Running {
    name: PathBuf,
    file: File,
    rows: Vec<Row>,
    bytes: Vec<u8>,
}

impl Running {
    /// Notes that exactly `rows` are running from now on. One write of a few
    /// bytes into the page cache; none when nothing changed.
    pub(super) fn note(&mut self, rows: impl Iterator<Item = Row>) -> io::Result<()> {
        let before = std::mem::take(&mut self.bytes);
        self.rows.clear();
        self.rows.extend(rows);
        self.bytes.extend_from_slice(&(self.rows.len() as u64).to_le_bytes());
        self.rows.iter().for_each(|row| self.bytes.extend_from_slice(&row.to_le_bytes()));
        if self.bytes == before { Ok(()) } else { self.file.write_all_at(&self.bytes, 0) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What a consumer still held when it ended goes back when its lease
        // expires, which counts the death already. A file that stays is read at
        // the next start and only then removed.
        let _ = fs::remove_file(&self.name);
    }
}

/// Reads a count and that many rows; a file cut short counts for what it has.
fn parse_rows(bytes: &[u8]) -> Vec<Row> {
    let mut words = bytes
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]));
    let count = words.next().unwrap_or(0);
    words.take(usize::try_from(count).unwrap_or(usize::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_is_read_back_and_a_shorter_note_replaces_a_longer() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = Folder::take(dir.path()).expect("takes it");
        let mut first = folder.running(0).expect("a file");
        let mut second = folder.running(1).expect("a file");
        first.note([1, 2, 3].into_iter()).expect("notes");
        first.note([7].into_iter()).expect("notes");
        second.note([9, 8].into_iter()).expect("notes");
        let mut rows = folder.were_running().expect("reads");
        rows.sort_unstable();
        assert_eq!(rows, [7, 8, 9]);
        drop(second);
        assert_eq!(folder.were_running().expect("reads"), [7]);
    }

    #[test]
    fn a_folder_in_use_is_refused_naming_folder_holder_and_remedy() {
        let dir = tempfile::tempdir().expect("a folder");
        let _held = Folder::take(dir.path()).expect("takes it");
        let refused = Folder::take(dir.path()).expect_err("held").message;
        assert!(refused.contains(&dir.path().display().to_string()), "{refused}");
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(refused.contains("--redis"), "{refused}");
    }
}
