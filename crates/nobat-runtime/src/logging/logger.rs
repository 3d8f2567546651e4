//! The process's logger: whatever was built last, behind the counting of equal lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use nobat_core::{Error, Result};
use parking_lot::{Mutex, RwLock};

use super::build::build;
use super::condense::{Condenser, Summary, Untold, Verdict, WithCount};
use super::settings::LogSettings;
use super::signals::{self, LevelChange};

/// How often counted lines are looked at while there are some.
const COUNTED_EVERY: Duration = Duration::from_millis(500);

/// A handle to the running logger.
pub struct Logging {
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
pub fn init(program: &'static str, settings: LogSettings) -> Result<Arc<Logging>> {
    let logger = build(program, &settings, 0)?;
    let max = logger.max_log_level();
    let active = Arc::new(RwLock::new(logger));
    let counting =
        Arc::new(Counting { logger: active.clone(), condenser: Condenser::default(), some: AtomicBool::new(false) });
    let teller = tell_counted(counting.clone());
    log::set_boxed_logger(Box::new(Active { counting, teller }))
        .map_err(|error| Error::invalid(format!("logging is already set up: {error}")))?;
    log::set_max_level(max);
    let logging = Arc::new(Logging { settings, program, active, extra: Mutex::new(0) });
    let changed = logging.clone();
    signals::listen(move |change| changed.change(change));
    Ok(logging)
}

impl Logging {
    /// Reads the configuration file again, reopens the log files and changes the levels.
    ///
    /// # Errors
    /// `invalid_parameter` when it cannot be read; what ran goes on.
    pub fn change(&self, change: LevelChange) -> Result<()> {
        let mut extra = self.extra.lock();
        let wanted = match change {
            LevelChange::Keep => *extra,
            LevelChange::More => *extra + 1,
            LevelChange::Restore => 0,
        };
        let logger = build(self.program, &self.settings, wanted)?;
        log::set_max_level(logger.max_log_level());
        *self.active.write() = logger;
        *extra = wanted;
        Ok(())
    }
}

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
