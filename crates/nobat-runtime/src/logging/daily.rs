//! A file per day, a week of them kept.
//!
//! log4rs rolls by index or by a schedule kept in memory: a service restarted
//! daily would never roll, and on the day clocks go back it would roll on every
//! line of an hour. Here the date of the file itself decides, read from its
//! modification time when it is opened and compared with today at every write:
//! `NAME.log` becomes `NAME.YYYY-MM-DD.log` under the date it was written on, and
//! the oldest go. Dates are local. A date that goes back by a day (clocks, time
//! zones) rolls nothing.
//!
//! Several processes may share the folder: the rename happens under a file lock
//! and only while the file is still of an earlier day.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use chrono::{DateTime, Local, NaiveDate};
use log4rs::append::Append;
use log4rs::append::rolling_file::policy::Policy;
use log4rs::append::rolling_file::{LogFile, RollingFileAppender};
use log4rs::config::{Deserialize as Component, Deserializers};
use log4rs::encode::EncoderConfig;
use parking_lot::Mutex;
use serde::Deserialize;

/// Rolls by date; see the module.
struct DailyPolicy {
    keep_days: usize,
    clock: Clock,
    /// The date of the open file; `None` until the first write after it was opened.
    day: Mutex<Option<NaiveDate>>,
}

/// Where dates come from: the system, or a test.
struct Clock {
    now: Box<dyn Fn() -> SystemTime + Send + Sync>,
    local_date: Box<dyn Fn(SystemTime) -> NaiveDate + Send + Sync>,
}

impl Clock {
    fn system() -> Clock {
        Clock {
            now: Box::new(SystemTime::now),
            local_date: Box::new(|time| DateTime::<Local>::from(time).date_naive()),
        }
    }
}

impl fmt::Debug for DailyPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DailyPolicy").field("keep_days", &self.keep_days).finish_non_exhaustive()
    }
}

impl Policy for DailyPolicy {
    fn process(&self, log: &mut LogFile<'_>) -> anyhow::Result<()> {
        let today = (self.clock.local_date)((self.clock.now)());
        let mut day = self.day.lock();
        let file_day = match *day {
            Some(day) => day,
            None => self.written_on(log.path(), today)?,
        };
        *day = Some(file_day);
        if must_roll(file_day, today) {
            log.roll();
            self.roll(log.path(), today)?;
            *day = Some(today);
        }
        Ok(())
    }

    fn is_pre_process(&self) -> bool {
        true
    }
}

impl DailyPolicy {
    /// The date of the file's last line; today for an empty file.
    fn written_on(&self, path: &Path, today: NaiveDate) -> io::Result<NaiveDate> {
        let metadata = fs::metadata(path)?;
        if metadata.len() == 0 { Ok(today) } else { Ok((self.clock.local_date)(metadata.modified()?)) }
    }

    fn roll(&self, path: &Path, today: NaiveDate) -> io::Result<()> {
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.with_extension("lock"))?;
        lock.lock()?;
        // Another process may have rolled it while we waited for the lock.
        match self.written_on(path, today) {
            Ok(day) if must_roll(day, today) => archive(path, day)?,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        for old in surplus(&archives(path)?, today, self.keep_days) {
            fs::remove_file(dated(path, old))?;
        }
        Ok(())
    }
}

/// Whether a file of `file_day` must make room for one of `today`. A clock that
/// went back by a day is not a new day; one that went back further was wrong.
fn must_roll(file_day: NaiveDate, today: NaiveDate) -> bool {
    file_day < today || file_day.signed_duration_since(today).num_days() > 1
}

/// The archives to delete, so that with today's file `keep_days` files remain and
/// none is older. Dates ahead of today came from a wrong clock and go first.
fn surplus(archives: &[NaiveDate], today: NaiveDate, keep_days: usize) -> Vec<NaiveDate> {
    let keep = keep_days.max(1) - 1;
    let mut past: Vec<NaiveDate> = archives.iter().copied().filter(|day| *day < today).collect();
    past.sort_unstable_by(|a, b| b.cmp(a));
    let fresh = |day: &NaiveDate| today.signed_duration_since(*day).num_days() <= keep as i64;
    let kept: Vec<NaiveDate> = past.into_iter().filter(fresh).take(keep).collect();
    let tomorrow = today.succ_opt().unwrap_or(today);
    archives.iter().copied().filter(|day| !kept.contains(day) && (*day < today || *day > tomorrow)).collect()
}

/// `dir/name.log` of `day` as `dir/name.YYYY-MM-DD.log`.
fn dated(path: &Path, day: NaiveDate) -> PathBuf {
    path.with_extension(format!("{}.log", day.format("%Y-%m-%d")))
}

/// Moves the file under its date; onto an archive of that date it is appended.
fn archive(path: &Path, day: NaiveDate) -> io::Result<()> {
    let target = dated(path, day);
    if !target.exists() {
        return fs::rename(path, target);
    }
    io::copy(&mut File::open(path)?, &mut OpenOptions::new().append(true).open(target)?)?;
    fs::remove_file(path)
}

/// The dates for which `path` has an archive beside it.
fn archives(path: &Path) -> io::Result<Vec<NaiveDate>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut days = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let date = name
            .to_str()
            .and_then(|name| name.strip_prefix(&stem)?.strip_prefix('.')?.strip_suffix(".log"))
            .and_then(|date| NaiveDate::parse_from_str(date, "%Y-%m-%d").ok());
        days.extend(date);
    }
    Ok(days)
}

/// Stands in for the daily file while no folder is set.
#[derive(Debug)]
struct NoFile;

impl Append for NoFile {
    fn append(&self, _: &log::Record<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    fn flush(&self) {}
}

/// Makes `kind: daily_file` appenders in the settings' folder.
pub(super) struct DailyFileDeserializer {
    pub(super) dir: PathBuf,
    pub(super) program: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DailyFileConfig {
    file: String,
    #[serde(default = "a_week")]
    keep_days: usize,
    encoder: Option<EncoderConfig>,
}

fn a_week() -> usize {
    7
}

impl Component for DailyFileDeserializer {
    type Trait = dyn Append;
    type Config = DailyFileConfig;

    fn deserialize(&self, config: DailyFileConfig, deserializers: &Deserializers) -> anyhow::Result<Box<dyn Append>> {
        if self.dir.as_os_str().is_empty() {
            return Ok(Box::new(NoFile));
        }
        let path = self.dir.join(config.file.replace("{program}", &self.program));
        let policy = DailyPolicy { keep_days: config.keep_days, clock: Clock::system(), day: Mutex::new(None) };
        let mut appender = RollingFileAppender::builder();
        if let Some(encoder) = config.encoder {
            appender = appender.encoder(deserializers.deserialize(&encoder.kind, encoder.config)?);
        }
        let appender = appender
            .build(&path, Box::new(policy))
            .map_err(|error| anyhow::anyhow!("cannot write `{}`: {error}", path.display()))?;
        Ok(Box::new(appender))
    }
}

#[cfg(test)]
#[path = "daily_tests.rs"]
mod tests;
