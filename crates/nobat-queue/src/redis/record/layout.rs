//! How a job that lives is packed.
//!
//! A job that lives, and one that ended without a result:
//!
//! ```text
//! 0      state     1 pending, 3 dead, 4 cancelled, 5 expired, 6 found corrupt
//! 1      attempts that have ended (saturating)
//! 2      deaths: workers lost while holding it
//! 3      flags     [`flag`]s
//! times            created   us, f64   ┐ written by the scripts, from TIME: one
//!                  queued    us, f64   │ number for all three where they are
//!                  score     f64       ┘ alike, all three with `TIMES`
//! [client 8]       who to publish to, with `REPLY`
//! ttl              of its result, ms, f32 (exact to 4 hours)
//! length 1         of the header that follows
//! header           [deadline us f64], [`part`]s 1, tombstone expiry (minutes since
//!                  1970) varint, then those parts;
//!                  payload length u32 at its end
//! [tags]           length u16 and text, with `TAGS`
//! payload          unless it travels beside (`BLOB`) or was dropped (`STRIPPED`)
//! tail             with `TAIL`: token 8, code 1, at us f64, length u16, message
//! ```
//!
//! Queued is when it was enqueued or last became due; the score is its place in
//! `ready`, kept through leases. A job of priority 0 that is enqueued for now has
//! all three alike. Every byte counts where it decides the allocator's size class:
//! a job of digits (278 bytes, and a request id) fills one of 320 bytes so, and 384
//! with all fields.
//!
//! A job that succeeded is repacked ([`ended`](super::ended)).
//!
//! `leased` is not stored: it is "pending, and neither ready nor scheduled", so
//! that leasing writes nothing into the record. The scripts read and patch what
//! stands before the header, the deadline and the tail; nothing else is known to them.

use std::time::Duration;

use bytes::Bytes;
use nobat_core::job::{JobError, NewJob};
use nobat_core::retry::RetryPolicy;
use nobat_core::tags::Tags;
use nobat_core::varint::{put_u64 as put_varint, take_u64 as take_varint};
use nobat_core::{ErrorCode, OwnerId};
use smol_str::{SmolStr, format_smolstr};

use super::super::keys::INLINE_MAX;

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
    /// A client waits for the end.
    pub(crate) const REPLY: u8 = 4;
    /// A tail with the last error follows.
    pub(crate) const TAIL: u8 = 8;
    /// The payload was dropped.
    pub(crate) const STRIPPED: u8 = 16;
    /// Created, queued and score differ, and each stands for itself.
    pub(crate) const TIMES: u8 = 32;
    /// Tags stand between the header and the payload.
    pub(crate) const TAGS: u8 = 64;
}

/// What a header has because it is not the usual.
mod part {
    /// Owner, varint: not anonymous.
    pub(super) const OWNER: u8 = 1;
    /// Rows, varint: not one.
    pub(super) const ROWS: u8 = 2;
    /// Priority, a byte: not 0.
    pub(super) const PRIORITY: u8 = 4;
    /// Retry policy: not the default.
    pub(super) const RETRY: u8 = 8;
    /// Trace: length, a byte, and text.
    pub(super) const TRACE: u8 = 16;
    /// Trace of 16 hexadecimal digits, as which request ids are made: 8 bytes.
    pub(super) const TRACE_HEX: u8 = 32;
}

/// Where the times of a record end at the latest.
pub(crate) const TIMES_END: usize = 28;
/// A trace longer than this is cut: the header's length is one byte.
pub(super) const TRACE_MAX: usize = 160;

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
pub(crate) fn encode(job: &NewJob, tombstone_min: u32, client: Option<[u8; 8]>) -> Encoded {
    let blob = job.payload.len() > INLINE_MAX;
    let mut flags = 0;
    let trace = job.trace.stored();
    let mut rest = Vec::with_capacity(80 + trace.len() + if blob { 0 } else { job.payload.len() });
    if let Some(client) = client {
        flags |= flag::REPLY;
        rest.extend_from_slice(&client);
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
    let parts_at = rest.len();
    let mut parts = 0;
    rest.push(parts);
    put_varint(&mut rest, u64::from(tombstone_min));
    if job.owner != OwnerId::ANONYMOUS {
        parts |= part::OWNER;
        put_varint(&mut rest, job.owner.0);
    }
    if job.rows != 1 {
        parts |= part::ROWS;
        put_varint(&mut rest, u64::from(job.rows));
    }
    if job.options.priority != 0 {
        parts |= part::PRIORITY;
        rest.push(job.options.priority);
    }
    if job.options.retry != RetryPolicy::default() {
        parts |= part::RETRY;
        put_retry(&mut rest, job.options.retry);
    }
    parts |= put_trace(&mut rest, &trace);
    rest[parts_at] = parts;
    rest.extend_from_slice(&(job.payload.len() as u32).to_le_bytes());
    rest[length_at] = (rest.len() - length_at - 1) as u8;
    let tags = job.options.tags.stored();
    if !tags.is_empty() {
        flags |= flag::TAGS;
        rest.extend_from_slice(&(tags.len() as u16).to_le_bytes());
        rest.extend_from_slice(tags.as_bytes());
    }
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
    pub(crate) client: [u8; 8],
    pub(crate) ttl_ms: u64,
    pub(crate) deadline_us: Option<u64>,
    pub(crate) tombstone_min: u32,
    pub(crate) owner: OwnerId,
    pub(crate) rows: u32,
    pub(crate) priority: u8,
    pub(crate) retry: RetryPolicy,
    pub(crate) trace: SmolStr,
    pub(crate) tags: Tags,
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
        let mut client = [0; 8];
        if flags & flag::REPLY != 0 {
            (client, rest) = rest.split_first_chunk().map(|(client, rest)| (*client, rest))?;
        }
        let (ttl_ms, rest) = rest.split_first_chunk()?;
        let (&head_len, mut head) = rest.split_first()?;
        head = head.get(..usize::from(head_len))?;
        let mut head_len = bytes.len() - rest.len() + 1 + usize::from(head_len);
        let tags = match flags & flag::TAGS {
            0 => Tags::default(),
            _ => {
                let (len, text) = bytes.get(head_len..)?.split_first_chunk()?;
                let text = text.get(..usize::from(u16::from_le_bytes(*len)))?;
                head_len += len.len() + text.len();
                Tags::of_stored(std::str::from_utf8(text).ok()?)
            }
        };
        let deadline_us = match flags & flag::DEADLINE {
            0 => None,
            _ => Some(take_f64(&mut head)?),
        };
        let parts = take_byte(&mut head)?;
        let has = |part: u8| parts & part != 0;
        let tombstone_min = u32::try_from(take_varint(&mut head)?).ok()?;
        let owner = if has(part::OWNER) { OwnerId(take_varint(&mut head)?) } else { OwnerId::ANONYMOUS };
        let rows = if has(part::ROWS) { u32::try_from(take_varint(&mut head)?).ok()? } else { 1 };
        let priority = if has(part::PRIORITY) { take_byte(&mut head)? } else { 0 };
        let retry = if has(part::RETRY) { take_retry(&mut head)? } else { RetryPolicy::default() };
        let trace = take_trace(parts, &mut head)?;
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
            client,
            ttl_ms: f32::from_le_bytes(*ttl_ms).max(1.0) as u64,
            deadline_us,
            tombstone_min,
            owner,
            rows,
            priority,
            retry,
            trace,
            tags,
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

fn take_byte(input: &mut &[u8]) -> Option<u8> {
    let (&byte, rest) = input.split_first()?;
    *input = rest;
    Some(byte)
}

/// Appends a trace, cut to [`TRACE_MAX`] bytes; says which [`part`] it became.
fn put_trace(out: &mut Vec<u8>, trace: &str) -> u8 {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if trace.len() == 16
        && trace.bytes().all(lower)
        && let Ok(bits) = u64::from_str_radix(trace, 16)
    {
        out.extend_from_slice(&bits.to_be_bytes());
        return part::TRACE_HEX;
    }
    let cut = &trace[..trace.floor_char_boundary(TRACE_MAX)];
    if cut.is_empty() {
        return 0;
    }
    out.push(cut.len() as u8);
    out.extend_from_slice(cut.as_bytes());
    part::TRACE
}

fn take_trace(parts: u8, input: &mut &[u8]) -> Option<SmolStr> {
    if parts & part::TRACE_HEX != 0 {
        let (bits, rest) = input.split_first_chunk()?;
        *input = rest;
        return Some(format_smolstr!("{:016x}", u64::from_be_bytes(*bits)));
    }
    if parts & part::TRACE == 0 {
        return Some(SmolStr::default());
    }
    let len = usize::from(take_byte(input)?);
    let (text, rest) = input.split_at_checked(len)?;
    *input = rest;
    Some(std::str::from_utf8(text).ok()?.into())
}

fn put_retry(out: &mut Vec<u8>, retry: RetryPolicy) {
    out.push(retry.max_retries);
    out.push(retry.jitter_pct);
    for value in [retry.delay_ms, u32::from(retry.factor_pct), retry.max_delay_ms] {
        put_varint(out, u64::from(value));
    }
}

fn take_retry(input: &mut &[u8]) -> Option<RetryPolicy> {
    let (max_retries, jitter_pct) = (take_byte(input)?, take_byte(input)?);
    let mut next = || take_varint(input);
    Some(RetryPolicy {
        max_retries,
        jitter_pct,
        delay_ms: u32::try_from(next()?).ok()?,
        factor_pct: u16::try_from(next()?).ok()?,
        max_delay_ms: u32::try_from(next()?).ok()?,
    })
}
