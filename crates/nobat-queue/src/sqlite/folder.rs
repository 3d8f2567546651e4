//! The data folder: who holds it, whether it is still there, who may read it, and
//! which jobs were running in it.
//!
//! | file | holds |
//! |---|---|
//! | `lock` | an advisory lock for the life of the process; its text is the process id |
//! | `queue.db`, `-wal`, `-shm` | the journal |
//! | `ledger.db`, `-wal`, `-shm` | the [`metadata`](super::metadata) |
//! | `running/N` | rows that consumer N holds under lease |
//!
//! A `running` file is rewritten before a batch is handed out, and never
//! synced: the kernel keeps it when the process is killed, which is when it is
//! needed. It tells the next process which jobs were running when this one
//! died, so that a job that kills its process each time is quarantined.
//!
//! A folder that is made here is its user's alone, and so is every file, whatever the
//! folder's own rights are.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nobat_core::{Error, ErrorCode, Result};

use super::machine::Row;
use super::wal::log_of;

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

/// Everything a folder of ours may hold: one with anything else is somebody's whose
/// rights are not ours to change.
const OURS: [&str; 11] = [
    "lock",
    "running",
    "log",
    "queue.db",
    "queue.db-wal",
    "queue.db-shm",
    "queue.db-wal.damaged",
    "ledger.db",
    "ledger.db-wal",
    "ledger.db-shm",
    "ledger.db-wal.damaged",
];

/// The folder, held by this process.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
    /// Files that must stay what they are while the process runs: device and inode.
    watched: Vec<(PathBuf, (u64, u64))>,
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
        DirBuilder::new().recursive(true).mode(0o700).create(path.join("running")).map_err(unusable)?;
        let name = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&name)
            .map_err(unusable)?;
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
        let folder = Folder { path: path.to_owned(), lock, watched: Vec::new() };
        folder.close_to_others().map_err(unusable)?;
        Ok(folder)
    }

    /// Takes everybody else's rights to what an earlier version or umask left open, and
    /// makes the databases, which give their rights to the files beside them.
    fn close_to_others(&self) -> io::Result<()> {
        for database in [self.journal(), self.metadata()] {
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(database)?;
        }
        let mut foreign = false;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            if !OURS.iter().any(|ours| name == *ours) {
                foreign = true;
            } else if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                // SQLite takes its log away as the last connection closes: one of the
                // process's own that is still closing, or of a tool that looked in.
                match close(&entry.path(), 0o600) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    closed => closed?,
                }
            }
        }
        close(&self.path.join("running"), 0o700)?;
        if !foreign {
            close(&self.path, 0o700)?;
        }
        Ok(())
    }

    /// From now on its lock, the journal and the journal's log must stay in their places.
    pub(super) fn watch(&mut self) {
        let names = [self.path.join("lock"), self.journal(), log_of(&self.journal())];
        let placed = |name: PathBuf| place(&name).map(|place| (name, place));
        self.watched = names.into_iter().filter_map(placed).collect();
    }

    /// Why what this process writes does not reach its folder any more; `None` while
    /// all is in its place.
    pub(super) fn lost(&self) -> Option<String> {
        let (name, _) = self.watched.iter().find(|(name, was)| match fs::metadata(name) {
            Ok(is) => (is.dev(), is.ino()) != *was,
            // A folder that cannot be looked at for a moment is not gone.
            Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        })?;
        Some(format!(
            "was removed or replaced while it was in use: `{}` is not the file this process opened, so nothing would be kept; put the folder back, or restart on another",
            name.display()
        ))
    }

    /// The folder's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The metadata store's file.
    pub(super) fn metadata(&self) -> PathBuf {
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
    pub(super) fn running(&self, number: u32) -> io::Result<RunningNotes> {
        let name = self.path.join("running").join(number.to_string());
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&name)?;
        Ok(RunningNotes { name, file, rows: Vec::new(), bytes: Vec::new() })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Closing the file would do, but for a child process that is being
        // started at this moment and still shares it.
        let _ = self.lock.unlock();
    }
}

/// Takes rights that `mode` does not have away from the file at `path`; those of a
/// stranger's file are left alone, it is as closed as its owner wants.
fn close(path: &Path, mode: u32) -> io::Result<()> {
    let is = fs::metadata(path)?.permissions().mode() & 0o777;
    match fs::set_permissions(path, Permissions::from_mode(is & mode)) {
        _ if is & mode == is => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            log::warn!("others may read `{}` (mode {is:o}), and it is not ours to close", path.display());
            Ok(())
        }
        done => done,
    }
}

/// Device and inode of a file.
fn place(name: &Path) -> Option<(u64, u64)> {
    fs::metadata(name).ok().map(|is| (is.dev(), is.ino()))
}

/// `queue_unavailable`, naming the folder.
pub(super) fn unavailable(path: &Path, what: &str) -> Error {
    Error::new(ErrorCode::QueueUnavailable, format!("the data folder `{}` {what}", path.display()))
}

/// What one consumer runs, where it survives the process.
#[derive(Debug)]
pub(super) struct RunningNotes {
    name: PathBuf,
    file: File,
    rows: Vec<Row>,
    bytes: Vec<u8>,
}

impl RunningNotes {
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

impl Drop for RunningNotes {
    fn drop(&mut self) {
        // What a consumer still held when it ended goes back when its lease
        // expires, which counts the death already. A file that stays is read at
        // the next start and only then removed. Where the folder was replaced, the file
        // of this name is another process's.
        let ours = self.file.metadata().ok().map(|is| (is.dev(), is.ino()));
        if ours.is_some() && ours == place(&self.name) {
            let _ = fs::remove_file(&self.name);
        }
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

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn a_folder_that_is_made_here_is_its_users_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("new").join("data");
        let folder = Folder::take(&path).expect("takes it");
        let _running = folder.running(0).expect("a file");
        for (name, wanted) in
            [("", 0o700), ("running", 0o700), ("running/0", 0o600), ("lock", 0o600), ("queue.db", 0o600)]
        {
            assert_eq!(mode(&path.join(name)), wanted, "`{name}`");
        }
    }

    #[test]
    fn what_an_earlier_version_left_open_is_closed_and_a_strangers_folder_left_alone() {
        for (stranger, folder_mode) in [(None, 0o700), (Some("notes.txt"), 0o755)] {
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("data");
            fs::create_dir_all(path.join("running")).expect("made");
            for name in ["lock", "queue.db", "queue.db-wal"].into_iter().chain(stranger) {
                fs::write(path.join(name), "").expect("written");
                fs::set_permissions(path.join(name), Permissions::from_mode(0o644)).expect("set");
            }
            fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("set");
            let _held = Folder::take(&path).expect("takes it");
            assert_eq!(mode(&path), folder_mode);
            assert_eq!(
                [mode(&path.join("queue.db")), mode(&path.join("queue.db-wal")), mode(&path.join("lock"))],
                [0o600; 3]
            );
            if let Some(name) = stranger {
                assert_eq!(mode(&path.join(name)), 0o644, "not ours");
            }
        }
    }

    #[test]
    fn a_folder_that_is_removed_replaced_or_moved_is_lost_and_one_put_back_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, away) = (dir.path().join("data"), dir.path().join("away"));
        let mut folder = Folder::take(&path).expect("takes it");
        let running = folder.running(0).expect("a file");
        fs::write(path.join("queue.db-wal"), "").expect("written");
        folder.watch();
        assert_eq!(folder.lost(), None);
        fs::rename(&path, &away).expect("moved");
        assert!(folder.lost().expect("lost").contains("removed or replaced"));
        // A second process takes the place, and keeps what it noted there.
        let other = Folder::take(&path).expect("the path is free");
        assert!(folder.lost().is_some());
        let mut noted = other.running(0).expect("a file");
        noted.note([5].into_iter()).expect("notes");
        drop(running);
        assert_eq!(other.were_running().expect("reads"), [5]);
        drop((noted, other));
        fs::remove_dir_all(&path).expect("removed");
        fs::rename(&away, &path).expect("moved back");
        assert_eq!(folder.lost(), None);
        // The files alone, without the lock.
        fs::remove_file(path.join("queue.db-wal")).expect("removed");
        assert!(folder.lost().expect("lost").contains("queue.db-wal"));
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
