//! Finding jobs by the index that scripts write (`scripts/index.lua`): by when they came,
//! by a tag, by their request's id, or by the error with which they ended.
//!
//! A list only grows, so a place in it stays what it was, and a page goes on where the one
//! before ended: `m`, `x` or `e` for the kind of list, then `period:queue:hash:place`, the
//! newest first. A call looks at a bounded number of entries, whatever it finds.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use nobat_core::job::{JobState, JobView};
use nobat_core::{Error, ErrorCode, JobId, OwnerId, Result};
use redis::Pipeline;

use super::connection::{parse, to_error};
use super::keys::{KEY_LEN, QueueKeys, job_of};
use super::record::{self, StoredJob, state};
use super::store::RedisStore;
use crate::api::{ListFilter, Page};

/// Length of an entry: a job's key and four bytes of the hash.
const ENTRY_LEN: usize = KEY_LEN + 4;
/// Records one step reads, and most that one call looks at.
const STEP: usize = 250;
const RECORDS_MAX: usize = 1_000;
/// Entries of a bucket that one step reads, and most that one call looks at.
const ENTRIES_STEP: usize = 2_000;
const ENTRIES_MAX: usize = 20_000;
/// Lists whose length is asked for at once.
const LISTS: usize = 200;
/// How much longer than its job's result a list lives: who waits is still to be found.
const LONGER: Duration = Duration::from_secs(3600);

/// How long the list lives in which a job stands that lives so long.
pub(crate) fn ttl_ms(lives: Duration) -> u64 {
    // The script calculates with doubles.
    lives.saturating_add(LONGER).as_millis().min(1 << 50) as u64
}

/// The bucket of a hash: 4,096 an hour.
pub(crate) fn bucket(hash: u64) -> String {
    format!("{:03x}", hash >> 52)
}

/// What tells a hash from the others of its bucket.
pub(crate) fn check_of(hash: u64) -> [u8; 4] {
    (hash as u32).to_le_bytes()
}

/// Where a page begins: a list of a queue, and how much of it is still to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// A minute, an hour, or the time (ms) at which a list of errors begins.
    period: u64,
    /// The queue's number.
    queue: u64,
    /// Which of the hashes.
    hash: usize,
    left: usize,
}

impl Place {
    fn parse(text: &str) -> Option<Place> {
        let mut parts = text.split(':').map(str::parse::<u64>);
        let mut next = || parts.next()?.ok();
        let place = Place { period: next()?, queue: next()?, hash: next()? as usize, left: next()? as usize };
        parts.next().is_none().then_some(place)
    }

    fn print(self, kind: char) -> String {
        format!("{kind}:{}:{}:{}:{}", self.period, self.queue, self.hash, self.left)
    }

    /// The order in which lists are looked at.
    fn rank(self) -> (Reverse<u64>, u64, usize) {
        (Reverse(self.period), self.queue, self.hash)
    }
}

/// A list of entries that begin with the key of a job.
struct EntryList<'a> {
    queue: &'a Arc<QueueKeys>,
    name: String,
    place: Place,
    /// What follows the key of an entry that is looked for; `None`: nothing does.
    check: Option<[u8; 4]>,
}

/// What a page has, and has cost so far.
struct Search<'a> {
    filter: &'a ListFilter,
    limit: usize,
    jobs: Vec<JobView>,
    looked: usize,
    entries_looked: usize,
}

impl<'a> Search<'a> {
    fn new(filter: &'a ListFilter, limit: usize) -> Search<'a> {
        Search { filter, limit, jobs: Vec::new(), looked: 0, entries_looked: 0 }
    }

    /// What it found. Entries of a bucket are read many for the price of one record.
    fn page(self, cursor: Option<String>) -> Page {
        let looked = self.looked.max(self.entries_looked / (ENTRIES_MAX / RECORDS_MAX));
        Page { jobs: self.jobs, cursor, looked }
    }
}

impl RedisStore {
    /// Jobs by when they were enqueued, the newest first; `None` as the cursor when no list
    /// is left.
    pub(crate) async fn by_minute(
        &self,
        queues: &[Arc<QueueKeys>],
        filter: &ListFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page> {
        let from = cursor.map(|text| Place::parse(text).ok_or_else(bad_cursor)).transpose()?;
        let newest = filter.until_ms.map_or(u64::MAX, |until| until / 60_000);
        let newest = from.map_or(newest, |from| newest.min(from.period));
        let oldest = filter.since_ms.map_or(0, |since| since / 60_000);
        let mut search = Search::new(filter, limit);
        let mut lists = Vec::new();
        // Below the last that one queue has shown, it may have more that come first.
        let mut shown_to = 0;
        for queue in queues {
            let mut range = redis::cmd("ZRANGE");
            range.arg(queue.own("minutes")).arg(newest.min(1 << 50)).arg(oldest);
            range.arg("BYSCORE").arg("REV").arg("LIMIT").arg(0).arg(LISTS);
            let minutes: Vec<u64> = self.query(&range, "the minutes").await?;
            if minutes.len() == LISTS {
                shown_to = shown_to.max(minutes.last().copied().unwrap_or_default());
            }
            lists.extend(minutes.iter().map(|&minute| (queue, minute)));
        }
        lists.sort_by_key(|(queue, minute)| (Reverse(*minute), queue.number));
        // A page of the newest reads little more than it shows; one that finds little reads more.
        let mut most = limit.clamp(20, STEP);
        for &(queue, minute) in lists.iter().filter(|(_, minute)| *minute >= shown_to) {
            let list = Place { period: minute, queue: queue.number, hash: 0, left: usize::MAX };
            let Some(mut place) = goes_on(list, from) else { continue };
            let name = queue.own(&format!("at:{minute}"));
            // What a cursor says is left may be made up.
            let length: usize = self.query(redis::cmd("LLEN").arg(&name), "a length").await?;
            place.left = place.left.min(length);
            while place.left > 0 {
                let step = place.left.min(most);
                most = (most * 2).min(STEP);
                let range = redis::cmd("LRANGE").arg(&name).arg(place.left - step).arg(place.left - 1).clone();
                let keys: Vec<Vec<u8>> = self.query(&range, "keys").await?;
                if self.add(queue, keys, &mut place.left, &mut search).await? || search.looked >= RECORDS_MAX {
                    return Ok(search.page(Some(place.print('m'))));
                }
            }
        }
        let more = (shown_to > 0).then(|| Place { period: shown_to - 1, queue: 0, hash: 0, left: usize::MAX });
        Ok(search.page(more.map(|place| place.print('m'))))
    }

    /// Jobs that have one of these hashes, the newest first.
    pub(crate) async fn by_hash(
        &self,
        queues: &[Arc<QueueKeys>],
        filter: &ListFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page> {
        let from = cursor.map(|text| Place::parse(text).ok_or_else(bad_cursor)).transpose()?;
        let hashes = filter.hashes();
        let within = |hour: &u64| {
            filter.since_ms.is_none_or(|since| *hour >= since / 3_600_000)
                && filter.until_ms.is_none_or(|until| *hour <= until / 3_600_000)
                && from.is_none_or(|from| *hour <= from.period)
        };
        let search = Search::new(filter, limit);
        let mut lists = Vec::new();
        for queue in queues {
            let range = redis::cmd("ZRANGE").arg(queue.own("hours")).arg(0).arg(-1).clone();
            let hours: Vec<u64> = self.query(&range, "the hours").await?;
            let own = hours.into_iter().filter(within).flat_map(|hour| (0..hashes.len()).map(move |hash| (hour, hash)));
            let own: Vec<_> = own.collect();
            for some in own.chunks(LISTS) {
                let mut pipeline = Pipeline::new();
                for &(hour, hash) in some {
                    pipeline.cmd("LLEN").arg(list_of(queue, hour, hashes[hash]));
                }
                let replies = self.manager.send_all(&pipeline).await.map_err(|e| to_error(&e))?;
                let lengths: Vec<usize> = parse(redis::Value::Array(replies), "lengths")?;
                let there = some.iter().zip(lengths).filter(|(_, left)| *left > 0);
                lists.extend(
                    there.map(|(&(period, hash), left)| (queue, Place { period, queue: queue.number, hash, left })),
                );
            }
        }
        let lists = lists.into_iter().map(|(queue, place)| {
            let hash = hashes[place.hash];
            EntryList { queue, name: list_of(queue, place.period, hash), place, check: Some(check_of(hash)) }
        });
        self.look_through('x', lists.collect(), from, search).await
    }

    /// Jobs that ended with an error of this code, those that ended last first: as many as the
    /// lists of a code hold.
    pub(crate) async fn by_error(
        &self,
        queues: &[Arc<QueueKeys>],
        filter: &ListFilter,
        code: ErrorCode,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page> {
        let from = cursor.map(|text| Place::parse(text).ok_or_else(bad_cursor)).transpose()?;
        let code = record::code_number(code);
        let mut lists = Vec::new();
        for queue in queues {
            let known = redis::cmd("HGET").arg(queue.own("errors")).arg(code).clone();
            let known: Option<String> = self.query(&known, "lists of errors").await?;
            for period in known.iter().flat_map(|known| known.split(' ')).filter_map(|at| at.parse().ok()) {
                let name = queue.own(&format!("e:{code}:{period}"));
                let left = self.query(redis::cmd("LLEN").arg(&name), "a length").await?;
                let place = Place { period, queue: queue.number, hash: 0, left };
                lists.push(EntryList { queue, name, place, check: None });
            }
        }
        self.look_through('e', lists, from, Search::new(filter, limit)).await
    }

    /// A page of the jobs that these lists name, the newest first, from where the page before
    /// ended.
    async fn look_through(
        &self,
        kind: char,
        mut lists: Vec<EntryList<'_>>,
        from: Option<Place>,
        mut search: Search<'_>,
    ) -> Result<Page> {
        lists.sort_by_key(|list| list.place.rank());
        for EntryList { queue, name, place, check } in lists {
            let Some(mut place) = goes_on(place, from) else { continue };
            while place.left > 0 {
                let step = place.left.min(ENTRIES_STEP);
                let below = place.left - step;
                let range = redis::cmd("LRANGE").arg(&name).arg(below).arg(place.left - 1).clone();
                let entries: Vec<Vec<u8>> = self.query(&range, "entries").await?;
                search.entries_looked += step;
                // Where each stands, the newest first.
                let mut own: Vec<(usize, Vec<u8>)> =
                    (below..).zip(entries).filter(|(_, entry)| is_of(entry, check)).collect();
                while let Some(upto) = own.len().checked_sub(1) {
                    let some = own.split_off((upto + 1).saturating_sub(STEP));
                    let (places, keys): (Vec<_>, Vec<_>) =
                        some.into_iter().map(|(at, entry)| (at, entry[..KEY_LEN].to_vec())).unzip();
                    let mut left = keys.len();
                    let is_full = self.add(queue, keys, &mut left, &mut search).await?;
                    place.left = places.get(left).copied().unwrap_or(below);
                    if is_full || search.looked >= RECORDS_MAX {
                        return Ok(search.page(Some(place.print(kind))));
                    }
                }
                place.left = below;
                if search.entries_looked >= ENTRIES_MAX {
                    return Ok(search.page(Some(place.print(kind))));
                }
            }
        }
        Ok(search.page(None))
    }

    /// Adds the jobs of these keys that the filter takes, from the last to the first, until
    /// the page is full; `left` is how many of the keys (the last of a list's) are not looked
    /// at. Whether it is full.
    async fn add(
        &self,
        queue: &Arc<QueueKeys>,
        keys: Vec<Vec<u8>>,
        left: &mut usize,
        search: &mut Search<'_>,
    ) -> Result<bool> {
        if keys.is_empty() {
            // The list has expired since.
            *left = 0;
        }
        search.looked += keys.len();
        for view in self.look_at(queue, &keys).await?.into_iter().rev() {
            *left -= 1;
            let Some(view) = view.filter(|view| search.filter.takes(view)) else { continue };
            if search.jobs.iter().any(|known| known.id == view.id) {
                continue;
            }
            search.jobs.push(view);
            if search.jobs.len() == search.limit {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// These jobs as they stand, without results; those without a record are left out.
    pub(crate) async fn look_at(&self, queue: &Arc<QueueKeys>, keys: &[Vec<u8>]) -> Result<Vec<Option<JobView>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let records = self.records(queue, keys).await?;
        let is_pending =
            |record: &Option<Vec<u8>>| record.as_ref().is_some_and(|bytes| bytes.first() == Some(&state::PENDING));
        let pending: Vec<&Vec<u8>> =
            keys.iter().zip(&records).filter(|(_, record)| is_pending(record)).map(|(key, _)| key).collect();
        let mut places = Vec::new();
        if !pending.is_empty() {
            let mut pipeline = Pipeline::new();
            for set in ["ready", "sched"] {
                pipeline.cmd("ZMSCORE").arg(queue.own(set)).arg(&pending);
            }
            let replies = self.manager.send_all(&pipeline).await.map_err(|e| to_error(&e))?;
            let (ready, due): (Vec<Option<f64>>, Vec<Option<f64>>) = parse(redis::Value::Array(replies), "places")?;
            places = ready.into_iter().zip(due).collect();
        }
        let mut places = places.into_iter();
        let views = keys.iter().zip(records).map(|(key, record)| {
            let place = if is_pending(&record) { places.next() } else { None };
            let (random, bytes) = (job_of(key)?, record?);
            let pending = match place {
                Some((Some(_), _)) => JobState::Queued,
                // A first attempt waits for its time, a later one for its retry.
                Some((None, Some(_))) if bytes.get(1) == Some(&0) => JobState::Scheduled,
                Some((None, Some(_))) => JobState::Failed,
                _ => JobState::Leased,
            };
            let StoredJob { mut view, .. } = record::read(bytes.into(), queue, random, self.ids, pending)?;
            view.result = None;
            Some(view)
        });
        Ok(views.collect())
    }

    /// Of these jobs, which are told of by the list of their minute.
    pub(crate) async fn listed(&self, queue: &QueueKeys, jobs: &[JobView]) -> Result<Vec<bool>> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::new();
        for job in jobs {
            pipeline.cmd("EXISTS").arg(queue.own(&format!("at:{}", job.created_at_ms / 60_000)));
        }
        let replies = self.manager.send_all(&pipeline).await.map_err(|e| to_error(&e))?;
        parse(redis::Value::Array(replies), "whether there are lists")
    }

    /// The job of an idempotency key.
    pub(crate) async fn job_of_key(&self, model: &str, owner: OwnerId, key: &str) -> Result<Option<JobId>> {
        let Some(queue) = self.existing_queue(model).await? else { return Ok(None) };
        let name = queue.own(&format!("i:{:032x}", super::keys::idempotency_key(owner, key)));
        let known: Option<Vec<u8>> = self.query(redis::cmd("GET").arg(name), "an idempotency key").await?;
        let Some((_, known)) = known.as_deref().and_then(|known| known.split_first_chunk::<16>()) else {
            return Ok(None);
        };
        let Some((tombstone_min, key)) = known.split_first_chunk::<4>() else { return Ok(None) };
        let lives: bool = self.query(redis::cmd("EXISTS").arg(queue.job(key)), "whether it lives").await?;
        let random = job_of(key).filter(|_| lives);
        Ok(random.map(|random| self.ids.issue(random, u32::from_le_bytes(*tombstone_min), queue.number, owner)))
    }
}

/// How a list is looked at by a call that goes on at `from`: `None` for one before it.
fn goes_on(list: Place, from: Option<Place>) -> Option<Place> {
    match from {
        Some(from) if list.rank() < from.rank() => None,
        Some(from) if list.rank() == from.rank() => Some(Place { left: from.left.min(list.left), ..list }),
        _ => Some(list),
    }
}

fn list_of(queue: &QueueKeys, hour: u64, hash: u64) -> String {
    queue.own(&format!("x:{hour}:{}", bucket(hash)))
}

/// Whether an entry is of the hash that is asked for; where there is none, it is a key alone.
fn is_of(entry: &[u8], check: Option<[u8; 4]>) -> bool {
    match check {
        Some(check) => entry.len() == ENTRY_LEN && entry[KEY_LEN..] == check,
        None => entry.len() == KEY_LEN,
    }
}

fn bad_cursor() -> Error {
    Error::new(ErrorCode::InvalidParameter, "the cursor is not one of this listing; begin without one")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_place_reads_back(period: u64, queue: u64, hash in 0usize..2, left in 0usize..1 << 40) {
            let place = Place { period, queue, hash, left };
            prop_assert_eq!(Place::parse(&place.print('x')[2..]), Some(place));
        }

        #[test]
        fn each_list_is_looked_at_once_from_where_a_page_ended(periods in prop::collection::vec((0u64..9, 0u64..3, 0usize..2), 1..20), at in 0usize..20) {
            let mut lists: Vec<Place> = periods.iter().map(|&(period, queue, hash)| Place { period, queue, hash, left: 10 }).collect();
            lists.sort_by_key(|place| place.rank());
            lists.dedup();
            let at = at.min(lists.len() - 1);
            let from = Place { left: 4, ..lists[at] };
            let after: Vec<Place> = lists.iter().filter_map(|&list| goes_on(list, Some(from))).collect();
            prop_assert_eq!(after.len(), lists.len() - at);
            prop_assert_eq!(after[0].left, 4);
            prop_assert!(after[1..].iter().all(|place| place.left == 10));
        }

        #[test]
        fn no_text_is_a_place_by_chance(text in "\\PC{0,40}") {
            let _ = Place::parse(&text);
        }
    }
}
