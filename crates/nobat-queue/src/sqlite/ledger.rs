//! The ledger of the embedded store: a database of its own beside the journal,
//! so that rare, small writes never wait for the journal's writer, nor it for
//! them.
//!
//! One connection behind a mutex, each call one transaction on a blocking
//! thread. Time is this host's: the store is one process.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use nobat_core::{Error, ErrorCode, Result};
use parking_lot::Mutex;
use rusqlite::{Connection, params};

use crate::ledger::{Due, Ledger};
use crate::limits;

const SCHEMA: &str = "
PRAGMA journal_mode = wal;
PRAGMA synchronous = normal;
CREATE TABLE IF NOT EXISTS claim (key TEXT PRIMARY KEY, holder TEXT NOT NULL, until_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS document (
    space TEXT, key TEXT, value BLOB NOT NULL, PRIMARY KEY (space, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log (id INTEGER PRIMARY KEY, log TEXT NOT NULL, entry BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS log_by_name ON log (log, id);
CREATE TABLE IF NOT EXISTS timer (
    name TEXT, key TEXT, value BLOB NOT NULL, due_ms INTEGER NOT NULL, PRIMARY KEY (name, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS timer_by_due ON timer (name, due_ms);
";

/// Most bytes of a document: far below what SQLite takes for a row.
const VALUE_MAX: usize = 500_000_000;

/// The embedded store's ledger.
pub(super) struct SqliteLedger {
    // Held for one short transaction on a blocking thread, never across an await.
    db: Arc<Mutex<Connection>>,
}

impl SqliteLedger {
    /// Opens or creates the ledger in `file`.
    ///
    /// # Errors
    /// `queue_unavailable` with what SQLite says.
    pub(super) fn open(file: &Path) -> Result<SqliteLedger> {
        let db = Connection::open(file).map_err(unavailable)?;
        db.busy_timeout(Duration::from_secs(5)).map_err(unavailable)?;
        db.execute_batch(SCHEMA).map_err(unavailable)?;
        Ok(SqliteLedger { db: Arc::new(Mutex::new(db)) })
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
                Err(Error::new(ErrorCode::QueueUnavailable, format!("the ledger's call ended early: {error}")))
            }
        }
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn claim(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool> {
        let (key, holder) = (key.to_owned(), holder.to_owned());
        self.with(move |db| {
            let now = now_ms();
            db.prepare_cached("DELETE FROM claim WHERE until_ms <= ?1")?.execute([now])?;
            let sql =
                "INSERT INTO claim VALUES (?1, ?2, ?3) ON CONFLICT (key) DO UPDATE SET until_ms = ?3 WHERE holder = ?2";
            Ok(db.prepare_cached(sql)?.execute(params![key, holder, after(now, ttl)])? == 1)
        })
        .await
    }

    async fn release(&self, key: &str, holder: &str) -> Result<()> {
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
        let sql = "INSERT OR IGNORE INTO timer VALUES (?1, ?2, ?3, ?4)";
        self.with(move |db| Ok(db.prepare_cached(sql)?.execute(params![set, key, value, after(now_ms(), delay)])? == 1))
            .await
    }

    async fn take_due(&self, set: &str, limit: usize, lease: Duration) -> Result<Vec<Due>> {
        let set = set.to_owned();
        self.with(move |db| {
            let now = now_ms();
            let sql = "SELECT key, value FROM timer WHERE name = ?1 AND due_ms <= ?2 ORDER BY due_ms LIMIT ?3";
            let mut select = db.prepare_cached(sql)?;
            let rows = select.query_map(params![set, now, limit as i64], |row| {
                Ok(Due { key: row.get(0)?, value: row.get::<_, Vec<u8>>(1)?.into() })
            })?;
            let due: Vec<Due> = rows.collect::<rusqlite::Result<_>>()?;
            let mut lend = db.prepare_cached("UPDATE timer SET due_ms = ?3 WHERE name = ?1 AND key = ?2")?;
            for timer in &due {
                lend.execute(params![set, timer.key, after(now, lease)])?;
            }
            Ok(due)
        })
        .await
    }

    async fn move_timer(&self, set: &str, key: &str, value: &[u8], delay: Duration) -> Result<bool> {
        let (set, key, value) = (set.to_owned(), key.to_owned(), value.to_owned());
        limits::check_document(&key, value.len(), VALUE_MAX)?;
        let sql = "UPDATE timer SET value = ?3, due_ms = ?4 WHERE name = ?1 AND key = ?2";
        self.with(move |db| Ok(db.prepare_cached(sql)?.execute(params![set, key, value, after(now_ms(), delay)])? == 1))
            .await
    }

    async fn remove_timer(&self, set: &str, key: &str) -> Result<bool> {
        let (set, key) = (set.to_owned(), key.to_owned());
        let sql = "DELETE FROM timer WHERE name = ?1 AND key = ?2";
        self.with(move |db| Ok(db.prepare_cached(sql)?.execute(params![set, key])? == 1)).await
    }

    async fn timers(&self, set: &str, limit: usize) -> Result<Vec<(Due, Duration)>> {
        let set = set.to_owned();
        self.with(move |db| {
            let now = now_ms();
            let sql = "SELECT key, value, due_ms FROM timer WHERE name = ?1 ORDER BY due_ms LIMIT ?2";
            let mut select = db.prepare_cached(sql)?;
            let rows = select.query_map(params![set, limit as i64], |row| {
                let left = row.get::<_, i64>(2)?.saturating_sub(now).max(0) as u64;
                let due = Due { key: row.get(0)?, value: row.get::<_, Vec<u8>>(1)?.into() };
                Ok((due, Duration::from_millis(left)))
            })?;
            rows.collect()
        })
        .await
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

fn after(now_ms: i64, delay: Duration) -> i64 {
    now_ms.saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX))
}

fn unavailable(error: rusqlite::Error) -> Error {
    Error::new(ErrorCode::QueueUnavailable, format!("the ledger's database cannot be used: {error}"))
        .retry_after(Duration::from_secs(1))
}
