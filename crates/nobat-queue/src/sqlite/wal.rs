//! What is wrong with a write-ahead log before SQLite opens it.
//!
//! SQLite takes a log up to the first frame whose checksum does not fit and drops
//! the rest without a word: right after a power cut, where nothing behind that place
//! was promised, and silent loss where a disk has damaged what was. So the log is
//! read first, by the file format's own rules (sqlite.org/fileformat2.html#walformat).
//!
//! Not a loss: frames of an earlier generation of the log (another salt), and frames
//! that no commit followed (a process killed while it wrote).

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Magic number of a log whose checksums are of little-endian words; with the last
/// bit set, of big-endian ones.
const MAGIC: u32 = 0x377f_0682;
const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// What SQLite is about to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogDamage {
    /// The log's own header: the whole log goes.
    Header {
        /// The log's length.
        bytes: u64,
    },
    /// Everything from this place on.
    From {
        /// Offset of the first frame that does not fit.
        at: u64,
        /// Commits seen behind it.
        commits: u64,
        /// Commits before it, which stay.
        kept: u64,
    },
}

/// The log of the database in `file`.
pub(super) fn log_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Looks through the log at `path`; `None` when nothing that was committed is lost,
/// or there is none. Call it while nobody has the database open.
///
/// # Errors
/// What the file system says.
pub(super) fn damage(path: &Path) -> io::Result<Option<LogDamage>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = file.metadata()?.len();
    let mut log = BufReader::with_capacity(1 << 20, file);
    let mut header = [0; HEADER];
    if !fill(&mut log, &mut header)? {
        // Shorter than its header: nothing was ever committed to it.
        return Ok(None);
    }
    let magic = word(&header, 0);
    let big_endian = magic & 1 == 1;
    let page = word(&header, 8) as usize;
    let mut sum = checksum((0, 0), &header[..24], big_endian);
    let sound = magic & !1 == MAGIC && page.is_power_of_two() && (512..=65_536).contains(&page);
    if !sound || sum != (word(&header, 24), word(&header, 28)) {
        return Ok(Some(LogDamage::Header { bytes }));
    }
    let salt = (word(&header, 16), word(&header, 20));
    let mut frame = vec![0; FRAME_HEADER + page];
    let (mut at, mut kept, mut commits) = (HEADER as u64, 0, 0);
    let mut broken_at = None;
    while fill(&mut log, &mut frame)? {
        let ours = (word(&frame, 8), word(&frame, 12)) == salt;
        // Only the last frame of a commit has the database's size.
        let commit = word(&frame, 4) != 0;
        if broken_at.is_none() {
            let next = checksum(checksum(sum, &frame[..8], big_endian), &frame[FRAME_HEADER..], big_endian);
            if ours && next == (word(&frame, 16), word(&frame, 20)) {
                sum = next;
                kept += u64::from(commit);
            } else {
                broken_at = Some(at);
            }
        }
        if broken_at.is_some() {
            commits += u64::from(ours && commit);
        }
        at += frame.len() as u64;
    }
    Ok(broken_at.filter(|_| commits > 0).map(|at| LogDamage::From { at, commits, kept }))
}

/// Cuts the log off where the damage begins.
///
/// # Errors
/// What the file system says.
pub(super) fn cut(path: &Path, damage: LogDamage) -> io::Result<()> {
    let end = match damage {
        LogDamage::Header { .. } => 0,
        LogDamage::From { at, .. } => at,
    };
    OpenOptions::new().write(true).open(path)?.set_len(end)
}

/// Fills `buffer`; `false` at the end of the file.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn checksum((mut a, mut b): (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    let read = if big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
    for pair in bytes.as_chunks::<8>().0 {
        let [x0, x1, x2, x3, y0, y1, y2, y3] = *pair;
        a = a.wrapping_add(read([x0, x1, x2, x3])).wrapping_add(b);
        b = b.wrapping_add(read([y0, y1, y2, y3])).wrapping_add(a);
    }
    (a, b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    /// A log of some commits, as a killed process leaves it: a copy of what an open
    /// database has.
    fn log(commits: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("a.db");
        let db = Connection::open(&file).expect("opens");
        db.pragma_update(None, "journal_mode", "wal").expect("set");
        db.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB)").expect("made");
        for n in 0..commits {
            db.execute("INSERT INTO t VALUES (?1, randomblob(6000))", [n]).expect("written");
        }
        let copy = dir.path().join("copy-wal");
        std::fs::copy(log_of(&file), &copy).expect("copied");
        (dir, copy)
    }

    fn flip(path: &Path, at: u64) {
        let mut bytes = std::fs::read(path).expect("reads");
        bytes[at as usize] ^= 0x40;
        std::fs::write(path, bytes).expect("written");
    }

    #[test]
    fn a_whole_log_and_one_cut_off_in_a_commit_lose_nothing() {
        let (_dir, path) = log(20);
        assert_eq!(damage(&path).expect("reads"), None);
        assert_eq!(damage(Path::new("/no/such/log")).expect("reads"), None);
        // Killed while it wrote the last commit: its last frame is not whole.
        let bytes = std::fs::read(&path).expect("reads");
        std::fs::write(&path, &bytes[..bytes.len() - 100]).expect("written");
        assert_eq!(damage(&path).expect("reads"), None);
        std::fs::write(&path, &bytes[..20]).expect("written");
        assert_eq!(damage(&path).expect("reads"), None);
    }

    #[test]
    fn a_damaged_frame_says_how_many_commits_go_with_it() {
        let (_dir, path) = log(20);
        let whole = std::fs::metadata(&path).expect("there").len();
        // In the last page, in the middle of the log, and in a frame's checksum.
        flip(&path, whole - 1_000);
        let Some(LogDamage::From { commits: 1, kept: 20, .. }) = damage(&path).expect("reads") else {
            panic!("{:?}", damage(&path));
        };
        flip(&path, whole - 1_000);
        flip(&path, whole / 2);
        let Some(LogDamage::From { at, commits, kept }) = damage(&path).expect("reads") else { panic!("no damage") };
        assert!(at <= whole / 2 && commits + kept == 21 && commits > 5 && kept > 5, "{at} {commits} {kept}");
        let cut_off = path.with_file_name("cut-wal");
        std::fs::copy(&path, &cut_off).expect("copied");
        cut(&cut_off, LogDamage::From { at, commits, kept }).expect("cut");
        assert_eq!(damage(&cut_off).expect("reads"), None, "found once");
        // A log whose header is damaged is dropped whole.
        flip(&path, 13);
        assert_eq!(damage(&path).expect("reads"), Some(LogDamage::Header { bytes: whole }));
    }

    #[test]
    fn frames_of_an_earlier_generation_are_no_loss() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("a.db");
        let db = Connection::open(&file).expect("opens");
        db.pragma_update(None, "journal_mode", "wal").expect("set");
        db.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB)").expect("made");
        for n in 0..50 {
            db.execute("INSERT INTO t VALUES (?1, randomblob(6000))", [n]).expect("written");
        }
        db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).expect("folded");
        db.execute("INSERT INTO t VALUES (99, 'x')", []).expect("written");
        assert!(std::fs::metadata(log_of(&file)).expect("there").len() > 100_000, "the old frames are there still");
        assert_eq!(damage(&log_of(&file)).expect("reads"), None);
    }
}
