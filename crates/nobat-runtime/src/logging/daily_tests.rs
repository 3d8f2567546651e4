use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use log4rs::encode::pattern::PatternEncoder;
use proptest::prelude::*;

use super::*;

/// 2026-10-10 00:30 in a zone at UTC+2 that goes to UTC+1 on 2026-10-25 at 01:00 UTC.
const START: u64 = 1_791_585_000;
const CLOCKS_GO_BACK: u64 = 1_792_890_000;
const HOUR: u64 = 3600;

fn local_date(time: SystemTime) -> NaiveDate {
    let utc_s = time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let offset_s = if utc_s < CLOCKS_GO_BACK { 2 * HOUR } else { HOUR };
    DateTime::from_timestamp((utc_s + offset_s) as i64, 0).expect("in range").date_naive()
}

/// A log folder under a clock that a test moves.
struct Service {
    dir: tempfile::TempDir,
    now_s: Arc<AtomicU64>,
    appender: Option<RollingFileAppender>,
}

impl Service {
    fn new() -> Service {
        let dir = tempfile::tempdir().expect("a folder");
        Service { dir, now_s: Arc::new(AtomicU64::new(START)), appender: None }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("nobat.log")
    }

    fn start(&mut self) {
        self.appender = Some(self.open());
    }

    fn open(&self) -> RollingFileAppender {
        let now_s = self.now_s.clone();
        let clock = Clock {
            now: Box::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(now_s.load(Ordering::SeqCst))),
            local_date: Box::new(local_date),
        };
        let policy = DailyPolicy { keep_days: 7, clock, day: Mutex::new(None) };
        RollingFileAppender::builder()
            .encoder(Box::new(PatternEncoder::new("{m}\n")))
            .build(self.path(), Box::new(policy))
            .expect("opens")
    }

    fn at(&self, now_s: u64) {
        self.now_s.store(now_s, Ordering::SeqCst);
    }

    /// Writes a line that says its own local date, and gives the file the
    /// modification time that it would have.
    fn write(&self) {
        self.write_by(self.appender.as_ref().expect("started"));
    }

    fn write_by(&self, appender: &RollingFileAppender) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(self.now_s.load(Ordering::SeqCst));
        let line = local_date(now).to_string();
        appender.append(&log::Record::builder().args(format_args!("{line}")).build()).expect("writes");
        let file = OpenOptions::new().append(true).open(self.path()).expect("the log file is there");
        file.set_modified(now).expect("a modification time");
    }

    /// File name to distinct lines.
    fn files(&self) -> Vec<(String, Vec<String>)> {
        let mut files: Vec<_> = fs::read_dir(self.dir.path())
            .expect("lists")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .map(|path| {
                let mut lines: Vec<_> = fs::read_to_string(&path).expect("text").lines().map(str::to_owned).collect();
                lines.dedup();
                (path.file_name().expect("a name").to_string_lossy().into_owned(), lines)
            })
            .collect();
        files.sort();
        files
    }
}

#[test]
fn thirty_days_with_restarts_and_a_clock_change_leave_seven_files_none_older() {
    let mut service = Service::new();
    service.start();
    for half_hour in 0..30 * 48 {
        service.at(START + half_hour * HOUR / 2);
        // A restart every 17 hours, and one that stays down over a midnight.
        if half_hour % 34 == 0 {
            service.appender = None;
            service.start();
        }
        if (200..230).contains(&half_hour) {
            continue;
        }
        service.write();
    }
    let files = service.files();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "nobat.2026-11-02.log",
            "nobat.2026-11-03.log",
            "nobat.2026-11-04.log",
            "nobat.2026-11-05.log",
            "nobat.2026-11-06.log",
            "nobat.2026-11-07.log",
            "nobat.log",
        ]
    );
    for (name, lines) in &files {
        assert_eq!(lines.len(), 1, "{name} holds one day: {lines:?}");
        assert!(name == "nobat.log" || name.contains(&lines[0]), "{name} holds its own day: {lines:?}");
    }
    assert_eq!(files[6].1, ["2026-11-08"]);
}

#[test]
fn the_day_clocks_go_back_is_one_file() {
    let mut service = Service::new();
    service.start();
    for minute in 0..36 * 60 {
        service.at(CLOCKS_GO_BACK - 12 * HOUR + minute * 60);
        service.write();
    }
    let names: Vec<String> = service.files().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["nobat.2026-10-24.log", "nobat.2026-10-25.log", "nobat.log"]);
}

#[test]
fn a_stale_file_is_archived_under_its_own_date_after_a_restart() {
    let mut service = Service::new();
    service.start();
    service.write();
    service.appender = None;
    service.at(START + 50 * HOUR);
    service.start();
    service.write();
    let files = service.files();
    assert_eq!(files[0], ("nobat.2026-10-10.log".into(), vec!["2026-10-10".into()]));
    assert_eq!(files[1], ("nobat.log".into(), vec!["2026-10-12".into()]));
}

#[test]
fn a_clock_that_was_years_ahead_does_not_stop_rolling() {
    let mut service = Service::new();
    service.start();
    service.at(START + 4 * 365 * 24 * HOUR);
    service.write();
    service.at(START);
    service.write();
    service.at(START + 24 * HOUR);
    service.write();
    let names: Vec<String> = service.files().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["nobat.2026-10-10.log", "nobat.log"]);
}

#[test]
fn two_processes_share_a_folder_and_lose_no_line() {
    let mut service = Service::new();
    service.start();
    let other = service.open();
    service.write();
    service.write_by(&other);
    service.at(START + 24 * HOUR);
    service.write();
    service.write_by(&other);
    let today = fs::read_to_string(service.path()).expect("reads");
    let before = fs::read_to_string(service.dir.path().join("nobat.2026-10-10.log")).expect("reads");
    assert_eq!(today.lines().collect::<Vec<_>>(), ["2026-10-11"; 2]);
    assert_eq!(before.lines().collect::<Vec<_>>(), ["2026-10-10"; 2]);
}

proptest! {
    #[test]
    fn what_stays_is_at_most_a_week_and_none_older(days in prop::collection::btree_set(0i64..60, 0..40), keep in 1usize..10) {
        let today = NaiveDate::from_ymd_opt(2026, 3, 1).expect("a date");
        let archives: Vec<NaiveDate> = days.iter().map(|back| today - chrono::Duration::days(*back)).collect();
        let gone = surplus(&archives, today, keep);
        let left: Vec<_> = archives.iter().filter(|day| !gone.contains(day) && **day != today).collect();
        prop_assert!(left.len() < keep.max(1));
        prop_assert!(left.iter().all(|day| (today - **day).num_days() < keep as i64));
        let fresh = archives.iter().filter(|day| **day < today && (today - **day).num_days() < keep as i64).count();
        prop_assert_eq!(left.len(), fresh, "nothing of the week is deleted");
    }
}
