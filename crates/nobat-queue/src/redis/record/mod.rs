//! How a job is packed into one Redis string.
//!
//! A job that lives, and one that ended without a result:
//!
//! ```text
//! 0      state     1 pending, 3 dead, 4 cancelled, 5 expired, 6 found corrupt
//! 1      attempts that have ended (saturating)
//! 2      deaths: workers lost while holding it
//! 3      flags     [`Flags`]
//! times            created   us, f64   ┐ written by the scripts, from TIME: one
//!                  queued    us, f64   │ number for all three where they are
//!                  score     f64       ┘ alike, all three with `TIMES`
//! [lane 8]         who to publish to, with `REPLY`
//! ttl              of its result, ms, f32 (exact to 4 hours)
//! length 1         of the header that follows
//! header           [deadline us f64], then varints: horizon, owner, rows,
//!                  priority, retry policy, trace; payload length u32 at its end
//! payload          unless it travels beside (`BLOB`) or was dropped (`STRIPPED`)
//! tail             with `TAIL`: token 8, code 1, at us f64, length u16, message
//! ```
//!
//! Queued is when it was enqueued or last became due; the score is its place in
//! `ready`, kept through leases. A job of priority 0 that is enqueued for now has
//! all three alike. Every byte counts where it decides the allocator's size class:
//! a job of digits (281 bytes) fills one of 320 bytes so, and 384 with all fields.
//!
//! A job that succeeded is repacked ([`ended`]).
//!
//! `leased` is not stored: it is "pending, and neither ready nor scheduled", so
//! that leasing writes nothing into the record. The scripts read and patch what
//! stands before the header, the deadline and the tail; nothing else is known to them.

mod ended;

use std::time::Duration;

use bytes::Bytes;
use nobat_core::job::{JobError, NewJob};
use nobat_core::retry::RetryPolicy;
use nobat_core::varint::{put_u64 as put_varint, take_u64 as take_varint};
use nobat_core::{ErrorCode, OwnerId};
use smol_str::SmolStr;

pub(crate) use ended::{CORRUPT, Stored, corrupt_view, read, set_result, succeeded};

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
    /// Created, queued and score differ, and each stands for itself.
    pub(crate) const TIMES: u8 = 32;
}

/// Where the times of a record end at the latest.
pub(crate) const TIMES_END: usize = 28;
/// A trace longer than this is cut: the header's length is one byte.
const TRACE_MAX: usize = 160;

/// What the scripts need apart from the record when a job is enqueued.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    /// [`flag`]s, without `TIMES`.
    pub(crate) flags: u8,
    /// What follows the times, which the scripts put in front.
    pub(crate) rest: Vec<u8>,
    /// A payload that travels beside.
    pub(crate) blob: Option<Bytes>,
}

/// Packs a job to enqueue.
pub(crate) fn encode(job: &NewJob, horizon_min: u32, lane: Option<[u8; 8]>) -> Encoded {
    let blob = job.payload.len() > super::keys::INLINE_MAX;
    let mut flags = 0;
    let mut rest = Vec::with_capacity(80 + job.trace.len() + if blob { 0 } else { job.payload.len() });
    if let Some(lane) = lane {
        flags |= flag::REPLY;
        rest.extend_from_slice(&lane);
    }
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
    Encoded { flags, rest, blob: blob.then(|| job.payload.clone()) }
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
    /// Of the payload, wherever it is.
    pub(crate) payload_len: usize,
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
        let (&[state, attempts, deaths, flags], mut rest) = bytes.split_first_chunk()?;
        if !matches!(state, state::PENDING | state::DEAD | state::CANCELLED | state::EXPIRED) {
            return None;
        }
        let (created_us, queued_us) = take_times(flags, &mut rest)?;
        let mut lane = [0; 8];
        if flags & flag::REPLY != 0 {
            (lane, rest) = rest.split_first_chunk().map(|(lane, rest)| (*lane, rest))?;
        }
        let (ttl_ms, rest) = rest.split_first_chunk()?;
        let (&head_len, mut head) = rest.split_first()?;
        head = head.get(..usize::from(head_len))?;
        let head_len = bytes.len() - rest.len() + 1 + usize::from(head_len);
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
            created_us,
            queued_us,
            lane,
            ttl_ms: f32::from_le_bytes(*ttl_ms).max(1.0) as u64,
            deadline_us,
            horizon_min,
            owner,
            rows,
            priority,
            retry,
            trace,
            head_len,
            payload_len,
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

/// Time a leased job has left.
pub(crate) fn time_left(record: &Record, now_us: u64) -> Option<Duration> {
    record.deadline_us.map(|at| Duration::from_micros(at.saturating_sub(now_us)))
}

/// When the job was queued, from as much of its record as [`TIMES_END`].
pub(crate) fn queued_us(begin: &[u8]) -> Option<u64> {
    let (&[_, _, _, flags], mut rest) = begin.split_first_chunk()?;
    take_times(flags, &mut rest).map(|(_, queued)| queued)
}

/// When it was created and queued; the score is the scripts' business.
fn take_times(flags: u8, rest: &mut &[u8]) -> Option<(u64, u64)> {
    let created = take_f64(rest)?;
    if flags & flag::TIMES == 0 {
        return Some((created, created));
    }
    let queued = take_f64(rest)?;
    take_f64(rest).map(|_score| (created, queued))
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

#[cfg(test)]
mod tests;
