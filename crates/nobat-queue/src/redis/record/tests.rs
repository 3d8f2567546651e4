use std::time::Duration;

use nobat_core::job::{JobError, JobOptions, JobResult, JobState, NewJob};
use nobat_core::retry::RetryPolicy;
use nobat_core::tags::Tags;
use nobat_core::timings::Timings;
use nobat_core::{ErrorCode, IdIssuer, OwnerId};
use proptest::prelude::*;

use super::super::keys::QueueKeys;
use super::layout::*;
use super::*;

/// A minute of the year 2027.
const TOMBSTONE_MIN: u32 = 30_000_000;

fn queue() -> QueueKeys {
    QueueKeys { model: "digits".into(), base: "nobat{digits}:".into(), number: 3 }
}

/// What the enqueue script makes of an encoded job; one that is `plain` has no
/// client, and one time.
fn stored(job: &NewJob, now_us: u64, plain: bool) -> Vec<u8> {
    let encoded = encode(job, TOMBSTONE_MIN, (!plain).then_some(*b"lane0001"));
    let (times, values) = if plain { (0, &[now_us][..]) } else { (flag::TIMES, &[now_us, now_us + 5, 77][..]) };
    let mut out = vec![state::PENDING, 0, 0, encoded.flags | times];
    for &value in values {
        out.extend_from_slice(&(value as f64).to_le_bytes());
    }
    out.extend_from_slice(&encoded.rest);
    out
}

#[test]
fn a_waiting_job_of_digits_fills_a_block_of_320_bytes() {
    let job = NewJob {
        model: "digits".into(),
        owner: OwnerId::ANONYMOUS,
        options: JobOptions::default(),
        payload: vec![0; 278].into(),
        rows: 1,
        trace: "b974696da8e08f75".into(),
    };
    // Redis's string has five bytes of header, and a zero at its end.
    assert!(stored(&job, 1_700_000_000_000_000, true).len() + 6 <= 320);
}

fn tags_of(given: &[String]) -> Tags {
    let mut tags = Tags::default();
    given.iter().for_each(|tag| tags.add(tag).expect("a tag"));
    tags
}

fn any_job() -> impl Strategy<Value = NewJob> {
    (
        any::<u8>(),
        prop_oneof![Just(0), any::<u64>()],
        prop_oneof![Just(1), any::<u32>()],
        prop_oneof!["\\PC{0,120}", "[0-9a-f]{16}", "[0-9a-fA-F]{16}"],
        prop::collection::vec(any::<u8>(), 0..6000),
        any::<bool>(),
        0u8..5,
        prop::collection::vec("\\PC{1,16}", 0..4),
    )
        .prop_map(|(priority, owner, rows, trace, payload, deadline, max_retries, tags)| NewJob {
            model: "digits".into(),
            owner: OwnerId(owner),
            options: JobOptions {
                priority,
                deadline: deadline.then(|| Duration::from_secs(3)),
                retry: RetryPolicy { max_retries, ..RetryPolicy::default() },
                tags: tags_of(&tags),
                ..JobOptions::default()
            },
            payload: payload.into(),
            rows,
            trace: trace.as_str().into(),
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
    fn a_record_reads_back(job in any_job(), plain in any::<bool>()) {
        let bytes = stored(&job, 1_700_000_000_000_000, plain);
        let record = Record::parse(&bytes).expect("reads back");
        prop_assert_eq!(record.priority, job.options.priority);
        prop_assert_eq!(record.owner, job.owner);
        prop_assert_eq!(record.rows, job.rows);
        prop_assert_eq!(record.retry, job.options.retry);
        prop_assert_eq!(record.ttl_ms, 3_600_000);
        prop_assert_eq!(record.created_us, 1_700_000_000_000_000);
        prop_assert_eq!(record.queued_us, 1_700_000_000_000_000 + if plain { 0 } else { 5 });
        prop_assert_eq!(queued_us(&bytes[..TIMES_END.min(bytes.len())]), Some(record.queued_us));
        prop_assert_eq!(record.client, if plain { [0; 8] } else { *b"lane0001" });
        prop_assert_eq!(&record.tags, &job.options.tags);
        let trace = job.trace.stored();
        prop_assert!(trace.starts_with(record.trace.as_str()));
        prop_assert!(trace.len() > TRACE_MAX || record.trace == trace);
        prop_assert_eq!(record.deadline_us.is_some(), job.options.deadline.is_some());
        if job.payload.len() <= super::super::keys::INLINE_MAX {
            prop_assert_eq!(&bytes[record.head_len..record.tail_at], &job.payload[..]);
        } else {
            prop_assert_eq!(record.head_len, bytes.len());
        }
    }

    #[test]
    fn an_ended_record_keeps_its_error(job in any_job(), message in "\\PC{0,50}") {
        let bytes = stored(&job, 5, message.len() % 2 == 0);
        let record = Record::parse(&bytes).expect("reads back");
        let tail = Tail { token: 9, at_us: 70_000, error: JobError { code: ErrorCode::DeadlineExceeded, message } };
        let ended = ended(&bytes, record.head_len, state::EXPIRED, 2, &tail);
        let again = Record::parse(&ended).expect("reads back");
        prop_assert_eq!(again.error, Some(tail));
        prop_assert_eq!(again.attempts, 2);
        prop_assert_eq!(again.tags, job.options.tags);
    }

    #[test]
    fn a_succeeded_record_reads_back(job in any_job(), attempts in 1u8.., outputs in prop::collection::vec(any::<u8>(), 0..99)) {
        let record = Record::parse(&stored(&job, 5, false)).expect("reads back");
        let result = JobResult { timings: Timings::default(), outputs: outputs.into() };
        let ids = IdIssuer::new([1; 16]);
        let packed = succeeded(&record, attempts, 1_700_000_000_123_456, &result.encode(), None);
        let stored = read(packed.into(), &queue(), 42, ids, JobState::Queued).expect("reads back");
        prop_assert_eq!(stored.view.result, Some(result));
        prop_assert_eq!(stored.view.owner, job.owner);
        prop_assert_eq!(&stored.view.tags, &job.options.tags);
        prop_assert_eq!(stored.view.attempts, u32::from(attempts));
        prop_assert_eq!(stored.view.finished_at_ms, Some(1_700_000_000_123));
        prop_assert_eq!(stored.view.id, ids.issue(42, TOMBSTONE_MIN, 3, job.owner));
    }

    #[test]
    fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Record::parse(&bytes);
        let _ = read(bytes.into(), &queue(), 1, IdIssuer::new([1; 16]), JobState::Queued);
    }
}
