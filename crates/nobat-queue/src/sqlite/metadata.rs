//! The metadata store of the embedded store: a database of its own beside the journal,
//! so that rare, small writes never wait for the journal's writer, nor it for
//! them.
//!
//! One connection behind a mutex, each call one transaction on a blocking
//! thread. Time is this host's: the store is one process. A host's clock may have
//! been wrong, also before the last start: what was written at a time that is yet to
//! come is due, or free, at once.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use nobat_core::{Error, ErrorCode, Result};
use parking_lot::Mutex;
use rusqlite::{Connection, params};

use crate::api::{MetadataStore, Timer};
use crate::limits;

const SCHEMA: &str = "
PRAGMA journal_mode = wal;
PRAGMA synchronous = normal;
CREATE TABLE IF NOT EXISTS claim (
    key TEXT PRIMARY KEY, holder TEXT NOT NULL, until_ms INTEGER NOT NULL, set_ms INTEGER NOT NULL DEFAULT 0)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS document (
    space TEXT, key TEXT, value BLOB NOT NULL, PRIMARY KEY (space, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log (id INTEGER PRIMARY KEY, log TEXT NOT NULL, entry BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS log_by_name ON log (log, id);
CREATE TABLE IF NOT EXISTS timer (
    name TEXT, key TEXT, value BLOB NOT NULL, due_ms INTEGER NOT NULL, set_ms INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (name, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS timer_by_due ON timer (name, due_ms);
";
/// Tables whose rows say since when they stand; a folder of an earlier build lacks it.
const DATED: [&str; 2] = ["claim", "timer"];
/// What stands since later than this from now was written under a wrong clock.
const AHEAD_MS: i64 = 60_000;

/// Most bytes of a document: far below what SQLite takes for a row.
const VALUE_MAX: usize = 500_000_000;

/// The embedded store's metadata store.
pub(super) struct SqliteMetadata {
    // Held for one short transaction on a blocking thread, never across an await.
    db: Arc<Mutex<Connection>>,
}

impl SqliteMetadata {
    /// Opens or creates the metadata store in `file`.
    ///
    /// # Errors
    /// `queue_unavailable` with what SQLite says.
    pub(super) fn open(file: &Path) -> Result<SqliteMetadata> {
        let db = Connection::open(file).map_err(unavailable)?;
        db.busy_timeout(Duration::from_secs(5)).map_err(unavailable)?;
        db.execute_batch(SCHEMA).map_err(unavailable)?;
        for table in DATED {
            if !has_column(&db, table, "set_ms").map_err(unavailable)? {
                let add = format!("ALTER TABLE {table} ADD COLUMN set_ms INTEGER NOT NULL DEFAULT 0");
                db.execute_batch(&add).map_err(unavailable)?;
            }
        }
        db.execute_batch("CREATE INDEX IF NOT EXISTS timer_by_set ON timer (name, set_ms)").map_err(unavailable)?;
        Ok(SqliteMetadata { db: Arc::new(Mutex::new(db)) })
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let db = self.db.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut db = db.lock();
            let transaction = db.transaction()?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        });
        match done.await {
            Ok(result) => result.map_err(unavailable),
            Err(error) => {
                Err(Error::new(ErrorCode::QueueUnavailable, format!("the metadata store's call ended early: {error}")))
            }
        }
    }
}

#[async_trait]
impl MetadataStore for SqliteMetadata {
    async fn now_ms(&self) -> Result<u64> {
        Ok(now_ms().max(0) as u64)
    }

    async fn lock(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool> {
        let (key, holder) = (key.to_owned(), holder.to_owned());
        self.with(move |db| {
            let now = now_ms();
            let free = "DELETE FROM claim WHERE until_ms <= ?1 OR set_ms > ?2";
            db.prepare_cached(free)?.execute([now, now + AHEAD_MS])?;
            let sql = "INSERT INTO claim VALUES (?1, ?2, ?3, ?4)
                ON CONFLICT (key) DO UPDATE SET until_ms = ?3, set_ms = ?4 WHERE holder = ?2";
            Ok(db.prepare_cached(sql)?.execute(params![key, holder, after(now, ttl), now])? == 1)
        })
        .await
    }

    async fn unlock(&self, key: &str, holder: &str) -> Result<()> {
        let (key, holder) = (key.to_owned(), holder.to_owned());
        let sql = "DELETE FROM claim WHERE key = ?1 AND holder = ?2";
        self.with(move |db| db.prepare_cached(sql)?.execute(params![key, holder]).map(drop)).await
    }

    async fn documents(&self, space: &str) -> Result<Vec<(String, Bytes)>> {
        let space = space.to_owned();
        self.with(move |db| {
            let mut select = db.prepare_cached("SELECT key, value FROM document WHERE space = ?1")?;
            let rows = select.query_map([space], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?.into())))?;
            rows.collect()
        })
        .await
    }

    async fn put(&self, space: &str, key: &str, value: &[u8]) -> Result<()> {
        limits::check_document(key, value.len(), VALUE_MAX)?;
        let (space, key, value) = (space.to_owned(), key.to_owned(), value.to_owned());
        let sql = "INSERT OR REPLACE INTO document VALUES (?1, ?2, ?3)";
        self.with(move |db| db.prepare_cached(sql)?.execute(params![space, key, value]).map(drop)).await
    }

    async fn remove(&self, space: &str, key: &str) -> Result<bool> {
        let (space, key) = (space.to_owned(), key.to_owned());
        let sql = "DELETE FROM document WHERE space = ?1 AND key = ?2";
        self.with(move |db| Ok(db.prepare_cached(sql)?.execute(params![space, key])? == 1)).await
    }

    async fn append(&self, log: &str, entry: &[u8], keep: usize) -> Result<()> {
        limits::check_document(log, entry.len(), VALUE_MAX)?;
        let (log, entry) = (log.to_owned(), entry.to_owned());
        self.with(move |db| {
            db.prepare_cached("INSERT INTO log (log, entry) VALUES (?1, ?2)")?.execute(params![log, entry])?;
            let trim = "DELETE FROM log WHERE log = ?1 AND id <=
                (SELECT id FROM log WHERE log = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)";
            db.prepare_cached(trim)?.execute(params![log, keep.max(1) as i64]).map(drop)
        })
        .await
    }

    async fn tail(&self, log: &str, limit: usize) -> Result<Vec<Bytes>> {
        let log = log.to_owned();
        self.with(move |db| {
            let mut select = db.prepare_cached("SELECT entry FROM log WHERE log = ?1 ORDER BY id DESC LIMIT ?2")?;
            let rows = select.query_map(params![log, limit as i64], |row| row.get::<_, Vec<u8>>(0).map(Bytes::from))?;
            rows.collect()
        })
        .await
    }

    async fn add_timer(&self, set: &str, key: &str, value: &[u8], delay: Duration) -> Result<bool> {
        let (set, key, value) = (set.to_owned(), key.to_owned(), value.to_owned());
        limits::check_document(&key, value.len(), VALUE_MAX)?;
        let sql = "INSERT OR IGNORE INTO timer VALUES (?1, ?2, ?3, ?4, ?5)";
        self.with(move |db| {
            let now = now_ms();
            Ok(db.prepare_cached(sql)?.execute(params![set, key, value, after(now, delay), now])? == 1)
        })
        .await
    }

    async fn take_due(&self, set: &str, limit: usize, lease: Duration) -> Result<Vec<Timer>> {
        let set = set.to_owned();
        self.with(move |db| {
            let now = now_ms();
            let sql = "SELECT key, value FROM timer
                WHERE (name = ?1 AND due_ms <= ?2) OR (name = ?1 AND set_ms > ?4) ORDER BY due_ms LIMIT ?3";
            let mut select = db.prepare_cached(sql)?;
            let rows = select.query_map(params![set, now, limit as i64, now + AHEAD_MS], |row| {
                Ok(Timer { key: row.get(0)?, value: row.get::<_, Vec<u8>>(1)?.into() })
            })?;
            let due: Vec<Timer> = rows.collect::<rusqlite::Result<_>>()?;
            let mut lend =
                db.prepare_cached("UPDATE timer SET due_ms = ?3, set_ms = ?4 WHERE name = ?1 AND key = ?2")?;
            for timer in &due {
                lend.execute(params![set, timer.key, after(now, lease), now])?;
            }
            Ok(due)
        })
        .await
    }

    async fn move_timer(&self, set: &str, key: &str, value: &[u8], delay: Duration) -> Result<bool> {
        let (set, key, value) = (set.to_owned(), key.to_owned(), value.to_owned());
        limits::check_document(&key, value.len(), VALUE_MAX)?;
        let sql = "UPDATE timer SET value = ?3, due_ms = ?4, set_ms = ?5 WHERE name = ?1 AND key = ?2";
        self.with(move |db| {
            let now = now_ms();
            Ok(db.prepare_cached(sql)?.execute(params![set, key, value, after(now, delay), now])? == 1)
        })
        .await
    }

    async fn swap_timer(&self, set: &str, key: &str, from: &[u8], to: &[u8], delay: Duration) -> Result<bool> {
        let (set, key, from, to) = (set.to_owned(), key.to_owned(), from.to_owned(), to.to_owned());
        limits::check_document(&key, to.len(), VALUE_MAX)?;
        let sql = "UPDATE timer SET value = ?4, due_ms = ?5, set_ms = ?6
            WHERE name = ?1 AND key = ?2 AND value IN (?3, ?4)";
        self.with(move |db| {
            let now = now_ms();
            Ok(db.prepare_cached(sql)?.execute(params![set, key, from, to, after(now, delay), now])? == 1)
        })
        .await
    }

    async fn remove_timer(&self, set: &str, key: &str) -> Result<bool> {
        let (set, key) = (set.to_owned(), key.to_owned());
        let sql = "DELETE FROM timer WHERE name = ?1 AND key = ?2";
        self.with(move |db| Ok(db.prepare_cached(sql)?.execute(params![set, key])? == 1)).await
    }

    async fn timers(&self, set: &str, limit: usize) -> Result<Vec<(Timer, Duration)>> {
        let set = set.to_owned();
        self.with(move |db| {
            let now = now_ms();
            let sql = "SELECT key, value, due_ms FROM timer WHERE name = ?1 ORDER BY due_ms LIMIT ?2";
            let mut select = db.prepare_cached(sql)?;
            let rows = select.query_map(params![set, limit as i64], |row| {
                let left = row.get::<_, i64>(2)?.saturating_sub(now).max(0) as u64;
                let due = Timer { key: row.get(0)?, value: row.get::<_, Vec<u8>>(1)?.into() };
                Ok((due, Duration::from_millis(left)))
            })?;
            rows.collect()
        })
        .await
    }
}

fn has_column(db: &Connection, table: &str, column: &str) -> rusqlite::Result<bool> {
    let mut names = db.prepare("SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2")?;
    names.exists([table, column])
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

fn after(now_ms: i64, delay: Duration) -> i64 {
    now_ms.saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX))
}

fn unavailable(error: rusqlite::Error) -> Error {
    Error::new(ErrorCode::QueueUnavailable, format!("the metadata store's database cannot be used: {error}"))
        .retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    /// As though everything had been written under a clock ten years ahead.
    async fn ten_years_ago(metadata: &SqliteMetadata) {
        let by = 10 * 365 * 86_400_000i64;
        metadata
            .with(move |db| {
                db.execute("UPDATE timer SET due_ms = due_ms + ?1, set_ms = set_ms + ?1", [by])?;
                db.execute("UPDATE claim SET until_ms = until_ms + ?1, set_ms = set_ms + ?1", [by])
            })
            .await
            .expect("written");
    }

    #[tokio::test]
    async fn what_was_written_at_a_time_to_come_is_due_or_free_at_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let metadata = SqliteMetadata::open(&dir.path().join("metadata")).expect("opens");
        assert!(metadata.add_timer("set", "k", b"v", LONG).await.expect("answers"));
        assert!(metadata.lock("c", "a", LONG).await.expect("answers"));
        assert!(metadata.take_due("set", 1, LONG).await.expect("answers").is_empty());
        assert!(!metadata.lock("c", "b", LONG).await.expect("answers"));
        ten_years_ago(&metadata).await;
        assert_eq!(metadata.take_due("set", 1, LONG).await.expect("answers").len(), 1, "a timer is not stuck");
        assert!(metadata.take_due("set", 1, LONG).await.expect("answers").is_empty(), "it is lent under today's clock");
        assert!(metadata.lock("c", "b", LONG).await.expect("answers"), "a claim is not held for ten years");
        assert!(!metadata.lock("c", "a", LONG).await.expect("answers"));
    }

    #[tokio::test]
    async fn a_ledger_of_an_earlier_build_is_taken_over() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("metadata");
        let old = Connection::open(&file).expect("opens");
        old.execute_batch(
            "CREATE TABLE claim (key TEXT PRIMARY KEY, holder TEXT NOT NULL, until_ms INTEGER NOT NULL) WITHOUT ROWID;
             CREATE TABLE timer (
                 name TEXT, key TEXT, value BLOB NOT NULL, due_ms INTEGER NOT NULL, PRIMARY KEY (name, key)) WITHOUT ROWID;
             INSERT INTO timer VALUES ('set', 'k', x'76', 0);",
        )
        .expect("written");
        drop(old);
        for _ in 0..2 {
            let metadata = SqliteMetadata::open(&file).expect("opens");
            assert!(metadata.lock("c", "a", LONG).await.expect("answers"));
            assert_eq!(metadata.timers("set", 9).await.expect("read").len(), 1);
        }
    }
}
