//! Looking at jobs: one by id, or pages of them. Live jobs are in memory,
//! ended ones in the journal; a reader never sees an end that a crash could
//! take back.

use std::sync::Arc;

use bytes::Bytes;
use nobat_core::job::{JobState, JobView};
use nobat_core::{Error, ErrorCode, JobId, OwnerId, Result};

use super::journal::{JournalError, JournalReader};
use super::machine::{Looked, Payload, Row};
use super::rows::StoredResult;
use super::store::{EmbeddedStore, committed};
use crate::api::{ListFilter, Page};
use crate::index::unindexed;

/// Most records one page looks at, whatever it finds.
const SCAN_MAX: usize = 1_000;

enum FoundJob {
    View(Box<JobView>),
    Settling(tokio::sync::oneshot::Receiver<Result<()>>),
    Journal,
}

/// Reads a job; `None` when there is no record of it.
pub(super) async fn get(store: &Arc<EmbeddedStore>, id: JobId) -> Result<Option<JobView>> {
    loop {
        let found = store.act(|state, now_us| {
            if let Some(view) = state.recent.get(id, now_us / 1_000) {
                return FoundJob::View(Box::new(view.clone()));
            }
            if state.machine.is_settling(id) {
                state.machine.hurry(id);
                return FoundJob::Settling(state.ack());
            }
            state.machine.view(id).map_or(FoundJob::Journal, |view| FoundJob::View(Box::new(view)))
        });
        match found {
            FoundJob::View(view) => return Ok(Some(*view)),
            FoundJob::Settling(ack) => committed(ack).await?,
            FoundJob::Journal => return stored(store, id).await,
        }
    }
}

/// Reads a job's input; `None` when it has ended, or was never there.
pub(super) async fn input(store: &Arc<EmbeddedStore>, id: JobId) -> Result<Option<Bytes>> {
    match store.act(|state, _| state.machine.input(id)) {
        None => Ok(None),
        Some(Payload::Memory(bytes)) => Ok(Some(bytes)),
        Some(Payload::Disk(0)) => Ok(Some(Bytes::new())),
        // It may end while it is read, and then has no row any more.
        Some(Payload::Disk(_)) => blocking(store, move |reader| reader.payload(id.locator)).await,
    }
}

async fn stored(store: &Arc<EmbeddedStore>, id: JobId) -> Result<Option<JobView>> {
    let ids = store.ids;
    let found = blocking(store, move |reader| reader.result(id.locator, &ids)).await?;
    let now_ms = store.clock.now_us() / 1_000;
    let found = found.filter(|found| found.random == id.random && found.expires_ms > now_ms);
    Ok(found.map(|found| named(store, found)))
}

/// Ended or not: whether a job in this state can be in memory, in the journal's results.
fn places(state: Option<JobState>) -> (bool, bool) {
    match state {
        None => (true, true),
        Some(JobState::Scheduled | JobState::Queued | JobState::Leased | JobState::Failed | JobState::Dead) => {
            (true, false)
        }
        Some(JobState::Succeeded | JobState::Cancelled | JobState::Expired) => (false, true),
    }
}

/// Lists jobs, newest first; the cursor is the row to go on below.
pub(super) async fn list(
    store: &Arc<EmbeddedStore>,
    filter: &ListFilter,
    cursor: Option<&str>,
    limit: usize,
) -> Result<Page> {
    let before = match cursor {
        None => Row::MAX,
        Some(text) => text.parse().map_err(|_| {
            Error::new(
                ErrorCode::InvalidParameter,
                format!("cursor `{text}` is not one that a list gave; start without a cursor"),
            )
        })?,
    };
    let limit = limit.clamp(1, SCAN_MAX);
    let before = match filter.until_ms {
        Some(until) => before.min(first_row_since(store, until).await?.0),
        None => before,
    };
    // Below it everything is older than what is asked for.
    let floor = match filter.since_ms {
        Some(since) => first_row_since(store, since).await?.1,
        None => 0,
    };
    let page = match filter.hashes() {
        hashes if hashes.is_empty() => by_row(store, filter, before, limit).await?,
        _ if !store.settings.index => return Err(unindexed()),
        hashes => by_hash(store, filter, hashes, before, limit).await?,
    };
    let cursor = page.next.filter(|&row| row > floor);
    Ok(Page { jobs: page.jobs, cursor: cursor.map(|row| row.to_string()), looked: page.looked })
}

/// Jobs, and the row below which to go on.
struct Rows {
    jobs: Vec<JobView>,
    next: Option<Row>,
    looked: usize,
}

/// The rows from which on all jobs were enqueued at `at_ms` or later, and from which on
/// some were. Rows are handed out in the order of enqueueing.
async fn first_row_since(store: &Arc<EmbeddedStore>, at_ms: u64) -> Result<(Row, Row)> {
    let live = first_row(
        |row| Ok(store.act(|state, _| state.machine.next_created(row)).map(|(row, at_us)| (row, at_us / 1_000))),
        at_ms,
    );
    let ended = blocking(store, move |reader| first_row(|row| reader.next_created(row), at_ms)).await?;
    let live = live.map_err(|e: JournalError| Error::new(ErrorCode::Internal, e.to_string()))?;
    Ok((live.max(ended), live.min(ended)))
}

/// The first row whose job was enqueued at `at_ms` or later; [`Row::MAX`] when none was.
fn first_row<E>(mut next: impl FnMut(Row) -> Result<Option<(Row, u64)>, E>, at_ms: u64) -> Result<Row, E> {
    let (mut low, mut high) = (0, Row::MAX);
    while low < high {
        let middle = low + (high - low) / 2;
        match next(middle)? {
            Some((row, created_ms)) if created_ms < at_ms => low = row + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Jobs that have one of these hashes, newest first.
async fn by_hash(
    store: &Arc<EmbeddedStore>,
    filter: &ListFilter,
    hashes: Vec<u64>,
    before: Row,
    limit: usize,
) -> Result<Rows> {
    let (ids, now_ms) = (store.ids, store.clock.now_us() / 1_000);
    let rows = blocking(store, move |reader| reader.found(&hashes, before, SCAN_MAX)).await?;
    let mut jobs = Vec::new();
    for (at, &row) in rows.iter().enumerate() {
        let view = match store.act(|state, _| state.machine.listed(row)) {
            Some(view) => Some(view),
            // It may have ended since, but is not in both, nor in neither.
            None => blocking(store, move |reader| reader.result(row, &ids))
                .await?
                .filter(|found| found.expires_ms > now_ms)
                .map(|found| JobView { result: None, ..named(store, found) }),
        };
        if let Some(view) = view.filter(|view| filter.takes(view)) {
            jobs.push(view);
            if jobs.len() == limit {
                return Ok(Rows { jobs, next: Some(row), looked: at + 1 });
            }
        }
    }
    let next = rows.last().copied().filter(|_| rows.len() == SCAN_MAX);
    Ok(Rows { jobs, next, looked: rows.len() })
}

/// Jobs in the order they came in, newest first.
async fn by_row(store: &Arc<EmbeddedStore>, filter: &ListFilter, before: Row, limit: usize) -> Result<Rows> {
    let wanted = |view: &JobView| filter.takes(view);
    let (in_memory, in_journal) = places(filter.state);
    // Most of what is read is taken, where the statement goes by all that is asked for.
    let is_near = filter.priority.is_none() && filter.error.is_none();
    let is_near = is_near && filter.owner.is_none_or(|owner| owner == OwnerId::ANONYMOUS);
    let most = if is_near { (2 * limit + 1).min(SCAN_MAX) } else { SCAN_MAX };
    let ids = store.ids;
    let by_error = filter.error.filter(|_| store.settings.index);
    // Memory first: a job leaves it after its end is in the journal, so one that ends
    // meanwhile is found in both, never in neither.
    let Looked { jobs: live, last: live_end, looked } = match in_memory {
        true => store.act(|state, _| match (by_error, filter.state) {
            (Some(code), _) => state.machine.list_errors(code, before, limit, SCAN_MAX, wanted),
            (None, Some(JobState::Dead)) => {
                state.machine.list_dead(filter.model.as_deref(), before, limit, SCAN_MAX, wanted)
            }
            (None, _) => state.machine.list(before, limit, SCAN_MAX, wanted),
        }),
        false => Looked::default(),
    };
    let stored = match in_journal {
        true => {
            let state = filter.state;
            let queue = filter.model.as_ref().map(|model| store.state.lock().machine.find_queue(model));
            match (queue, by_error) {
                // Nobody has used it.
                (Some(None), _) => Vec::new(),
                (_, Some(code)) => blocking(store, move |reader| reader.errors(before, most, code, &ids)).await?,
                (queue, None) => {
                    blocking(store, move |reader| reader.results(before, most, state, queue.flatten(), &ids)).await?
                }
            }
        }
        false => Vec::new(),
    };
    // Below the end of a source that was cut off, only that source knows less.
    let looked = looked + stored.len();
    let stored_end = (stored.len() == most).then(|| stored.last().map(|found| found.row)).flatten();
    let end = stored_end.into_iter().chain(live_end).max();
    let now_ms = store.clock.now_us() / 1_000;
    let stored =
        stored.into_iter().filter(|found| found.expires_ms > now_ms).map(|found| named(store, found)).filter(wanted);
    let mut jobs: Vec<_> = stored.chain(live).filter(|view| end.is_none_or(|end| view.id.locator >= end)).collect();
    // Stable: of a job found twice its end stays.
    jobs.sort_by_key(|view| std::cmp::Reverse(view.id.locator));
    jobs.dedup_by_key(|view| view.id.locator);
    let full = jobs.len() > limit;
    jobs.truncate(limit);
    let next = match jobs.last() {
        Some(last) if full => Some(last.id.locator),
        _ => end,
    };
    Ok(Rows { jobs, next, looked })
}

/// Reads the journal off this thread: a page may have to come from disk.
async fn blocking<R: Send + 'static>(
    store: &Arc<EmbeddedStore>,
    op: impl FnOnce(&JournalReader) -> Result<R, JournalError> + Send + 'static,
) -> Result<R> {
    let store = Arc::clone(store);
    let read = tokio::task::spawn_blocking(move || store.read(op)).await;
    read.unwrap_or_else(|e| Err(Error::new(ErrorCode::Internal, format!("reading the journal panicked: {e}"))))
}

fn named(store: &EmbeddedStore, mut found: StoredResult) -> JobView {
    found.view.model = store.state.lock().machine.model(found.queue);
    found.view
}
