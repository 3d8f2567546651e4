//! Listing jobs: the order sets by rank, and everything else by the index
//! ([`index`](super::index)), or without one by a bounded scan of one queue's records.
//!
//! A cursor is `queue number:stage:place`, or the index's. A page may be short or empty while
//! the cursor goes on; nothing here walks more than a few hundred keys a call.

use std::sync::Arc;

use nobat_core::job::{JobState, JobView};
use nobat_core::{Error, ErrorCode, Result};

use super::connection::{parse, to_error};
use super::keys::{KEY_LEN, QueueKeys, job_of};
use super::record::{self, StoredJob};
use super::store::RedisStore;
use crate::api::{ListFilter, Page};
use crate::index::unindexed;

/// Keys one scan step looks at.
const SCAN: usize = 500;

/// The last of [`STAGES`], which is a scan.
const SCANNED: usize = STAGES.len() - 1;
/// Of them the one with the jobs whose last attempt failed.
const RETRYING: usize = 1;

/// Where jobs of a kind are found, in the order a listing visits them.
const STAGES: [(&str, &[JobState]); 5] = [
    ("ready", &[JobState::Queued]),
    ("sched", &[JobState::Scheduled, JobState::Failed]),
    ("leases", &[JobState::Leased]),
    ("dead", &[JobState::Dead]),
    ("", &[JobState::Succeeded, JobState::Cancelled, JobState::Expired]),
];

impl RedisStore {
    pub(crate) async fn list(&self, filter: &ListFilter, cursor: Option<&str>, limit: usize) -> Result<Page> {
        let limit = limit.clamp(1, SCAN);
        let mut queues = match &filter.model {
            Some(model) => self.existing_queue(model).await?.into_iter().collect(),
            None => self.all_queues().await?,
        };
        queues.sort_by_key(|queue| queue.number);
        let (has_index, searches) = (self.settings.index, !filter.hashes().is_empty());
        if searches && !has_index {
            return Err(unindexed());
        }
        if searches {
            return self.by_hash(&queues, filter, index_place(cursor, 'x')?, limit).await;
        }
        // What waits to run again stands in its set; all else that has an error has ended.
        let by_error = filter.error.filter(|_| has_index);
        let wants_ended = filter.state.is_none_or(JobState::is_terminal);
        if let Some(code) = by_error.filter(|_| wants_ended && cursor.is_none_or(|cursor| cursor.starts_with('e'))) {
            let mut page = self.by_error(&queues, filter, code, index_place(cursor, 'e')?, limit).await?;
            if page.cursor.is_none() && filter.state.is_none() {
                page.cursor = Some(format!("0:{RETRYING}:0"));
            }
            return Ok(page);
        }
        let by_minute =
            has_index && by_error.is_none() && filter.state.is_none_or(|state| STAGES[SCANNED].1.contains(&state));
        let mut cursor = cursor;
        if by_minute && cursor.is_none_or(|cursor| cursor.starts_with('m')) {
            let mut page = self.by_minute(&queues, filter, index_place(cursor, 'm')?, limit).await?;
            // What waits, or is dead, for longer than the index lives stands in its set.
            if page.cursor.is_none() && filter.state.is_none() {
                page.cursor = Some("0:0:0".to_owned());
            }
            return Ok(page);
        }
        cursor = cursor.filter(|cursor| !cursor.starts_with('m'));
        let (number, mut stage, mut place) = match cursor {
            None => (0, 0, "0".to_owned()),
            Some(text) => parse_cursor(text)?,
        };
        let Some(queue) = queues.iter().find(|queue| queue.number >= number) else { return Ok(Page::default()) };
        if queue.number != number {
            (stage, place) = (0, "0".to_owned());
        }
        let stages = if has_index { SCANNED } else { STAGES.len() };
        let skips = |stage: usize| {
            let of_state = filter.state.is_none_or(|state| STAGES[stage].1.contains(&state));
            !of_state || (by_error.is_some() && stage != RETRYING)
        };
        while stage < stages && skips(stage) {
            (stage, place) = (stage + 1, "0".to_owned());
        }
        let mut page = Page::default();
        let next = match STAGES.get(stage).filter(|_| stage < stages) {
            None => None,
            Some(("", _)) => self.scan(queue, &place, &mut page.jobs).await?,
            Some((set, states)) => self.range(queue, set, states[0], &place, limit, &mut page.jobs).await?,
        };
        page.looked = page.jobs.len();
        page.jobs.retain(|job| filter.takes(job));
        if by_minute {
            let mut listed = self.listed(queue, &page.jobs).await?.into_iter();
            page.jobs.retain(|_| listed.next() == Some(false));
        }
        page.cursor = match next {
            Some(place) => Some(format!("{}:{stage}:{place}", queue.number)),
            None if stage + 1 < stages => Some(format!("{}:{}:0", queue.number, stage + 1)),
            None => {
                queues.iter().find(|other| other.number > queue.number).map(|other| format!("{}:0:0", other.number))
            }
        };
        Ok(page)
    }

    /// A page of one set by rank; the place of the next.
    async fn range(
        &self,
        queue: &Arc<QueueKeys>,
        set: &str,
        state: JobState,
        place: &str,
        limit: usize,
        jobs: &mut Vec<JobView>,
    ) -> Result<Option<String>> {
        // No set has so many, and the server counts in signed numbers.
        let from = place.parse::<u32>().map_err(|_| bad_cursor())? as usize;
        let range = redis::cmd("ZRANGE").arg(queue.own(set)).arg(from).arg(from + limit - 1).clone();
        let members: Vec<Vec<u8>> = self.query(&range, "a range").await?;
        // A lease's member has its token before the key.
        let keys: Vec<_> =
            members.iter().map(|member| member[member.len().saturating_sub(KEY_LEN)..].to_vec()).collect();
        self.views(queue, &keys, state, jobs).await?;
        Ok((members.len() == limit).then(|| (from + limit).to_string()))
    }

    /// One step of a scan over the queue's records that have ended.
    async fn scan(&self, queue: &Arc<QueueKeys>, place: &str, jobs: &mut Vec<JobView>) -> Result<Option<String>> {
        let (next, keys) = self.scan_jobs(queue, place).await?;
        let mut found = Vec::new();
        self.views(queue, &keys, JobState::Queued, &mut found).await?;
        jobs.extend(found.into_iter().filter(|job| job.state.is_terminal() && job.state != JobState::Dead));
        Ok((next != "0").then_some(next))
    }

    /// One step of a scan over the queue's records; their keys and the place of
    /// the next step, `0` at the end.
    pub(crate) async fn scan_jobs(&self, queue: &QueueKeys, place: &str) -> Result<(String, Vec<Vec<u8>>)> {
        if place.parse::<u64>().is_err() {
            return Err(bad_cursor());
        }
        // `{` and `}` are plain in a glob; what else a name may hold is escaped.
        let pattern = format!("{}{}", escape(&queue.base), "?".repeat(KEY_LEN));
        let mut scan = redis::cmd("SCAN");
        scan.arg(place).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN).arg("TYPE").arg("string");
        let reply = self.manager.send_near(&scan, &queue.base).await.map_err(|e| to_error(&e))?;
        let (next, names): (String, Vec<Vec<u8>>) = parse(reply, "a scan")?;
        Ok((next, names.into_iter().filter_map(|name| name.get(queue.base.len()..).map(<[u8]>::to_vec)).collect()))
    }

    /// Reads records into views without results.
    async fn views(
        &self,
        queue: &Arc<QueueKeys>,
        keys: &[Vec<u8>],
        pending: JobState,
        jobs: &mut Vec<JobView>,
    ) -> Result<()> {
        for (key, record) in keys.iter().zip(self.records(queue, keys).await?) {
            let (Some(random), Some(bytes)) = (job_of(key), record) else { continue };
            // A job in `sched` whose attempt failed waits for its retry.
            let state =
                if pending == JobState::Scheduled && bytes.get(1) != Some(&0) { JobState::Failed } else { pending };
            if let Some(StoredJob { mut view, .. }) = record::read(bytes.into(), queue, random, self.ids, state) {
                view.result = None;
                jobs.push(view);
            }
        }
        Ok(())
    }

    /// The records of some jobs, in their order.
    pub(crate) async fn records(&self, queue: &QueueKeys, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<_> = keys.iter().map(|key| queue.job(key)).collect();
        self.query(redis::cmd("MGET").arg(names), "records").await
    }
}

pub(crate) fn parse_cursor(text: &str) -> Result<(u64, usize, String)> {
    let mut parts = text.splitn(3, ':');
    let parsed = (|| Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.to_owned())))();
    parsed.ok_or_else(bad_cursor)
}

/// What the index goes on at.
fn index_place(cursor: Option<&str>, kind: char) -> Result<Option<&str>> {
    let place = |text: &'_ str| {
        text.strip_prefix(kind).and_then(|rest| rest.strip_prefix(':')).map(|rest| text.len() - rest.len())
    };
    match cursor {
        None => Ok(None),
        Some(text) => place(text).map(|at| Some(&text[at..])).ok_or_else(bad_cursor),
    }
}

fn bad_cursor() -> Error {
    Error::new(ErrorCode::InvalidParameter, "the cursor is not one of a listing; begin without one")
}

fn escape(text: &str) -> String {
    text.chars().flat_map(|c| if "*?[]^\\".contains(c) { vec!['\\', c] } else { vec![c] }).collect()
}
