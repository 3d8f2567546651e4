//! Logging set-up: log4rs from `config/log4rs.yaml`, the same in every binary.
//!
//! Owns the logger's configuration: console and a file per day ([`daily`]), one
//! line per event as text or JSON ([`line`]), equal lines counted ([`condense`]),
//! levels changed while running ([`signals`]). It does not own what is logged: callers use the `log` crate
//! with a readable message and fields, and never pass tensors, bodies or keys.
//!
//! Invariants:
//! - Logging never takes the service down: a log folder that is missing, full or
//!   not ours costs a line on stderr (at most one a minute), nothing else.
//! - Trouble that repeats costs a few lines a minute, whatever its rate.
//! - A reload that cannot be read leaves the running configuration in place.

mod condense;
mod daily;
mod levels;
mod line;
mod signals;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime};

use log4rs::config::{Config, Deserializers, Logger as LoggerConfig, RawConfig, Root};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use condense::{Condenser, Summary, Untold, Verdict, WithCount};

use nobat_core::error::{Error, ErrorCode, Result};

pub use condense::ACCESS;

/// How often counted lines are looked at while there are some.
const COUNTED_EVERY: Duration = Duration::from_millis(500);

/// The configuration used when no file is named.
const BUILT_IN: &str = include_str!("../../../../config/log4rs.yaml");

/// How the binaries log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// A log4rs YAML file; empty: the built-in one.
    pub config: PathBuf,
    /// Folder of the daily files; empty: console only.
    pub dir: PathBuf,
    /// How a line is written.
    pub format: LogFormat,
    /// Levels over the file's: `debug`, or `info,nobat_queue=trace`; empty: the file's.
    pub level: String,
}

impl LogSettings {
    /// With a folder for the daily files where none is named: systemd's
    /// LogsDirectory=, else none.
    #[must_use]
    pub fn or_service_dir(mut self) -> LogSettings {
        if self.dir.as_os_str().is_empty() {
            self.dir = std::env::var_os("LOGS_DIRECTORY").unwrap_or_default().into();
        }
        self
    }
}

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// `time LEVEL target message key=value …`
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A handle to the running logger; cheap to clone.
#[derive(Clone)]
pub struct Logging {
    shared: Arc<Shared>,
}

struct Shared {
    settings: LogSettings,
    program: &'static str,
    active: Arc<RwLock<log4rs::Logger>>,
    /// Levels above the configured ones, set by signal.
    extra: Mutex<usize>,
}

/// Installs the process's logger and the thread that listens for its signals.
///
/// # Errors
/// `invalid_parameter` when the named file or the levels cannot be read, or a
/// logger is installed already. A log folder that cannot be written is no error:
/// it is reported on stderr and logging goes to the console.
pub fn init(program: &'static str, settings: LogSettings) -> Result<Logging> {
    let logger = build(program, &settings, 0)?;
    let max = logger.max_log_level();
    let active = Arc::new(RwLock::new(logger));
    let counting =
        Arc::new(Counting { logger: active.clone(), condenser: Condenser::default(), some: AtomicBool::new(false) });
    let teller = tell_counted(counting.clone());
    log::set_boxed_logger(Box::new(Active { counting, teller }))
        .map_err(|error| invalid(format!("logging is already set up: {error}")))?;
    log::set_max_level(max);
    let logging = Logging { shared: Arc::new(Shared { settings, program, active, extra: Mutex::new(0) }) };
    signals::listen(logging.clone());
    Ok(logging)
}

impl Logging {
    /// Reads the configuration file again and reopens the log files.
    ///
    /// # Errors
    /// `invalid_parameter` when it cannot be read; what ran goes on.
    pub fn reload(&self) -> Result<()> {
        self.rebuild(*self.shared.extra.lock())
    }

    /// Logs one level more everywhere, up to trace.
    ///
    /// # Errors
    /// As [`Logging::reload`].
    pub fn more(&self) -> Result<()> {
        let mut extra = self.shared.extra.lock();
        self.rebuild(*extra + 1)?;
        *extra += 1;
        Ok(())
    }

    /// Goes back to the configured levels.
    ///
    /// # Errors
    /// As [`Logging::reload`].
    pub fn restore(&self) -> Result<()> {
        let mut extra = self.shared.extra.lock();
        self.rebuild(0)?;
        *extra = 0;
        Ok(())
    }

    fn rebuild(&self, extra: usize) -> Result<()> {
        let logger = build(self.shared.program, &self.shared.settings, extra)?;
        let max = logger.max_log_level();
        *self.shared.active.write() = logger;
        log::set_max_level(max);
        Ok(())
    }
}

/// The installed logger: whatever was built last, behind the counting of equal lines.
struct Active {
    counting: Arc<Counting>,
    /// Tells what was counted; `None` where the system refused it: then it is told
    /// with the next line of its kind.
    teller: Option<Thread>,
}

struct Counting {
    /// A lock rather than log4rs's own handle, because that one forgets our error
    /// handler on every change.
    logger: Arc<RwLock<log4rs::Logger>>,
    condenser: Condenser,
    /// Whether something was counted since the teller looked.
    some: AtomicBool,
}

impl log::Log for Active {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.counting.logger.read().enabled(metadata)
    }

    fn log(&self, record: &log::Record<'_>) {
        let logger = self.counting.logger.read();
        if !Condenser::concerns(record.level(), record.target()) {
            return logger.log(record);
        }
        if !logger.enabled(record.metadata()) {
            return;
        }
        match self.counting.condenser.judge(record, Instant::now()) {
            Verdict::Write => logger.log(record),
            Verdict::WriteWith(untold) => write_with(&logger, record, untold),
            Verdict::Count => {
                if !self.counting.some.swap(true, Ordering::AcqRel)
                    && let Some(teller) = &self.teller
                {
                    teller.unpark();
                }
            }
        }
    }

    fn flush(&self) {
        self.counting.tell(true);
        self.counting.logger.read().flush();
    }
}

impl Counting {
    /// Writes what was counted and is due; `all`: whatever was.
    fn tell(&self, all: bool) {
        let logger = self.logger.read();
        for Summary { level, target, message, untold } in self.condenser.due(Instant::now(), all) {
            let mut record = log::Record::builder();
            record.level(level).target(&target);
            write_with(&logger, &record.args(format_args!("{message}")).build(), untold);
        }
    }
}

fn write_with(logger: &log4rs::Logger, record: &log::Record<'_>, untold: Untold) {
    let fields = WithCount { fields: record.key_values(), more: untold.count };
    let mut counted = record.to_builder();
    counted.key_values(&fields);
    log::Log::log(logger, &counted.args(format_args!("{} ({untold})", record.args())).build());
}

/// Starts the thread that tells of what was counted when nothing more of it comes.
fn tell_counted(counting: Arc<Counting>) -> Option<Thread> {
    let thread = std::thread::Builder::new().name("log-count".into()).stack_size(256 * 1024);
    let spawned = thread.spawn(move || {
        loop {
            while !counting.some.load(Ordering::Acquire) {
                std::thread::park();
            }
            std::thread::sleep(COUNTED_EVERY);
            counting.some.store(false, Ordering::Release);
            counting.tell(false);
            if counting.condenser.has_untold() {
                counting.some.store(true, Ordering::Release);
            }
        }
    });
    spawned.ok().map(|thread| thread.thread().clone())
}

fn build(program: &str, settings: &LogSettings, extra: usize) -> Result<log4rs::Logger> {
    let text = if settings.config.as_os_str().is_empty() {
        BUILT_IN.to_owned()
    } else {
        std::fs::read_to_string(&settings.config)
            .map_err(|error| invalid(format!("cannot read log.config `{}`: {error}", settings.config.display())))?
    };
    let raw: RawConfig = serde_yaml::from_str(&text)
        .map_err(|error| invalid(format!("log.config `{}` is not log4rs YAML: {error}", settings.config.display())))?;
    let wanted = levels::parse(&settings.level)?;

    let mut deserializers = Deserializers::default();
    deserializers.insert("line", line::LineEncoderDeserializer(settings.format));
    deserializers
        .insert("daily_file", daily::DailyFileDeserializer { dir: settings.dir.clone(), program: program.to_owned() });
    let (appenders, mut errors) = raw.appenders_lossy(&deserializers);
    if !errors.is_empty() {
        eprintln!("{program}: part of the logging could not be set up; going on with the rest");
        errors.handle();
    }

    let root = raw.root();
    let known = |names: &[String]| -> Vec<String> {
        names.iter().filter(|name| appenders.iter().any(|appender| appender.name() == **name)).cloned().collect()
    };
    let root_level = levels::raise(wanted.root.unwrap_or(root.level()), extra);
    let new_root = Root::builder().appenders(known(root.appenders())).build(root_level);
    let mut loggers: Vec<LoggerConfig> = Vec::new();
    for logger in raw.loggers().iter().filter(|logger| !wanted.modules.contains_key(logger.name())) {
        let builder = LoggerConfig::builder().appenders(known(logger.appenders())).additive(logger.additive());
        loggers.push(builder.build(logger.name(), levels::raise(logger.level(), extra)));
    }
    for (module, level) in &wanted.modules {
        loggers.push(LoggerConfig::builder().build(module, levels::raise(*level, extra)));
    }
    let config = Config::builder()
        .appenders(appenders)
        .loggers(loggers)
        .build(new_root)
        .map_err(|error| invalid(format!("log.config `{}`: {error}", settings.config.display())))?;
    Ok(log4rs::Logger::new_with_err_handler(config, Box::new(report_rarely(program.to_owned()))))
}

/// Says on stderr that a line could not be written, at most once a minute: a
/// full disk under the log folder must neither flood the console nor stop us.
fn report_rarely(program: String) -> impl Fn(&anyhow::Error) + Send + Sync {
    let last_s = AtomicU64::new(0);
    move |error| {
        let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let before = last_s.load(Ordering::Relaxed);
        if now_s.abs_diff(before) >= 60
            && last_s.compare_exchange(before, now_s, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            eprintln!("{program}: a log line could not be written: {error}");
        }
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidParameter, message)
}
