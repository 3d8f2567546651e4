//! Folding the write-ahead log into the database, off the writer's thread.
//!
//! A fold copies tens of megabytes and waits for the disk, half a second and
//! more on a slow one, in which no job would be accepted. So a thread with a
//! connection of its own folds while the writer goes on; the few pages that were
//! written meanwhile the writer folds itself, after which the log begins anew.

use std::os::raw::c_int;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use rusqlite::hooks::Wal;
use rusqlite::{Connection, OpenFlags};

/// Pages in the log before it is folded: 64 MiB.
pub(super) const PAGES: u32 = 16_384;
/// Pages at which the writer folds the log itself, whatever that takes: the
/// thread cannot keep up, or has ended.
const PAGES_MAX: u32 = 8 * PAGES;
/// Between two folds: a reader of an old page may hold up the first.
const PAUSE: Duration = Duration::from_millis(100);

/// Nothing to fold.
const IDLE: u8 = 0;
/// The thread folds, or will.
const ASKED: u8 = 1;
/// The thread has folded; the writer does the rest.
const FOLDED: u8 = 2;

/// Lets a thread fold the log of the database in `file`, which `writer` writes to.
/// The thread ends with the connection.
///
/// # Errors
/// What SQLite says when the file cannot be opened once more.
pub(super) fn start(file: &Path, writer: &mut Connection) -> rusqlite::Result<()> {
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // As the writer has it, so that a fold is as durable as a commit promises.
    let synchronous: i64 = writer.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    db.pragma_update(None, "synchronous", synchronous)?;
    let stage = Arc::new(AtomicU8::new(IDLE));
    let (ask, asked) = sync_channel(1);
    let spawned = {
        let stage = stage.clone();
        std::thread::Builder::new().name("nobat-fold".into()).spawn(move || fold(&db, &asked, &stage))
    };
    if let Err(error) = spawned {
        log::warn!("the write-ahead log is folded by the writer, there is no thread for it: {error}");
    }
    writer.wal_hook(Some(move |wal: &mut Wal, pages: c_int| after_commit(wal, pages, &ask, &stage)))
}

/// What the writer does about the log after a commit.
fn after_commit(wal: &mut Wal, pages: c_int, ask: &SyncSender<()>, stage: &AtomicU8) -> rusqlite::Result<()> {
    let pages = u32::try_from(pages).unwrap_or_default();
    let folded = stage.load(Ordering::Acquire) == FOLDED;
    if folded || pages >= PAGES_MAX {
        stage.store(IDLE, Ordering::Release);
        // A commit has succeeded whatever becomes of the fold.
        if let Err(error) = wal.checkpoint() {
            log::warn!("the write-ahead log could not be folded, it is tried again: {error}");
        }
    } else if pages >= PAGES && stage.load(Ordering::Acquire) == IDLE {
        stage.store(ASKED, Ordering::Release);
        if ask.try_send(()).is_err() {
            // No thread: the writer folds at the next commit.
            stage.store(FOLDED, Ordering::Release);
        }
    }
    Ok(())
}

fn fold(db: &Connection, asked: &Receiver<()>, stage: &AtomicU8) {
    while asked.recv().is_ok() {
        let folded = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = folded {
            log::warn!("the write-ahead log could not be folded, it is tried again: {error}");
        }
        stage.store(FOLDED, Ordering::Release);
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_stays_bounded_while_the_writer_goes_on_and_nothing_is_lost() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("a.db");
        let mut db = Connection::open(&file).expect("opens");
        db.pragma_update(None, "journal_mode", "wal").expect("set");
        db.pragma_update(None, "synchronous", "normal").expect("set");
        db.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB)").expect("made");
        start(&file, &mut db).expect("starts");
        // Five times what the log is folded at.
        let rows = 5 * i64::from(PAGES) / 16;
        for n in 0..rows {
            db.execute("INSERT INTO t VALUES (?1, randomblob(65536))", [n]).expect("written");
        }
        let wal = std::fs::metadata(dir.path().join("a.db-wal")).expect("there").len();
        assert!(wal < u64::from(PAGES) * 4096 * 4, "the log has {wal} bytes");
        drop(db);
        let db = Connection::open(&file).expect("opens");
        let count: i64 =
            db.query_row("SELECT count(*) FROM t WHERE length(b)=65536", [], |row| row.get(0)).expect("read");
        assert_eq!(count, rows);
    }
}
