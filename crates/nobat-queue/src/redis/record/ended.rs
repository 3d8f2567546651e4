//! Jobs that have ended, packed and read.
//!
//! A result is what a store keeps longest, and by the million, so a job that
//! succeeded is repacked: `state|flags 1, finished 5 (ms since 2020), tombstone
//! expiry varint (minutes after the end)`, then what the flags name (owner 8, priority 1,
//! attempts 1, tags with a length u16, token 8), then the packed `JobResult`. Every byte counts where it
//! decides the allocator's size class: with 99 bytes of result the record fills
//! one of 112 bytes.
//!
//! What ended without a result keeps its own layout ([`layout`](super::layout)).

use bytes::Bytes;
use nobat_core::job::{JobError, JobResult, JobState, JobView};
use nobat_core::tags::Tags;
use nobat_core::varint::{put_u64 as put_varint, take_u64 as take_varint};
use nobat_core::{ErrorCode, IdIssuer, JobId, OwnerId};

use super::super::keys::QueueKeys;
use super::layout::{Record, state};

/// Milliseconds from 1970 to 2020: five bytes reach from there to 2054.
const EPOCH_MS: u64 = 1_577_836_800_000;
const HAS_OWNER: u8 = 8;
const HAS_PRIORITY: u8 = 16;
const HAS_ATTEMPTS: u8 = 32;
const HAS_BLOB: u8 = 64;
const HAS_TAGS: u8 = 128;
const STATE_MASK: u8 = 7;

/// Packs a succeeded job; `blob` names the token under which the result
/// travels beside, and then `result` stays out.
pub(crate) fn succeeded(record: &Record, attempts: u8, finished_us: u64, result: &[u8], blob: Option<u64>) -> Vec<u8> {
    let finished_ms = finished_us / 1000;
    let mut out = Vec::with_capacity(28 + if blob.is_some() { 0 } else { result.len() });
    out.push(state::SUCCEEDED);
    out.extend_from_slice(&finished_ms.saturating_sub(EPOCH_MS).to_le_bytes()[..5]);
    // Two bytes for any expiry within eleven days.
    put_varint(&mut out, u64::from(record.tombstone_min).saturating_sub(finished_ms / 60_000));
    if record.owner != OwnerId::ANONYMOUS {
        out[0] |= HAS_OWNER;
        out.extend_from_slice(&record.owner.0.to_le_bytes());
    }
    if record.priority != 0 {
        out[0] |= HAS_PRIORITY;
        out.push(record.priority);
    }
    if attempts != 1 {
        out[0] |= HAS_ATTEMPTS;
        out.push(attempts);
    }
    if !record.tags.is_empty() {
        out[0] |= HAS_TAGS;
        let tags = record.tags.stored();
        out.extend_from_slice(&(tags.len() as u16).to_le_bytes());
        out.extend_from_slice(tags.as_bytes());
    }
    match blob {
        Some(token) => {
            out[0] |= HAS_BLOB;
            out.extend_from_slice(&token.to_le_bytes());
        }
        None => out.extend_from_slice(result),
    }
    out
}

/// A stored job, as far as one string tells.
#[derive(Clone, Debug)]
pub(crate) struct StoredJob {
    pub(crate) view: JobView,
    /// The token under which the result travels beside.
    pub(crate) blob: Option<u64>,
}

/// Reads a record into a view, its id made from `random` and what the record
/// holds. A pending record is given `pending` as its state. `None` when it
/// cannot be read.
pub(crate) fn read(
    bytes: Bytes,
    queue: &QueueKeys,
    random: u128,
    ids: IdIssuer,
    pending: JobState,
) -> Option<StoredJob> {
    let first = *bytes.first()?;
    if first & STATE_MASK == state::SUCCEEDED {
        return read_succeeded(bytes, queue, random, ids);
    }
    let record = Record::parse(&bytes)?;
    let state = match record.state {
        state::PENDING => pending,
        state::DEAD => JobState::Dead,
        state::CANCELLED => JobState::Cancelled,
        _ => JobState::Expired,
    };
    let id = ids.issue(random, record.tombstone_min, queue.number, record.owner);
    let begun = u32::from(record.attempts) + u32::from(state == JobState::Leased);
    let view = JobView {
        id,
        model: queue.model.clone(),
        owner: record.owner,
        state,
        priority: record.priority,
        attempts: begun,
        created_at_ms: record.created_us / 1000,
        finished_at_ms: record.error.as_ref().filter(|_| state.is_terminal()).map(|tail| tail.at_us / 1000),
        error: record.error.map(|tail| tail.error),
        result: None,
        tags: record.tags,
    };
    Some(StoredJob { view, blob: None })
}

fn read_succeeded(bytes: Bytes, queue: &QueueKeys, random: u128, ids: IdIssuer) -> Option<StoredJob> {
    let (&first, mut rest) = bytes.split_first()?;
    let (finished, tail) = rest.split_first_chunk::<5>()?;
    rest = tail;
    let mut wide = [0; 8];
    wide[..5].copy_from_slice(finished);
    let finished_ms = u64::from_le_bytes(wide) + EPOCH_MS;
    let tombstone_min = u32::try_from(take_varint(&mut rest)? + finished_ms / 60_000).ok()?;
    let mut owner = OwnerId::ANONYMOUS;
    if first & HAS_OWNER != 0 {
        let (bytes, tail) = rest.split_first_chunk()?;
        (owner, rest) = (OwnerId(u64::from_le_bytes(*bytes)), tail);
    }
    let mut take_byte = |has: u8, absent: u8| match first & has {
        0 => Some(absent),
        _ => rest.split_first().map(|(&byte, tail)| {
            rest = tail;
            byte
        }),
    };
    let priority = take_byte(HAS_PRIORITY, 0)?;
    let attempts = take_byte(HAS_ATTEMPTS, 1)?;
    let mut tags = Tags::default();
    if first & HAS_TAGS != 0 {
        let (len, tail) = rest.split_first_chunk()?;
        let (text, tail) = tail.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        (tags, rest) = (Tags::of_stored(std::str::from_utf8(text).ok()?), tail);
    }
    let mut view = JobView {
        id: ids.issue(random, tombstone_min, queue.number, owner),
        model: queue.model.clone(),
        owner,
        state: JobState::Succeeded,
        priority,
        attempts: u32::from(attempts),
        created_at_ms: 0,
        finished_at_ms: Some(finished_ms),
        error: None,
        result: None,
        tags,
    };
    if first & HAS_BLOB != 0 {
        let token = u64::from_le_bytes(*rest.first_chunk()?);
        return Some(StoredJob { view, blob: Some(token) });
    }
    set_result(&mut view, bytes.slice_ref(rest));
    Some(StoredJob { view, blob: None })
}

/// Puts a packed result into a succeeded view; one that cannot be read becomes
/// the view's error.
pub(crate) fn set_result(view: &mut JobView, packed: Bytes) {
    match JobResult::decode(packed) {
        Some(result) => {
            let took = result.timings.total().as_millis() as u64;
            view.created_at_ms = view.finished_at_ms.unwrap_or_default().saturating_sub(took);
            view.result = Some(result);
        }
        None => {
            view.state = JobState::Dead;
            view.error = Some(JobError {
                code: ErrorCode::InvalidWorkerResult,
                message: "the stored result cannot be read; run the request again".to_owned(),
            });
        }
    }
}

/// What a reader sees of a record that cannot be read.
pub(crate) fn corrupt_view(id: JobId, queue: &QueueKeys, owner: OwnerId) -> JobView {
    JobView {
        id,
        model: queue.model.clone(),
        owner,
        state: JobState::Dead,
        priority: 0,
        attempts: 0,
        created_at_ms: 0,
        finished_at_ms: None,
        error: Some(JobError { code: ErrorCode::Internal, message: CORRUPT.to_owned() }),
        result: None,
        tags: Tags::default(),
    }
}

/// Why a job with an unreadable record is dead.
pub(crate) const CORRUPT: &str = "the stored job record is corrupt; send the request again";
