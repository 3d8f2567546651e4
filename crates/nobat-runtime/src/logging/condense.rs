//! Equal lines are counted, not repeated: a store that is away or a caller with a
//! wrong key makes thousands of lines that say one thing.
//!
//! A *kind* is a place in the code at a level, and for a line about a request its
//! status too. Of warnings, errors and lines about requests the first few that differ
//! are written as they come; from then on one line says how many more there were,
//! after a second, then after two, four, up to [`LONGEST`]. A kind that was quiet for
//! a while begins anew. Everything else is written as it comes.
//!
//! Pure but for the lock: callers pass `now` and write what is returned.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use log::kv::{self, Key, Value, VisitSource};
use log::{Level, Record};
use parking_lot::Mutex;

/// The target of lines about requests; those of one status are one kind.
pub const ACCESS: &str = "nobat::access";
/// Lines of one kind that differ and are written as they come, before they are counted.
const DIFFERENT: usize = 3;
/// How long a kind waits before it is written again, at first and at most.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15);
/// A kind that was not heard of for so long, and twice its wait, begins anew.
const QUIET: Duration = Duration::from_secs(5);
/// Kinds remembered; there are as many as places that warn.
const MOST_KINDS: usize = 1_000;

/// What to do with a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Write it.
    Write,
    /// Write it, and say that so many like it were not written within this time.
    WriteWith(Untold),
    /// It is counted.
    Count,
}

/// How many lines of a kind were not written, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Untold {
    pub(super) count: u64,
    pub(super) within: Duration,
}

/// Lines that were counted and whose time to be told has come.
pub(super) struct Summary {
    pub(super) level: Level,
    pub(super) target: String,
    pub(super) message: String,
    pub(super) untold: Untold,
}

/// Counts lines by kind.
#[derive(Default)]
pub(super) struct Condenser {
    // Held for a look-up; lines come here at the rate of trouble.
    kinds: Mutex<HashMap<u64, Kind>>,
    hasher: RandomState,
}

/// One kind of line since it began to be heard of.
struct Kind {
    /// Hashes of the lines written as they came.
    different: Vec<u64>,
    /// When it was written last, or began to be counted.
    written: Instant,
    heard: Instant,
    wait: Duration,
    untold: u64,
    /// The first line that was not written since then.
    sample: Option<(Level, String, String)>,
}

impl Condenser {
    /// Whether lines like this are counted at all.
    pub(super) fn concerns(level: Level, target: &str) -> bool {
        level <= Level::Warn || (level == Level::Info && target == ACCESS)
    }

    /// Takes a line up.
    pub(super) fn judge(&self, record: &Record<'_>, now: Instant) -> Verdict {
        let status = (record.target() == ACCESS)
            .then(|| record.key_values().get(Key::from_str("status")).and_then(|status| status.to_u64()))
            .flatten();
        // What a library's bridge passes on may have no place.
        let key = self.hasher.hash_one((record.level(), record.target(), record.file(), record.line(), status));
        let mut kinds = self.kinds.lock();
        if kinds.len() >= MOST_KINDS && !kinds.contains_key(&key) {
            kinds.retain(|_, kind| kind.untold > 0);
        }
        let new = || Kind { different: Vec::new(), written: now, heard: now, wait: FIRST, untold: 0, sample: None };
        let kind = kinds.entry(key).or_insert_with(new);
        if kind.untold == 0 && now.saturating_duration_since(kind.heard) > QUIET.max(2 * kind.wait) {
            *kind = new();
        }
        kind.heard = now;
        let waited = now.saturating_duration_since(kind.written);
        if kind.different.is_empty() {
            kind.different.push(self.of_line(record));
            kind.written = now;
            return Verdict::Write;
        }
        if waited >= kind.wait {
            return match kind.tell(now) {
                Some(untold) => Verdict::WriteWith(untold),
                None => Verdict::Write,
            };
        }
        // Lines about requests differ by their times alone.
        if status.is_none() && kind.different.len() < DIFFERENT {
            let line = self.of_line(record);
            if !kind.different.contains(&line) {
                kind.different.push(line);
                return Verdict::Write;
            }
        }
        kind.untold += 1;
        if kind.sample.is_none() {
            kind.sample = Some((record.level(), record.target().to_owned(), record.args().to_string()));
        }
        Verdict::Count
    }

    /// The kinds whose time to be told has come though nothing more of them is heard;
    /// `all`: whatever was counted.
    pub(super) fn due(&self, now: Instant, all: bool) -> Vec<Summary> {
        let mut kinds = self.kinds.lock();
        let due = kinds.values_mut().filter_map(|kind| {
            if !all && now.saturating_duration_since(kind.written) < kind.wait {
                return None;
            }
            let (level, target, message) = kind.sample.take()?;
            let untold = kind.tell(now)?;
            Some(Summary { level, target, message, untold })
        });
        due.collect()
    }

    /// Whether anything is counted and not told yet.
    pub(super) fn has_untold(&self) -> bool {
        self.kinds.lock().values().any(|kind| kind.untold > 0)
    }

    fn of_line(&self, record: &Record<'_>) -> u64 {
        match record.args().as_str() {
            Some(text) => self.hasher.hash_one(text),
            None => self.hasher.hash_one(record.args().to_string()),
        }
    }
}

impl Kind {
    /// It is told now: what was not told until then.
    fn tell(&mut self, now: Instant) -> Option<Untold> {
        let within = now.saturating_duration_since(self.written);
        let untold = (self.untold > 0).then_some(Untold { count: self.untold, within });
        if untold.is_some() {
            self.wait = (self.wait * 2).min(LONGEST);
        }
        (self.written, self.untold, self.sample) = (now, 0, None);
        untold
    }
}

impl std::fmt::Display for Untold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "and {} more like it within {:.0} s", self.count, self.within.as_secs_f64().ceil())
    }
}

/// A line's fields, and with them how many more there were.
pub(super) struct WithCount<'a> {
    pub(super) fields: &'a dyn kv::Source,
    pub(super) more: u64,
}

impl kv::Source for WithCount<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        self.fields.visit(visitor)?;
        visitor.visit_pair(Key::from_str("more"), Value::from(self.more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(condenser: &Condenser, line: u32, text: &str, now: Instant) -> Verdict {
        let mut record = Record::builder();
        record.level(Level::Warn).target("nobat_gateway").file_static(Some("a.rs")).line(Some(line));
        condenser.judge(&record.args(format_args!("{text}")).build(), now)
    }

    fn access(condenser: &Condenser, status: u64, text: &str, now: Instant) -> Verdict {
        let fields: &[(&str, Value<'_>)] = &[("status", status.into())];
        let mut record = Record::builder();
        record.level(Level::Info).target(ACCESS).file_static(Some("edge.rs")).line(Some(1)).key_values(&fields);
        condenser.judge(&record.args(format_args!("{text}")).build(), now)
    }

    #[test]
    fn equal_lines_are_told_once_and_then_counted_at_growing_times() {
        let (condenser, start) = (Condenser::default(), Instant::now());
        let mut written = Vec::new();
        for ms in 0..60_000u64 {
            match judge(&condenser, 7, "refused: the disk is full", start + Duration::from_millis(ms)) {
                Verdict::Count => {}
                Verdict::Write => written.push((ms, 0)),
                Verdict::WriteWith(untold) => written.push((ms, untold.count)),
            }
        }
        let at: Vec<u64> = written.iter().map(|(ms, _)| ms / 1000).collect();
        assert_eq!(at, [0, 1, 3, 7, 15, 30, 45], "{written:?}");
        let counted: u64 = written.iter().map(|(_, count)| count + 1).sum();
        assert_eq!(counted, 45_001, "every line up to the last that was written is in one");
        // What is left is told although nothing more comes.
        assert!(condenser.due(start + Duration::from_millis(59_999), false).is_empty(), "not yet");
        let rest = condenser.due(start + Duration::from_secs(61), false);
        assert_eq!((rest.len(), rest[0].untold.count), (1, 60_000 - counted));
        assert_eq!((rest[0].level, rest[0].message.as_str()), (Level::Warn, "refused: the disk is full"));
        assert!(condenser.due(start + Duration::from_secs(600), true).is_empty(), "and only once");
    }

    #[test]
    fn lines_of_one_place_that_differ_are_written_while_they_are_few() {
        let (condenser, now) = (Condenser::default(), Instant::now());
        for model in ["a", "b", "c"] {
            assert_eq!(judge(&condenser, 7, &format!("model {model} mixes rows"), now), Verdict::Write);
        }
        assert_eq!(judge(&condenser, 7, "model a mixes rows", now), Verdict::Count);
        assert_eq!(judge(&condenser, 7, "model d mixes rows", now), Verdict::Count);
        assert_eq!(judge(&condenser, 8, "model d mixes rows", now), Verdict::Write, "another place is another kind");
    }

    #[test]
    fn requests_of_one_status_are_one_kind() {
        let (condenser, now) = (Condenser::default(), Instant::now());
        assert_eq!(access(&condenser, 401, "POST /a 401 0.1 ms", now), Verdict::Write);
        assert_eq!(access(&condenser, 401, "POST /b 401 0.2 ms", now), Verdict::Count);
        assert_eq!(access(&condenser, 404, "POST /a 404 0.1 ms", now), Verdict::Write);
        let later = now + Duration::from_millis(1_500);
        let untold = Untold { count: 1, within: Duration::from_millis(1_500) };
        assert_eq!(access(&condenser, 401, "POST /c 401 0.1 ms", later), Verdict::WriteWith(untold));
        assert_eq!(untold.to_string(), "and 1 more like it within 2 s");
    }

    #[test]
    fn what_comes_now_and_then_is_written_each_time() {
        let (condenser, start) = (Condenser::default(), Instant::now());
        for s in 0..100 {
            assert_eq!(judge(&condenser, 7, "a blip", start + Duration::from_secs(2 * s)), Verdict::Write);
        }
    }

    #[test]
    fn information_and_details_are_never_counted() {
        assert!(!Condenser::concerns(Level::Info, "nobat_worker"));
        assert!(!Condenser::concerns(Level::Debug, ACCESS));
        assert!(Condenser::concerns(Level::Info, ACCESS) && Condenser::concerns(Level::Error, "redis"));
    }
}
