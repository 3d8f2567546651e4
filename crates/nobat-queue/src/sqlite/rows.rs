//! Jobs and results as columns: what each statement of the journal binds, and how a
//! row reads back. The order of the columns is the schema's.

use bytes::Bytes;
use nobat_core::job::{JobResult, JobState, JobView};
use nobat_core::request_trace::{RequestTrace, is_given};
use nobat_core::retry::RetryPolicy;
use nobat_core::tags::{Tags, hash_of_request};
use nobat_core::{IdIssuer, JobId, OwnerId};
use rusqlite::{Row as SqlRow, params};
use smol_str::SmolStr;

use super::machine::{Dirty, Finished, Job, JobWrite, Payload, Persisted, Phase, QueueNo, Row};

/// An ended job as the journal has it.
pub(crate) struct StoredResult {
    pub(crate) row: Row,
    pub(crate) queue: QueueNo,
    pub(crate) expires_ms: u64,
    pub(crate) random: u128,
    pub(crate) view: JobView,
}

pub(crate) fn insert_job_row(statement: &mut rusqlite::CachedStatement<'_>, write: &JobWrite) -> rusqlite::Result<()> {
    let job = &write.job;
    let (state, at_us) = stored_phase(&job.phase);
    let payload = match &job.payload {
        Payload::Memory(bytes) => &bytes[..],
        Payload::Disk(_) => &[],
    };
    statement.execute(params![
        write.row,
        job.queue,
        state,
        at_us,
        job.position,
        job.queued_us,
        job.deadline_us,
        job.attempts,
        job.deaths,
        error_text(job),
        job.random.to_le_bytes(),
        job.tombstone_min,
        job.owner.0 as i64,
        stored_priority(job),
        job.rows,
        job.created_us,
        job.result_ttl_ms,
        retry_bytes(&job.retry),
        job.trace.as_str(),
        payload,
        job.tags.stored()
    ])?;
    Ok(())
}

pub(crate) fn insert_result_row(
    statement: &mut rusqlite::CachedStatement<'_>,
    write: &JobWrite,
) -> rusqlite::Result<()> {
    let job = &write.job;
    let Phase::Finished(finished) = &job.phase else { return Ok(()) };
    statement.execute(params![
        write.row,
        job.queue,
        stored_state(finished.state),
        job.random.to_le_bytes(),
        job.tombstone_min,
        job.owner.0 as i64,
        job.priority,
        job.attempts,
        job.created_us / 1_000,
        finished.at_us / 1_000,
        finished.at_us / 1_000 + job.result_ttl_ms,
        error_text(job),
        finished.result.as_deref(),
        found_by(job)
    ])?;
    Ok(())
}

/// What a result keeps of how its job is found: the tags, and its request's id in a line
/// that begins as no tag does.
fn found_by(job: &Job) -> String {
    let request = RequestTrace::from(job.trace.as_str()).request_id;
    match is_given(&request) {
        true => format!("{}\n\r{request}", job.tags.stored()),
        false => job.tags.stored().to_owned(),
    }
}

/// The tags of [`found_by`], and the hashes of all that it names.
pub(crate) fn tags_of(found_by: &str) -> (Tags, Vec<u64>) {
    let (tags, request) = match found_by.split_once("\n\r") {
        Some((tags, request)) => (Tags::of_stored(tags), Some(hash_of_request(request))),
        None => (Tags::of_stored(found_by), None),
    };
    let hashes = tags.hashes().chain(request).collect();
    (tags, hashes)
}

/// A background job's priority is stored with this added.
const BACKGROUND: u16 = 256;

fn stored_priority(job: &Job) -> u16 {
    u16::from(job.priority) + if job.background { BACKGROUND } else { 0 }
}

pub(crate) fn error_text(job: &Job) -> Option<String> {
    // A code and a message always serialize.
    job.error.as_ref().and_then(|error| serde_json::to_string(error).ok())
}

/// Phases as numbers. A lease is not stored: a process that dies lets its
/// leased jobs go back to their old places.
pub(crate) fn stored_phase(phase: &Phase) -> (u8, u64) {
    match phase {
        Phase::Queued | Phase::Postponed { .. } | Phase::Leased { .. } | Phase::Finished(_) | Phase::Purged => (0, 0),
        Phase::Scheduled { due_us } => (1, *due_us),
        Phase::Failed { due_us } => (2, *due_us),
        Phase::Dead { at_us } => (3, *at_us),
    }
}

fn phase_of(state: u8, at_us: u64) -> Phase {
    match state {
        1 => Phase::Scheduled { due_us: at_us },
        2 => Phase::Failed { due_us: at_us },
        3 => Phase::Dead { at_us },
        _ => Phase::Queued,
    }
}

/// Terminal states by the numbers they are stored as.
const TERMINAL: [JobState; 4] = [JobState::Succeeded, JobState::Cancelled, JobState::Expired, JobState::Dead];

/// The number of a terminal state.
pub(crate) fn stored_state(state: JobState) -> usize {
    TERMINAL.iter().position(|&other| other == state).unwrap_or(3)
}

fn retry_bytes(retry: &RetryPolicy) -> [u8; 12] {
    let mut out = [0; 12];
    out[0] = retry.max_retries;
    out[1] = retry.jitter_pct;
    out[2..4].copy_from_slice(&retry.factor_pct.to_le_bytes());
    out[4..8].copy_from_slice(&retry.delay_ms.to_le_bytes());
    out[8..].copy_from_slice(&retry.max_delay_ms.to_le_bytes());
    out
}

fn retry_of([max_retries, jitter_pct, f0, f1, d0, d1, d2, d3, m0, m1, m2, m3]: [u8; 12]) -> RetryPolicy {
    RetryPolicy {
        max_retries,
        jitter_pct,
        factor_pct: u16::from_le_bytes([f0, f1]),
        delay_ms: u32::from_le_bytes([d0, d1, d2, d3]),
        max_delay_ms: u32::from_le_bytes([m0, m1, m2, m3]),
    }
}

fn read_error(row: &SqlRow<'_>, at: usize) -> rusqlite::Result<Option<nobat_core::job::JobError>> {
    Ok(row.get::<_, Option<String>>(at)?.and_then(|text| serde_json::from_str(&text).ok()))
}

pub(crate) fn read_job(row: &SqlRow<'_>) -> rusqlite::Result<Job> {
    let priority: u16 = row.get(13)?;
    Ok(Job {
        queue: row.get(1)?,
        phase: phase_of(row.get(2)?, row.get(3)?),
        position: row.get(4)?,
        queued_us: row.get(5)?,
        deadline_us: row.get(6)?,
        attempts: row.get(7)?,
        deaths: row.get(8)?,
        error: read_error(row, 9)?.map(Box::new),
        random: u128::from_le_bytes(row.get(10)?),
        tombstone_min: row.get(11)?,
        owner: OwnerId(row.get::<_, i64>(12)? as u64),
        priority: (priority % BACKGROUND) as u8,
        background: priority >= BACKGROUND,
        rows: row.get(14)?,
        created_us: row.get(15)?,
        result_ttl_ms: row.get(16)?,
        retry: retry_of(row.get(17)?),
        trace: SmolStr::from(row.get::<_, String>(18)?),
        tags: Tags::of_stored(&row.get::<_, String>(20)?),
        payload: Payload::Disk(row.get(19)?),
        stored: Persisted::Yes,
        dirty: Dirty::No,
        // Its key, if it has one, says so when it is restored.
        keyed: false,
        relaxed_us: 0,
    })
}

pub(crate) fn read_result(row: &SqlRow<'_>, ids: &IdIssuer) -> rusqlite::Result<StoredResult> {
    let number: Row = row.get(0)?;
    let random = u128::from_le_bytes(row.get(3)?);
    let owner = OwnerId(row.get::<_, i64>(5)? as u64);
    let id: JobId = ids.issue(random, row.get(4)?, number, owner);
    let result: Option<Vec<u8>> = row.get(12)?;
    let finished = Finished {
        state: TERMINAL[row.get::<_, usize>(2)?.min(3)],
        at_us: row.get::<_, u64>(9)? * 1_000,
        result: result.map(Bytes::from),
    };
    Ok(StoredResult {
        row: number,
        queue: row.get(1)?,
        random,
        expires_ms: row.get(10)?,
        view: JobView {
            id,
            model: SmolStr::default(),
            owner,
            state: finished.state,
            priority: row.get(6)?,
            attempts: row.get(7)?,
            created_at_ms: row.get(8)?,
            finished_at_ms: Some(finished.at_us / 1_000),
            error: read_error(row, 11)?,
            result: finished.result.and_then(JobResult::decode),
            tags: tags_of(&row.get::<_, String>(13)?).0,
        },
    })
}
