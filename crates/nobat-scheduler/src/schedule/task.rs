//! A periodic task as configuration declares it, its live state and its runs.

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::crontab::Crontab;
use nobat_core::retry::RetryPolicy;
use nobat_core::{Error, Result};

/// One periodic task: when, and exactly one kind of work.
///
/// ```toml
/// [[periodic]]
/// name = "nightly-scores"
/// schedule = "0 */3 * * *"
/// timezone = "Europe/Berlin"
/// predict = { model = "digits", request = { inputs = [ … ] }, priority = 3 }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Periodic {
    /// Unique; letters, digits, `-`, `_` and `.`.
    pub name: SmolStr,
    /// Five-field crontab or `@hourly` and friends.
    pub schedule: String,
    /// IANA time zone.
    #[serde(default = "utc")]
    pub timezone: String,
    /// What a tick does while the run of an earlier one is still going.
    #[serde(default)]
    pub overlap: Overlap,
    /// What becomes of ticks that nobody was there to see.
    #[serde(default)]
    pub misfire: Misfire,
    /// How late a tick may be noticed before it counts as misfired, seconds.
    #[serde(default = "one_minute")]
    pub grace_s: u32,
    /// A run that takes longer is ended and counts as failed, seconds.
    #[serde(default = "one_hour")]
    pub timeout_s: u32,
    /// When a failed run is tried again. No retries unless asked for.
    #[serde(default = "no_retries")]
    pub retry: RetryPolicy,
    /// Declared but not run until resumed.
    #[serde(default)]
    pub paused: bool,
    /// Enqueues a stored request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predict: Option<Predict>,
    /// Fetches a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<Fetch>,
    /// Loads a model again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<Reload>,
    /// Runs a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
    /// Clears what has expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vacuum: Option<Vacuum>,
}

/// The one kind of work of a [`Periodic`] task.
#[derive(Clone, Copy, Debug)]
pub enum TaskKind<'a> {
    /// See [`Periodic::predict`].
    Predict(&'a Predict),
    /// See [`Periodic::fetch`].
    Fetch(&'a Fetch),
    /// See [`Periodic::reload`].
    Reload(&'a Reload),
    /// See [`Periodic::exec`].
    Exec(&'a Exec),
    /// See [`Periodic::vacuum`].
    Vacuum(&'a Vacuum),
}

/// What a tick does while an earlier run is still going.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The tick is recorded as skipped.
    #[default]
    Skip,
    /// It runs when the earlier one has ended; one at a time.
    Queue,
    /// It runs beside it.
    Allow,
}

/// What becomes of ticks that came while nobody looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Misfire {
    /// They are dropped; the newest is recorded as missed.
    #[default]
    Skip,
    /// The newest runs, once for all of them.
    RunOnce,
}

/// A stored request that becomes an ordinary job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predict {
    /// The model (or `model/version`).
    pub model: SmolStr,
    /// An Open Inference Protocol v2 request, as its JSON says it.
    pub request: serde_json::Value,
    /// The job's priority.
    #[serde(default)]
    pub priority: u8,
    /// How long the job's result can be read, seconds.
    #[serde(default = "one_hour")]
    pub result_ttl_s: u32,
    /// Where the result is also written, atomically, as v2 JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_to: Option<String>,
    /// Where the job's end is also posted, signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
}

/// An HTTP GET into a file, atomically.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetch {
    /// `http://` or `https://`.
    pub url: String,
    /// The file it replaces when the whole answer has arrived. Its ETag is kept
    /// beside it (`.etag`), and an answer of 304 changes nothing.
    pub file: String,
    /// A larger answer is refused and the old file stays.
    #[serde(default = "hundred_mib")]
    pub max_bytes: u64,
    /// Which model to load again when the file has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then_reload: Option<SmolStr>,
}

/// Asks the workers to load a model again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    /// Which model.
    pub model: SmolStr,
}

/// A command of the operator's, run without a shell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// Most bytes of output kept with the run; the newest are kept.
    #[serde(default = "eight_kib")]
    pub max_output_bytes: u32,
}

/// Clears expired state and keeps house in the periodic tasks' own store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vacuum {
    /// Finished runs are kept for this long, seconds.
    pub keep_s: u64,
}

impl Periodic {
    /// The task's one kind of work.
    ///
    /// # Errors
    /// `invalid_parameter` when it has none or several.
    pub fn kind(&self) -> Result<TaskKind<'_>> {
        let mut kinds = [
            self.predict.as_ref().map(TaskKind::Predict),
            self.fetch.as_ref().map(TaskKind::Fetch),
            self.reload.as_ref().map(TaskKind::Reload),
            self.exec.as_ref().map(TaskKind::Exec),
            self.vacuum.as_ref().map(TaskKind::Vacuum),
        ]
        .into_iter()
        .flatten();
        match (kinds.next(), kinds.next()) {
            (Some(kind), None) => Ok(kind),
            _ => Err(self.invalid("needs exactly one of predict, fetch, reload, exec, vacuum")),
        }
    }

    /// Checks everything that can be seen without a model, and parses the
    /// schedule. `exec_allowed` is the operator's switch.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the task, the value and the remedy.
    pub fn check(&self, exec_allowed: bool) -> Result<Crontab> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(plain) {
            return Err(self.invalid("has no usable name; take 1 to 64 letters, digits, `-`, `_`, `.`"));
        }
        if self.timeout_s == 0 {
            return Err(self.invalid("has timeout_s 0; take at least 1"));
        }
        match self.kind()? {
            TaskKind::Exec(_) if !exec_allowed => {
                return Err(self.invalid("runs a command, which is off; set periodic_exec = true to allow it"));
            }
            TaskKind::Exec(exec) if exec.command.is_empty() => {
                return Err(self.invalid("has an empty command; give program and arguments"));
            }
            TaskKind::Fetch(fetch) if !fetch.url.starts_with("http://") && !fetch.url.starts_with("https://") => {
                return Err(self.invalid(&format!("fetches `{}`; take an http or https URL", fetch.url)));
            }
            TaskKind::Fetch(fetch) if fetch.file.is_empty() || fetch.file.ends_with('/') => {
                return Err(self.invalid(&format!("fetches into `{}`; name a file", fetch.file)));
            }
            TaskKind::Predict(Predict { model, .. }) | TaskKind::Reload(Reload { model }) if model.is_empty() => {
                return Err(self.invalid("names no model"));
            }
            _ => {}
        }
        Crontab::parse(&self.schedule, &self.timezone)
            .map_err(|error| self.invalid(&format!("cannot be scheduled: {}", error.message)))
    }

    /// An `invalid_parameter` about this task.
    pub fn invalid(&self, what: &str) -> Error {
        Error::invalid(format!("periodic task `{}` {what}", self.name))
    }
}

fn utc() -> String {
    "UTC".into()
}
fn one_minute() -> u32 {
    60
}
fn one_hour() -> u32 {
    3600
}
fn hundred_mib() -> u64 {
    100 << 20
}
fn eight_kib() -> u32 {
    8 << 10
}
fn no_retries() -> RetryPolicy {
    RetryPolicy { max_retries: 0, ..RetryPolicy::default() }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// It did its work.
    Succeeded,
    /// It did not; the message says why.
    #[default]
    Failed,
    /// An earlier run was still going (overlap policy `skip`).
    Skipped,
    /// Nobody was there at its time (misfire policy `skip`).
    Missed,
}

/// One line of a task's history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The tick, or the instant somebody asked for it, Unix seconds.
    pub tick: i64,
    /// Whether somebody asked for it outside the schedule.
    #[serde(default)]
    pub manual: bool,
    /// How it ended.
    pub outcome: RunOutcome,
    /// Attempts it took.
    pub attempts: u32,
    /// Started, milliseconds since 1970.
    pub started_at_ms: u64,
    /// How long all attempts took, milliseconds.
    pub duration_ms: u64,
    /// What it did, or why it failed.
    pub message: String,
    /// A command's exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The end of a command's output.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// The job of a `predict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Who ran it.
    #[serde(default)]
    pub scheduler: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(json: serde_json::Value) -> Periodic {
        serde_json::from_value(json).expect("a task")
    }

    #[test]
    fn each_misfit_names_the_task_the_value_and_the_remedy() {
        let refused = |json| task(json).check(false).expect_err("refused").message;
        let exec = serde_json::json!({"name": "t", "schedule": "@daily", "exec": {"command": ["true"]}});
        assert!(refused(exec.clone()).contains("set periodic_exec = true"));
        assert!(task(exec).check(true).is_ok());
        assert!(refused(serde_json::json!({"name": "t", "schedule": "@daily"})).contains("exactly one of predict"));
        assert!(
            refused(serde_json::json!({"name": "a b", "schedule": "@daily", "vacuum": {}})).contains("usable name")
        );
        assert_eq!(
            refused(serde_json::json!({"name": "t", "schedule": "99 * * * *", "vacuum": {}})),
            "periodic task `t` cannot be scheduled: crontab `99 * * * *` has minute `99`; take 0-59, `*`, lists, ranges, steps"
        );
        let ftp = serde_json::json!({"name": "t", "schedule": "@daily", "fetch": {"url": "ftp://h/f", "file": "f"}});
        assert!(refused(ftp).contains("fetches `ftp://h/f`; take an http or https URL"));
        assert!(serde_json::from_value::<Periodic>(serde_json::json!({"name": "t", "cron": "x"})).is_err());
    }
}
