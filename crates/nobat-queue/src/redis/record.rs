//! How a job is packed into one Redis string.
//!
//! A job that lives, and one that ended without a result:
//!
//! ```text
//! 0      state     1 pending, 3 dead, 4 cancelled, 5 expired, 6 found corrupt
//! 1      attempts that have ended (saturating)
//! 2      deaths: workers lost while holding it
//! 3      flags     [`Flags`]
//! 4..12  created   us, f64   ┐ written by the scripts, from TIME
//! 12..20 queued    us, f64   │ (enqueued, or last became due)
//! 20..28 score     f64       ┘ its place in `ready`, kept through leases
//! 28..36 lane      who to publish to (zeros: nobody)
//! 36..40 ttl       of its result, ms, f32 (exact to 4 hours)
//! 40     length of the header that follows
//! 41..   header    [deadline us f64], then varints: horizon, owner, rows,
//!                  priority, retry policy, trace; payload length u32 at its end
//! ..     payload   unless it travels beside (`BLOB`) or was dropped (`STRIPPED`)
//! ..     tail      with `TAIL`: token 8, code 1, at us f64, length u16, message
//! ```
//!
//! A job that succeeded is repacked (results are what a store keeps longest):
//! `state|flags 1, finished ms 6, horizon varint`, then what the flags name
//! (owner 8, priority 1, attempts 1, token 8), then the packed `JobResult`.
//!
//! `leased` is not stored: it is "pending, and neither ready nor scheduled", so
//! that leasing writes nothing into the record. The scripts read and patch the
//! first 41 bytes, the deadline and the tail; nothing else is known to them.

use std::time::Duration;

use bytes::Bytes;
use nobat_core::job::{JobError, JobResult, JobState, JobView, NewJob};
use nobat_core::retry::RetryPolicy;
use nobat_core::{ErrorCode, IdIssuer, JobId, OwnerId};
use smol_str::SmolStr;

use super::keys::QueueKeys;

/// First bytes of a record.
pub(crate) mod state {
    pub(crate) const PENDING: u8 = 1;
    pub(crate) const SUCCEEDED: u8 = 2;
    pub(crate) const DEAD: u8 = 3;
    pub(crate) const CANCELLED: u8 = 4;
    pub(crate) const EXPIRED: u8 = 5;
    pub(crate) const CORRUPT: u8 = 6;
}

/// Bits of byte 3.
pub(crate) mod flag {
    /// The header begins with a deadline.
    pub(crate) const DEADLINE: u8 = 1;
    /// The payload travels beside the record.
    pub(crate) const BLOB: u8 = 2;
    /// A lane waits for the end.
    pub(crate) const REPLY: u8 = 4;
    /// A tail with the last error follows.
    pub(crate) const TAIL: u8 = 8;
    /// The payload was dropped.
    pub(crate) const STRIPPED: u8 = 16;
}

/// Bytes before the header.
pub(crate) const FIXED: usize = 41;
/// A trace longer than this is cut: the header's length is one byte.
const TRACE_MAX: usize = 160;

/// What the scripts need apart from the record when a job is enqueued.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    /// Bytes 0..4.
    pub(crate) first: [u8; 4],
    /// Bytes 28 and on; the scripts put the times between.
    pub(crate) rest: Vec<u8>,
    /// A payload that travels beside.
    pub(crate) blob: Option<Bytes>,
}

/// Packs a job to enqueue.
pub(crate) fn encode(job: &NewJob, horizon_min: u32, lane: Option<[u8; 8]>) -> Encoded {
    let blob = job.payload.len() > super::keys::INLINE_MAX;
    let mut flags = 0;
    let mut rest = Vec::with_capacity(80 + job.trace.len() + if blob { 0 } else { job.payload.len() });
    if lane.is_some() {
        flags |= flag::REPLY;
    }
    rest.extend_from_slice(&lane.unwrap_or_default());
    let ttl_ms = job.options.result_ttl.as_millis().max(1) as f32;
    rest.extend_from_slice(&ttl_ms.to_le_bytes());
    let length_at = rest.len();
    rest.push(0);
    if job.options.deadline.is_some() {
        flags |= flag::DEADLINE;
        rest.extend_from_slice(&[0; 8]);
    }
    if blob {
        flags |= flag::BLOB;
    }
    put_varint(&mut rest, u64::from(horizon_min));
    put_varint(&mut rest, job.owner.0);
    put_varint(&mut rest, u64::from(job.rows));
    rest.push(job.options.priority);
    put_retry(&mut rest, job.options.retry);
    let mut cut = job.trace.len().min(TRACE_MAX);
    while !job.trace.is_char_boundary(cut) {
        cut -= 1;
    }
    put_varint(&mut rest, cut as u64);
    rest.extend_from_slice(&job.trace.as_bytes()[..cut]);
    rest.extend_from_slice(&(job.payload.len() as u32).to_le_bytes());
    rest[length_at] = (rest.len() - length_at - 1) as u8;
    if !blob {
        rest.extend_from_slice(&job.payload);
    }
    Encoded { first: [state::PENDING, 0, 0, flags], rest, blob: blob.then(|| job.payload.clone()) }
}

/// A parsed record of a job that has no result.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) state: u8,
    pub(crate) attempts: u8,
    pub(crate) deaths: u8,
    pub(crate) flags: u8,
    pub(crate) created_us: u64,
    pub(crate) queued_us: u64,
    pub(crate) lane: [u8; 8],
    pub(crate) ttl_ms: u64,
    pub(crate) deadline_us: Option<u64>,
    pub(crate) horizon_min: u32,
    pub(crate) owner: OwnerId,
    pub(crate) rows: u32,
    pub(crate) priority: u8,
    pub(crate) retry: RetryPolicy,
    pub(crate) trace: SmolStr,
    /// Where the payload begins, which is also the length of the head.
    pub(crate) head_len: usize,
    /// Where the payload ends and a tail begins.
    pub(crate) tail_at: usize,
    pub(crate) error: Option<Tail>,
}

/// The last error and under which lease it was settled.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tail {
    pub(crate) token: u64,
    pub(crate) at_us: u64,
    pub(crate) error: JobError,
}

impl Record {
    /// Parses a record that is not a succeeded one; `None` when malformed.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Record> {
        let fixed: &[u8; FIXED] = bytes.first_chunk()?;
        let [state, attempts, deaths, flags] = *fixed.first_chunk()?;
        if !matches!(state, state::PENDING | state::DEAD | state::CANCELLED | state::EXPIRED) {
            return None;
        }
        let head_len = FIXED + usize::from(fixed[40]);
        let mut head = bytes.get(FIXED..head_len)?;
        let deadline_us = match flags & flag::DEADLINE {
            0 => None,
            _ => Some(take_f64(&mut head)?),
        };
        let horizon_min = u32::try_from(take_varint(&mut head)?).ok()?;
        let owner = OwnerId(take_varint(&mut head)?);
        let rows = u32::try_from(take_varint(&mut head)?).ok()?;
        let (&priority, tail) = head.split_first()?;
        head = tail;
        let retry = take_retry(&mut head)?;
        let trace_len = usize::try_from(take_varint(&mut head)?).ok()?;
        let trace = std::str::from_utf8(head.get(..trace_len)?).ok()?.into();
        head = &head[trace_len..];
        let payload_len = u32::from_le_bytes(*head.first_chunk()?) as usize;
        let inline = if flags & (flag::BLOB | flag::STRIPPED) == 0 { payload_len } else { 0 };
        let tail_at = head_len.checked_add(inline).filter(|&end| end <= bytes.len())?;
        let error = match flags & flag::TAIL {
            0 => None,
            _ => Some(Tail::parse(&bytes[tail_at..])?),
        };
        Some(Record {
            state,
            attempts,
            deaths,
            flags,
            created_us: f64_at(fixed, 4),
            queued_us: f64_at(fixed, 12),
            lane: fixed[28..36].try_into().ok()?,
            ttl_ms: f32::from_le_bytes(fixed[36..40].try_into().ok()?).max(1.0) as u64,
            deadline_us,
            horizon_min,
            owner,
            rows,
            priority,
            retry,
            trace,
            head_len,
            tail_at,
            error,
        })
    }
}

impl Tail {
    fn parse(mut bytes: &[u8]) -> Option<Tail> {
        let (token, rest) = bytes.split_first_chunk()?;
        let (&code, rest) = rest.split_first()?;
        bytes = rest;
        let at_us = take_f64(&mut bytes)?;
        let (len, rest) = bytes.split_first_chunk()?;
        let message = String::from_utf8_lossy(rest.get(..usize::from(u16::from_le_bytes(*len)))?).into_owned();
        let code = ErrorCode::ALL.get(usize::from(code)).copied().unwrap_or(ErrorCode::Internal);
        Some(Tail { token: u64::from_le_bytes(*token), at_us, error: JobError { code, message } })
    }
}

/// The number a code has in records: its place in the closed set.
pub(crate) fn code_number(code: ErrorCode) -> u8 {
    ErrorCode::ALL.iter().position(|&other| other == code).unwrap_or_default() as u8
}

const HAS_OWNER: u8 = 8;
const HAS_PRIORITY: u8 = 16;
const HAS_ATTEMPTS: u8 = 32;
const HAS_BLOB: u8 = 64;
const STATE_MASK: u8 = 7;

/// Packs a succeeded job; `blob` names the token under which the result
/// travels beside, and then `result` stays out.
pub(crate) fn succeeded(record: &Record, attempts: u8, finished_us: u64, result: &[u8], blob: Option<u64>) -> Vec<u8> {
    let finished_ms = finished_us / 1000;
    let mut out = Vec::with_capacity(28 + if blob.is_some() { 0 } else { result.len() });
    out.push(state::SUCCEEDED);
    out.extend_from_slice(&finished_ms.to_le_bytes()[..6]);
    // Two bytes for any horizon within eleven days.
    put_varint(&mut out, u64::from(record.horizon_min).saturating_sub(finished_ms / 60_000));
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
pub(crate) struct Stored {
    pub(crate) view: JobView,
    /// The token under which the result travels beside.
    pub(crate) blob: Option<u64>,
}

/// Reads a record into a view, its id made from `random` and what the record
/// holds. A pending record is given `pending` as its state. `None` when it
/// cannot be read.
pub(crate) fn read(bytes: Bytes, queue: &QueueKeys, random: u128, ids: IdIssuer, pending: JobState) -> Option<Stored> {
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
    let id = ids.issue(random, record.horizon_min, queue.number, record.owner);
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
    };
    Some(Stored { view, blob: None })
}

fn read_succeeded(bytes: Bytes, queue: &QueueKeys, random: u128, ids: IdIssuer) -> Option<Stored> {
    let (&first, mut rest) = bytes.split_first()?;
    let (finished, tail) = rest.split_first_chunk::<6>()?;
    rest = tail;
    let mut wide = [0; 8];
    wide[..6].copy_from_slice(finished);
    let finished_ms = u64::from_le_bytes(wide);
    let horizon_min = u32::try_from(take_varint(&mut rest)? + finished_ms / 60_000).ok()?;
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
    let mut view = JobView {
        id: ids.issue(random, horizon_min, queue.number, owner),
        model: queue.model.clone(),
        owner,
        state: JobState::Succeeded,
        priority,
        attempts: u32::from(attempts),
        created_at_ms: 0,
        finished_at_ms: Some(finished_ms),
        error: None,
        result: None,
    };
    if first & HAS_BLOB != 0 {
        let token = u64::from_le_bytes(*rest.first_chunk()?);
        return Some(Stored { view, blob: Some(token) });
    }
    set_result(&mut view, bytes.slice_ref(rest));
    Some(Stored { view, blob: None })
}

/// Puts a packed result into a succeeded view; one that cannot be read becomes
/// the view's error.
pub(crate) fn set_result(view: &mut JobView, packed: Bytes) {
    match JobResult::decode(packed) {
        Some(result) => {
            let took = result.explain.total().as_millis() as u64;
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
    }
}

/// Why a job with an unreadable record is dead.
pub(crate) const CORRUPT: &str = "the stored job record is corrupt; send the request again";

/// Time a leased job has left.
pub(crate) fn time_left(record: &Record, now_us: u64) -> Option<Duration> {
    record.deadline_us.map(|at| Duration::from_micros(at.saturating_sub(now_us)))
}

fn f64_at(bytes: &[u8; FIXED], at: usize) -> u64 {
    let mut wide = [0; 8];
    wide.copy_from_slice(&bytes[at..at + 8]);
    f64::from_le_bytes(wide).max(0.0) as u64
}

fn take_f64(input: &mut &[u8]) -> Option<u64> {
    let (bytes, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(f64::from_le_bytes(*bytes).max(0.0) as u64)
}

/// One byte for the default policy, which nearly every job has.
fn put_retry(out: &mut Vec<u8>, retry: RetryPolicy) {
    if retry == RetryPolicy::default() {
        out.push(0);
        return;
    }
    out.push(1);
    out.push(retry.max_retries);
    out.push(retry.jitter_pct);
    for value in [retry.delay_ms, u32::from(retry.factor_pct), retry.max_delay_ms] {
        put_varint(out, u64::from(value));
    }
}

fn take_retry(input: &mut &[u8]) -> Option<RetryPolicy> {
    let (&kind, rest) = input.split_first()?;
    *input = rest;
    match kind {
        0 => Some(RetryPolicy::default()),
        1 => {
            let (&[max_retries, jitter_pct], rest) = input.split_first_chunk()?;
            *input = rest;
            let mut next = || take_varint(input);
            Some(RetryPolicy {
                max_retries,
                jitter_pct,
                delay_ms: u32::try_from(next()?).ok()?,
                factor_pct: u16::try_from(next()?).ok()?,
                max_delay_ms: u32::try_from(next()?).ok()?,
            })
        }
        _ => None,
    }
}

use nobat_core::varint::{put_u64 as put_varint, take_u64 as take_varint};

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::explain::Explain;
    use nobat_core::job::JobOptions;
    use proptest::prelude::*;

    fn queue() -> QueueKeys {
        QueueKeys { model: "digits".into(), base: "nobat{digits}:".into(), number: 3 }
    }

    /// What the enqueue script makes of an encoded job.
    fn stored(job: &NewJob, now_us: u64) -> Vec<u8> {
        let encoded = encode(job, 100, Some(*b"lane0001"));
        let mut out = encoded.first.to_vec();
        for value in [now_us, now_us + 5, 77] {
            out.extend_from_slice(&(value as f64).to_le_bytes());
        }
        out.extend_from_slice(&encoded.rest);
        out
    }

    fn any_job() -> impl Strategy<Value = NewJob> {
        (
            any::<u8>(),
            any::<u64>(),
            any::<u32>(),
            "\\PC{0,120}",
            prop::collection::vec(any::<u8>(), 0..6000),
            any::<bool>(),
            any::<u8>(),
        )
            .prop_map(|(priority, owner, rows, trace, payload, deadline, max_retries)| NewJob {
                model: "digits".into(),
                owner: OwnerId(owner),
                options: JobOptions {
                    priority,
                    deadline: deadline.then(|| Duration::from_secs(3)),
                    retry: RetryPolicy { max_retries, ..RetryPolicy::default() },
                    ..JobOptions::default()
                },
                payload: payload.into(),
                rows,
                trace: trace.into(),
            })
    }

    /// What the scripts make of a job that ends without a result.
    fn ended(record: &[u8], head_len: usize, state: u8, attempts: u8, tail: &Tail) -> Vec<u8> {
        let mut out = record[..head_len].to_vec();
        (out[0], out[1]) = (state, attempts);
        out[3] |= flag::TAIL | flag::STRIPPED;
        out.extend_from_slice(&tail.token.to_le_bytes());
        out.push(code_number(tail.error.code));
        out.extend_from_slice(&(tail.at_us as f64).to_le_bytes());
        out.extend_from_slice(&(tail.error.message.len() as u16).to_le_bytes());
        out.extend_from_slice(tail.error.message.as_bytes());
        out
    }

    proptest! {
        #[test]
        fn a_record_reads_back(job in any_job()) {
            let bytes = stored(&job, 1_700_000_000_000_000);
            let record = Record::parse(&bytes).expect("reads back");
            prop_assert_eq!(record.priority, job.options.priority);
            prop_assert_eq!(record.owner, job.owner);
            prop_assert_eq!(record.rows, job.rows);
            prop_assert_eq!(record.retry, job.options.retry);
            prop_assert_eq!(record.ttl_ms, 3_600_000);
            prop_assert_eq!(record.created_us, 1_700_000_000_000_000);
            prop_assert!(job.trace.starts_with(record.trace.as_str()));
            prop_assert_eq!(record.deadline_us.is_some(), job.options.deadline.is_some());
            if job.payload.len() <= super::super::keys::INLINE_MAX {
                prop_assert_eq!(&bytes[record.head_len..record.tail_at], &job.payload[..]);
            } else {
                prop_assert_eq!(record.head_len, bytes.len());
            }
        }

        #[test]
        fn an_ended_record_keeps_its_error(job in any_job(), message in "\\PC{0,50}") {
            let bytes = stored(&job, 5);
            let record = Record::parse(&bytes).expect("reads back");
            let tail = Tail { token: 9, at_us: 70_000, error: JobError { code: ErrorCode::DeadlineExceeded, message } };
            let ended = ended(&bytes, record.head_len, state::EXPIRED, 2, &tail);
            let again = Record::parse(&ended).expect("reads back");
            prop_assert_eq!(again.error, Some(tail));
            prop_assert_eq!(again.attempts, 2);
        }

        #[test]
        fn a_succeeded_record_reads_back(job in any_job(), attempts in 1u8.., outputs in prop::collection::vec(any::<u8>(), 0..99)) {
            let record = Record::parse(&stored(&job, 5)).expect("reads back");
            let result = JobResult { explain: Explain::default(), outputs: outputs.into() };
            let ids = IdIssuer::new([1; 16]);
            let packed = succeeded(&record, attempts, 60_000_000, &result.encode(), None);
            let stored = read(packed.into(), &queue(), 42, ids, JobState::Queued).expect("reads back");
            prop_assert_eq!(stored.view.result, Some(result));
            prop_assert_eq!(stored.view.owner, job.owner);
            prop_assert_eq!(stored.view.attempts, u32::from(attempts));
            prop_assert_eq!(stored.view.id, ids.issue(42, 100, 3, job.owner));
        }

        #[test]
        fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::parse(&bytes);
            let _ = read(bytes.into(), &queue(), 1, IdIssuer::new([1; 16]), JobState::Queued);
        }
    }
}
