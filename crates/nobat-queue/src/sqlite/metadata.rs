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
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use nobat_core::units::unix_ms;
use nobat_core::{Error, ErrorCode, Result};
use parking_lot::Mutex;
use rusqlite::types::Value;
use rusqlite::{Connection, Row, Transaction, params_from_iter};

use crate::api::{MetadataStore, Timer};
use crate::errors::check_document;

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

/// The embedded store's metadata.
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

    /// One transaction on a blocking thread; `work` is told the time.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>, i64) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let db = self.db.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut db = db.lock();
            let transaction = db.transaction()?;
            let value = work(&transaction, now_ms())?;
            transaction.commit()?;
            Ok(value)
        });
        let failed = |e| Error::new(ErrorCode::QueueUnavailable, format!("a metadata call ended early: {e}"));
        done.await.map_err(failed)?.map_err(unavailable)
    }

    /// A statement that changes rows; whether it did. `?1` is the time, `?2` the time
    /// after `delay`, and `values` begin with `?3`.
    async fn change<const N: usize>(&self, sql: &'static str, delay: Duration, values: [Value; N]) -> Result<bool> {
        self.with(move |db, now| {
            let mut statement = db.prepare_cached(sql)?;
            let times = [now, after(now, delay)].map(Value::from);
            let bound = times.into_iter().chain(values).take(statement.parameter_count());
            Ok(statement.execute(params_from_iter(bound))? > 0)
        })
        .await
    }

    /// The rows of a statement whose values begin with `?1`; `read` is told the time.
    async fn rows<T: Send + 'static, const N: usize>(
        &self,
        sql: &'static str,
        values: [Value; N],
        read: impl Fn(&Row<'_>, i64) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Vec<T>> {
        self.with(move |db, now| {
            let mut statement = db.prepare_cached(sql)?;
            statement.query_map(params_from_iter(values), |row| read(row, now))?.collect()
        })
        .await
    }
}

#[async_trait]
impl MetadataStore for SqliteMetadata {
    async fn now_ms(&self) -> Result<u64> {
        Ok(now_ms().max(0) as u64)
    }

    async fn lock(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool> {
        let free = "DELETE FROM claim WHERE until_ms <= ?1 OR set_ms > ?1 + ?3";
        self.change(free, Duration::ZERO, [AHEAD_MS.into()]).await?;
        let sql = "INSERT INTO claim VALUES (?3, ?4, ?2, ?1)
            ON CONFLICT (key) DO UPDATE SET until_ms = ?2, set_ms = ?1 WHERE holder = ?4";
        self.change(sql, ttl, [text(key), text(holder)]).await
    }

    async fn unlock(&self, key: &str, holder: &str) -> Result<()> {
        let sql = "DELETE FROM claim WHERE key = ?3 AND holder = ?4";
        self.change(sql, Duration::ZERO, [text(key), text(holder)]).await.map(drop)
    }

    async fn documents(&self, space: &str) -> Result<Vec<(String, Bytes)>> {
        let sql = "SELECT key, value FROM document WHERE space = ?1";
        self.rows(sql, [text(space)], |row, _| Ok((row.get(0)?, bytes(row, 1)?))).await
    }

    async fn put(&self, space: &str, key: &str, value: &[u8]) -> Result<()> {
        check_document(key, value.len(), VALUE_MAX)?;
        let sql = "INSERT OR REPLACE INTO document VALUES (?3, ?4, ?5)";
        self.change(sql, Duration::ZERO, [text(space), text(key), value.to_vec().into()]).await.map(drop)
    }

    async fn remove(&self, space: &str, key: &str) -> Result<bool> {
        let sql = "DELETE FROM document WHERE space = ?3 AND key = ?4";
        self.change(sql, Duration::ZERO, [text(space), text(key)]).await
    }

    async fn append(&self, log: &str, entry: &[u8], keep: usize) -> Result<()> {
        check_document(log, entry.len(), VALUE_MAX)?;
        let (log, entry) = (log.to_owned(), entry.to_owned());
        self.with(move |db, _| {
            db.prepare_cached("INSERT INTO log (log, entry) VALUES (?1, ?2)")?.execute((&log, entry))?;
            let trim = "DELETE FROM log WHERE log = ?1 AND id <=
                (SELECT id FROM log WHERE log = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)";
            db.prepare_cached(trim)?.execute((&log, count(keep.max(1)))).map(drop)
        })
        .await
    }

    async fn tail(&self, log: &str, limit: usize) -> Result<Vec<Bytes>> {
        let sql = "SELECT entry FROM log WHERE log = ?1 ORDER BY id DESC LIMIT ?2";
        self.rows(sql, [text(log), count(limit)], |row, _| bytes(row, 0)).await
    }

    async fn add_timer(&self, set: &str, key: &str, value: &[u8], delay: Duration) -> Result<bool> {
        check_document(key, value.len(), VALUE_MAX)?;
        let sql = "INSERT OR IGNORE INTO timer VALUES (?3, ?4, ?5, ?2, ?1)";
        self.change(sql, delay, [text(set), text(key), value.to_vec().into()]).await
    }

    async fn timer(&self, set: &str, key: &str) -> Result<Option<Bytes>> {
        let sql = "SELECT value FROM timer WHERE name = ?1 AND key = ?2";
        Ok(self.rows(sql, [text(set), text(key)], |row, _| bytes(row, 0)).await?.pop())
    }

    async fn take_due(&self, set: &str, limit: usize, lease: Duration) -> Result<Vec<Timer>> {
        let set = set.to_owned();
        self.with(move |db, now| {
            let sql = "SELECT key, value FROM timer
                WHERE (name = ?1 AND due_ms <= ?2) OR (name = ?1 AND set_ms > ?4) ORDER BY due_ms LIMIT ?3";
            let mut select = db.prepare_cached(sql)?;
            let values = (&set, now, limit as i64, now + AHEAD_MS);
            let due: Vec<Timer> = select.query_map(values, timer)?.collect::<rusqlite::Result<_>>()?;
            let sql = "UPDATE timer SET due_ms = ?3, set_ms = ?4 WHERE name = ?1 AND key = ?2";
            let mut lend = db.prepare_cached(sql)?;
            for timer in &due {
                lend.execute((&set, &timer.key, after(now, lease), now))?;
            }
            Ok(due)
        })
        .await
    }

    async fn move_timer(&self, set: &str, key: &str, value: &[u8], delay: Duration) -> Result<bool> {
        check_document(key, value.len(), VALUE_MAX)?;
        let sql = "UPDATE timer SET value = ?5, due_ms = ?2, set_ms = ?1 WHERE name = ?3 AND key = ?4";
        self.change(sql, delay, [text(set), text(key), value.to_vec().into()]).await
    }

    async fn swap_timer(&self, set: &str, key: &str, from: &[u8], to: &[u8], delay: Duration) -> Result<bool> {
        check_document(key, to.len(), VALUE_MAX)?;
        let sql = "UPDATE timer SET value = ?6, due_ms = ?2, set_ms = ?1
            WHERE name = ?3 AND key = ?4 AND value IN (?5, ?6)";
        self.change(sql, delay, [text(set), text(key), from.to_vec().into(), to.to_vec().into()]).await
    }

    async fn remove_timer(&self, set: &str, key: &str) -> Result<bool> {
        let sql = "DELETE FROM timer WHERE name = ?3 AND key = ?4";
        self.change(sql, Duration::ZERO, [text(set), text(key)]).await
    }

    async fn timers(&self, set: &str, limit: usize) -> Result<Vec<(Timer, Duration)>> {
        let sql = "SELECT key, value, due_ms FROM timer WHERE name = ?1 ORDER BY due_ms LIMIT ?2";
        let left = |row: &Row<'_>, now| {
            let left = row.get::<_, i64>(2)?.saturating_sub(now).max(0) as u64;
            Ok((timer(row)?, Duration::from_millis(left)))
        };
        self.rows(sql, [text(set), count(limit)], left).await
    }
}

fn timer(row: &Row<'_>) -> rusqlite::Result<Timer> {
    Ok(Timer { key: row.get(0)?, value: bytes(row, 1)? })
}

fn bytes(row: &Row<'_>, at: usize) -> rusqlite::Result<Bytes> {
    row.get::<_, Vec<u8>>(at).map(Bytes::from)
}

fn text(text: &str) -> Value {
    text.to_owned().into()
}

fn count(count: usize) -> Value {
    i64::try_from(count).unwrap_or(i64::MAX).into()
}

fn has_column(db: &Connection, table: &str, column: &str) -> rusqlite::Result<bool> {
    let mut names = db.prepare("SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2")?;
    names.exists([table, column])
}

fn now_ms() -> i64 {
    unix_ms(SystemTime::now()) as i64
}

fn after(now_ms: i64, delay: Duration) -> i64 {
    now_ms.saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX))
}

fn unavailable(error: rusqlite::Error) -> Error {
    Error::new(ErrorCode::QueueUnavailable, format!("the metadata database cannot be used: {error}"))
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
            .with(move |db, _| {
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
