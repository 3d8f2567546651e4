//! The durable journal: the only file that speaks SQL.
//!
//! | table | key | holds |
//! |---|---|---|
//! | `meta` | name | the deployment's secret |
//! | `queues` | number | model, paused, totals |
//! | `jobs` | row | live jobs and dead letters, with their payload |
//! | `results` | row | ended jobs until their ttl; indexed by expiry, which arrives nearly in order |
//! | `found` | hash and row | jobs and results by their tags and their callers' request ids |
//! | `idempotency` | row | keys until they are forgotten |
//!
//! A row is the locator of the job's public id, handed out in order, so every
//! insert goes to the right edge of its tree and no random key is indexed; the
//! id's random part is compared when a row is read. `jobs` holds only what is
//! not over, so opening costs what the backlog costs, not what the history costs.
//!
//! Invariant: one group is one transaction; it is in the journal whole or not
//! at all.

use std::path::Path;

use bytes::Bytes;
use nobat_core::job::JobState;
use nobat_core::{ErrorCode, IdIssuer, OwnerId};
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::checkpoint;
use super::machine::{
    Group, IdempotencyRecord, Job, JobWrite, KeyScope, KnownKey, QueueNo, QueueRecord, Row, WriteKind,
};
use super::rows::{
    StoredResult, error_text, insert_job_row, insert_result_row, read_job, read_result, stored_phase, stored_state,
    tags_of,
};
use crate::api::Durability;

/// Most bytes of a row as SQLite is built.
const ROW_MAX: i32 = 1_000_000_000;
/// Most bytes of a row's columns but for the payload or the result; an error's message
/// has 2,000, a trace and a key are bounded by whoever takes them.
const COLUMNS_MAX: usize = 64 << 10;

/// Version of the schema, in `user_version`.
const SCHEMA_VERSION: i64 = 3;

const SCHEMA: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE queues (
    queue INTEGER PRIMARY KEY, model TEXT NOT NULL, paused INTEGER NOT NULL,
    enqueued INTEGER NOT NULL, finished INTEGER NOT NULL, dropped INTEGER NOT NULL DEFAULT 0);
CREATE TABLE jobs (
    row INTEGER PRIMARY KEY, queue INTEGER NOT NULL, state INTEGER NOT NULL, at_us INTEGER NOT NULL,
    position INTEGER NOT NULL, queued_us INTEGER NOT NULL, deadline_us INTEGER, attempts INTEGER NOT NULL,
    deaths INTEGER NOT NULL, error TEXT, random BLOB NOT NULL, horizon_min INTEGER NOT NULL, owner INTEGER NOT NULL,
    priority INTEGER NOT NULL, rows INTEGER NOT NULL, created_us INTEGER NOT NULL, result_ttl_ms INTEGER NOT NULL,
    retry BLOB NOT NULL, trace TEXT NOT NULL, payload BLOB NOT NULL, tags TEXT NOT NULL DEFAULT '');
CREATE TABLE results (
    row INTEGER PRIMARY KEY, queue INTEGER NOT NULL, state INTEGER NOT NULL, random BLOB NOT NULL,
    horizon_min INTEGER NOT NULL, owner INTEGER NOT NULL, priority INTEGER NOT NULL, attempts INTEGER NOT NULL,
    created_ms INTEGER NOT NULL, finished_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, error TEXT, result BLOB,
    tags TEXT NOT NULL DEFAULT '');
CREATE INDEX results_by_expiry ON results (expires_ms);
CREATE TABLE idempotency (
    row INTEGER PRIMARY KEY, queue INTEGER NOT NULL, owner INTEGER NOT NULL, key TEXT NOT NULL,
    fingerprint BLOB NOT NULL, random BLOB NOT NULL, horizon_min INTEGER NOT NULL, expires_us INTEGER NOT NULL);
";

/// What listings go by. A state that few results have is found by an index of those alone.
const FOUND: &str = "
CREATE TABLE IF NOT EXISTS found (hash INTEGER, row INTEGER, PRIMARY KEY (hash, row)) WITHOUT ROWID;
";
const INDEXES: &str = "
CREATE INDEX IF NOT EXISTS results_by_queue ON results (queue, row);
CREATE INDEX IF NOT EXISTS results_by_state ON results (state, row) WHERE state<>0;
CREATE INDEX IF NOT EXISTS results_by_error ON results (json_extract(error, '$.code'), row) WHERE error IS NOT NULL;
";
const NO_INDEXES: &str = "
DROP INDEX IF EXISTS results_by_queue;
DROP INDEX IF EXISTS results_by_state;
DROP INDEX IF EXISTS results_by_error;
";

const INSERT_JOB: &str =
    "INSERT INTO jobs VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21)";
const INSERT_FOUND: &str = "INSERT OR IGNORE INTO found VALUES (?1,?2)";
const DELETE_FOUND: &str = "DELETE FROM found WHERE hash=?1 AND row=?2";
const UPDATE_JOB: &str = "UPDATE jobs SET state=?2, at_us=?3, position=?4, queued_us=?5, deadline_us=?6, attempts=?7, deaths=?8, error=?9 WHERE row=?1";
const DELETE_JOB: &str = "DELETE FROM jobs WHERE row=?1";
const INSERT_RESULT: &str = "INSERT INTO results VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14)";
const INSERT_KEY: &str = "INSERT INTO idempotency VALUES (?1,?2,?3,?4,?5,?6,?7,?8)";
const DELETE_KEYS: &str = "DELETE FROM idempotency WHERE row<=?1";
const PUT_QUEUE: &str = "INSERT OR REPLACE INTO queues VALUES (?1,?2,?3,?4,?5,?6)";
const EXPIRE_RESULTS: &str = "DELETE FROM results WHERE row IN (SELECT row FROM results WHERE expires_ms<=?1 ORDER BY expires_ms LIMIT ?2) RETURNING row, tags";
const NEXT_EXPIRY: &str = "SELECT min(expires_ms) FROM results";
const GET_RESULT: &str = "SELECT * FROM results WHERE row=?1";
/// The columns of a result, without the result.
const LISTED: &str = "row, queue, state, random, horizon_min, owner, priority, attempts, created_ms, finished_ms, expires_ms, error, NULL, tags";

/// The writing end; one per folder.
pub(crate) struct Journal {
    db: Connection,
    /// Whether new jobs are written into `found`.
    index: bool,
}

/// A reading end; any number.
pub(crate) struct JournalReader {
    db: Connection,
}

impl Journal {
    /// Opens or creates the journal in `file`.
    ///
    /// # Errors
    /// What SQLite says; a schema that a newer version wrote.
    pub(crate) fn open(file: &Path, durability: Durability, index: bool) -> Result<Journal, JournalError> {
        let mut db = Connection::open_with_flags(
            file,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        db.pragma_update(None, "journal_mode", "wal")?;
        let synchronous = match durability {
            Durability::Memory => "normal",
            Durability::Fsync | Durability::Replicated => "full",
        };
        db.pragma_update(None, "synchronous", synchronous)?;
        db.pragma_update(None, "journal_size_limit", 2 * i64::from(checkpoint::PAGES) * 4096)?;
        db.pragma_update(None, "cache_size", -32 * 1024)?;
        db.pragma_update(None, "temp_store", "memory")?;
        db.set_prepared_statement_cache_capacity(32);
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match version {
            0 => {
                let secret: [u8; 16] = rand::random();
                db.execute_batch("BEGIN IMMEDIATE")?;
                db.execute_batch(SCHEMA)?;
                db.execute("INSERT INTO meta VALUES ('secret', ?1)", params![secret])?;
                db.pragma_update(None, "user_version", SCHEMA_VERSION)?;
                db.execute_batch("COMMIT")?;
            }
            1 | 2 => {
                let dropped = "ALTER TABLE queues ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0;";
                let dropped = if version == 1 { dropped } else { "" };
                db.execute_batch(&format!(
                    "BEGIN IMMEDIATE; {dropped}
                     ALTER TABLE jobs ADD COLUMN tags TEXT NOT NULL DEFAULT '';
                     ALTER TABLE results ADD COLUMN tags TEXT NOT NULL DEFAULT '';
                     PRAGMA user_version={SCHEMA_VERSION}; COMMIT"
                ))?;
            }
            SCHEMA_VERSION => {}
            newer => {
                return Err(JournalError::Other(format!(
                    "its schema is version {newer}, this nobat reads version {SCHEMA_VERSION}; use the nobat that wrote it"
                )));
            }
        }
        db.execute_batch(FOUND)?;
        db.execute_batch(if index { INDEXES } else { NO_INDEXES })?;
        checkpoint::start(file, &mut db)?;
        Ok(Journal { db, index })
    }

    /// The deployment's secret for ids.
    pub(crate) fn secret(&self) -> Result<[u8; 16], JournalError> {
        Ok(self.db.query_row("SELECT value FROM meta WHERE name='secret'", [], |row| row.get(0))?)
    }

    /// Every queue, in order of number.
    pub(crate) fn queues(&self) -> Result<Vec<QueueRecord>, JournalError> {
        let mut statement = self.db.prepare("SELECT * FROM queues ORDER BY queue")?;
        let rows = statement.query_map([], |row| {
            Ok(QueueRecord {
                queue: row.get(0)?,
                model: row.get::<_, String>(1)?.into(),
                paused: row.get(2)?,
                enqueued: row.get(3)?,
                finished: row.get(4)?,
                dropped: row.get(5)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Every live and dead job, in order of row; payloads stay in the journal.
    pub(crate) fn each_job(&self, mut take: impl FnMut(Row, Job)) -> Result<(), JournalError> {
        let mut statement = self.db.prepare(
            "SELECT row, queue, state, at_us, position, queued_us, deadline_us, attempts, deaths, error, random, horizon_min, owner,
             priority, rows, created_us, result_ttl_ms, retry, trace, length(payload), tags FROM jobs ORDER BY row",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            take(row.get(0)?, read_job(row)?);
        }
        Ok(())
    }

    /// Every idempotency key, in order of row, with the end of its job's result if
    /// there is one.
    pub(crate) fn keys(&self) -> Result<Vec<IdempotencyRecord>, JournalError> {
        let mut statement = self.db.prepare(
            "SELECT idempotency.*, results.expires_ms FROM idempotency LEFT JOIN results USING (row) ORDER BY idempotency.row",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(IdempotencyRecord {
                scope: KeyScope {
                    queue: row.get(1)?,
                    owner: OwnerId(row.get::<_, i64>(2)? as u64),
                    key: row.get::<_, String>(3)?.into(),
                },
                known: KnownKey {
                    row: row.get(0)?,
                    fingerprint: u128::from_le_bytes(row.get(4)?),
                    random: u128::from_le_bytes(row.get(5)?),
                    tombstone_min: row.get(6)?,
                    expires_us: row.get(7)?,
                    ends_ms: row.get(8)?,
                },
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The last row in use, 0 when there is none.
    pub(crate) fn last_row(&self) -> Result<Row, JournalError> {
        let last = "SELECT max(ifnull((SELECT max(row) FROM jobs), 0), ifnull((SELECT max(row) FROM results), 0))";
        Ok(self.db.query_row(last, [], |row| row.get(0))?)
    }

    /// When the oldest result expires, milliseconds since 1970.
    pub(crate) fn next_expiry(&self) -> Result<Option<u64>, JournalError> {
        Ok(self.db.prepare_cached(NEXT_EXPIRY)?.query_row([], |row| row.get(0))?)
    }

    /// Writes a group in one transaction, and with it deletes up to
    /// `expire.1` results that expired before `expire.0`. Returns how many.
    ///
    /// # Errors
    /// What SQLite says; then nothing of the group is written.
    pub(crate) fn commit(&mut self, group: &Group, expire: Option<(u64, usize)>) -> Result<usize, JournalError> {
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let written = self.write(group, expire).and_then(|expired| {
            self.db.prepare_cached("COMMIT")?.execute([])?;
            Ok(expired)
        });
        if written.is_err() && !self.db.is_autocommit() {
            // A full disk may have rolled back already; a second error says no more.
            let _ = self.db.execute_batch("ROLLBACK");
        }
        written
    }

    fn write(&self, group: &Group, expire: Option<(u64, usize)>) -> Result<usize, JournalError> {
        for queue in &group.queues {
            self.db.prepare_cached(PUT_QUEUE)?.execute(params![
                queue.queue,
                queue.model.as_str(),
                queue.paused,
                queue.enqueued,
                queue.finished,
                queue.dropped
            ])?;
        }
        {
            let mut insert_job = self.db.prepare_cached(INSERT_JOB)?;
            let mut update_job = self.db.prepare_cached(UPDATE_JOB)?;
            let mut delete_job = self.db.prepare_cached(DELETE_JOB)?;
            let mut insert_result = self.db.prepare_cached(INSERT_RESULT)?;
            for write in &group.writes {
                match write.kind {
                    WriteKind::Insert => {
                        insert_job_row(&mut insert_job, write)?;
                        self.note_found(write)?;
                    }
                    WriteKind::Update => {
                        let (state, at_us) = stored_phase(&write.job.phase);
                        let job = &write.job;
                        update_job.execute(params![
                            write.row,
                            state,
                            at_us,
                            job.position,
                            job.queued_us,
                            job.deadline_us,
                            job.attempts,
                            job.deaths,
                            error_text(job)
                        ])?;
                    }
                    WriteKind::Finish { stored } => {
                        if stored {
                            delete_job.execute([write.row])?;
                        } else {
                            self.note_found(write)?;
                        }
                        insert_result_row(&mut insert_result, write)?;
                    }
                    WriteKind::Delete => {
                        delete_job.execute([write.row])?;
                        self.forget_found(write.row, &write.job.hashes())?;
                    }
                }
            }
        }
        for key in &group.keys {
            let known = &key.known;
            self.db.prepare_cached(INSERT_KEY)?.execute(params![
                known.row,
                key.scope.queue,
                key.scope.owner.0 as i64,
                key.scope.key.as_str(),
                known.fingerprint.to_le_bytes(),
                known.random.to_le_bytes(),
                known.tombstone_min,
                known.expires_us
            ])?;
        }
        if let Some(row) = group.forget_keys_to {
            self.db.prepare_cached(DELETE_KEYS)?.execute([row])?;
        }
        Ok(match expire {
            Some((before_ms, limit)) => self.expire(before_ms, limit)?,
            None => 0,
        })
    }

    /// Deletes results that expired before `before_ms`, and what they were found by.
    fn expire(&self, before_ms: u64, limit: usize) -> Result<usize, JournalError> {
        let mut statement = self.db.prepare_cached(EXPIRE_RESULTS)?;
        let gone = statement.query_map(params![before_ms, limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let gone: Vec<(Row, String)> = gone.collect::<Result<_, _>>()?;
        for (row, found_by) in gone.iter().filter(|(_, found_by)| !found_by.is_empty()) {
            self.forget_found(*row, &tags_of(found_by).1)?;
        }
        Ok(gone.len())
    }

    fn note_found(&self, write: &JobWrite) -> Result<(), JournalError> {
        if !self.index {
            return Ok(());
        }
        for hash in write.job.hashes() {
            self.db.prepare_cached(INSERT_FOUND)?.execute(params![hash as i64, write.row])?;
        }
        Ok(())
    }

    fn forget_found(&self, row: Row, hashes: &[u64]) -> Result<(), JournalError> {
        for &hash in hashes {
            self.db.prepare_cached(DELETE_FOUND)?.execute(params![hash as i64, row])?;
        }
        Ok(())
    }

    /// Writes `bytes` and takes them back: whether the disk takes that much again.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) fn probe(&mut self, bytes: u64) -> Result<(), JournalError> {
        self.db.execute("INSERT OR REPLACE INTO meta VALUES ('probe', zeroblob(?1))", [bytes])?;
        self.db.execute("DELETE FROM meta WHERE name='probe'", [])?;
        Ok(())
    }

    /// Most bytes of an input or a result: a row holds it and some columns more.
    pub(crate) fn value_max(&self) -> usize {
        let row = self.db.limit(Limit::SQLITE_LIMIT_LENGTH).unwrap_or(ROW_MAX);
        usize::try_from(row).unwrap_or_default().saturating_sub(COLUMNS_MAX)
    }

    /// Lets a row be no larger than this.
    #[cfg(test)]
    pub(crate) fn limit_rows(&mut self, bytes: i32) {
        self.db.set_limit(Limit::SQLITE_LIMIT_LENGTH, bytes).expect("a limit");
    }

    /// Lets the database grow no further, as a full disk does.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, pages: u32) {
        self.db.pragma_update(None, "max_page_count", pages).expect("a pragma");
    }
}

impl JournalReader {
    /// Opens `file`, which a [`Journal`] has created, for reading.
    pub(crate) fn open(file: &Path) -> Result<JournalReader, JournalError> {
        let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        db.pragma_update(None, "cache_size", -4 * 1024)?;
        Ok(JournalReader { db })
    }

    /// A live or dead job's payload.
    pub(crate) fn payload(&self, row: Row) -> Result<Option<Bytes>, JournalError> {
        let mut statement = self.db.prepare_cached("SELECT payload FROM jobs WHERE row=?1")?;
        Ok(statement.query_row([row], |row| row.get::<_, Vec<u8>>(0)).optional()?.map(Bytes::from))
    }

    /// An ended job.
    pub(crate) fn result(&self, row: Row, ids: &IdIssuer) -> Result<Option<StoredResult>, JournalError> {
        Ok(self.db.prepare_cached(GET_RESULT)?.query_row([row], |row| read_result(row, ids)).optional()?)
    }

    /// Up to `limit` ended jobs below `before` that have an error of this code, newest first,
    /// without results.
    pub(crate) fn errors(
        &self,
        before: Row,
        limit: usize,
        code: ErrorCode,
        ids: &IdIssuer,
    ) -> Result<Vec<StoredResult>, JournalError> {
        let sql = format!(
            "SELECT {LISTED} FROM results WHERE json_extract(error, '$.code')=?3 AND error IS NOT NULL AND row<?1 ORDER BY row DESC LIMIT ?2"
        );
        let mut statement = self.db.prepare_cached(&sql)?;
        let bound = params![before.min(i64::MAX as u64), limit, code.as_str()];
        let rows = statement.query_map(bound, |row| read_result(row, ids))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Up to `limit` ended jobs below `before`, newest first, without results: of one state,
    /// if one is given, or else of one queue.
    pub(crate) fn results(
        &self,
        before: Row,
        limit: usize,
        state: Option<JobState>,
        queue: Option<QueueNo>,
        ids: &IdIssuer,
    ) -> Result<Vec<StoredResult>, JournalError> {
        // An index of few states is used where the statement names the state.
        let only = match (state.filter(|&state| state != JobState::Succeeded), queue) {
            (Some(state), _) => format!("AND state={} AND state<>0", stored_state(state)),
            (None, Some(queue)) => format!("AND queue={queue}"),
            (None, None) => String::new(),
        };
        let sql = format!("SELECT {LISTED} FROM results WHERE row<?1 {only} ORDER BY row DESC LIMIT ?2");
        let mut statement = self.db.prepare_cached(&sql)?;
        let rows = statement.query_map(params![before.min(i64::MAX as u64), limit], |row| read_result(row, ids))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Up to `limit` rows below `before` that one of these hashes finds, newest first.
    pub(crate) fn found(&self, hashes: &[u64], before: Row, limit: usize) -> Result<Vec<Row>, JournalError> {
        let mut rows = Vec::new();
        for &hash in hashes {
            let sql = "SELECT row FROM found WHERE hash=?1 AND row<?2 ORDER BY row DESC LIMIT ?3";
            let mut statement = self.db.prepare_cached(sql)?;
            let bound = params![hash as i64, before.min(i64::MAX as u64), limit];
            let own = statement.query_map(bound, |row| row.get::<_, Row>(0))?;
            rows.extend(own.collect::<Result<Vec<_>, _>>()?);
        }
        rows.sort_unstable_by(|a, b| b.cmp(a));
        rows.dedup();
        rows.truncate(limit);
        Ok(rows)
    }

    /// The first row from `row` on that has a result, and when its job was enqueued, ms.
    pub(crate) fn next_created(&self, row: Row) -> Result<Option<(Row, u64)>, JournalError> {
        let sql = "SELECT row, created_ms FROM results WHERE row>=?1 ORDER BY row LIMIT 1";
        let mut statement = self.db.prepare_cached(sql)?;
        Ok(statement.query_row([row.min(i64::MAX as u64)], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
    }
}

/// What went wrong with the journal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// SQLite's own words.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// Ours.
    #[error("{0}")]
    Other(String),
}
