//! A log4rs logger out of a configuration file and the settings over it.

use crate::streams::tell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use log4rs::config::{Config, Deserializers, Logger as LoggerConfig, RawConfig, Root};
use nobat_core::{Error, Result};

use super::settings::LogSettings;
use super::{daily, levels, line};

/// The configuration used when no file is named.
const BUILT_IN: &str = include_str!("../../../../config/log4rs.yaml");

/// Makes a logger of the settings, `extra` levels more talkative than they say.
pub(super) fn build(program: &str, settings: &LogSettings, extra: usize) -> Result<log4rs::Logger> {
    let text = if settings.config.as_os_str().is_empty() {
        BUILT_IN.to_owned()
    } else {
        std::fs::read_to_string(&settings.config).map_err(|error| {
            Error::invalid(format!("cannot read log.config `{}`: {error}", settings.config.display()))
        })?
    };
    let raw: RawConfig = serde_saphyr::from_str(&text).map_err(|error| {
        Error::invalid(format!("log.config `{}` is not log4rs YAML: {error}", settings.config.display()))
    })?;
    let wanted = levels::parse(&settings.level)?;

    let mut deserializers = Deserializers::default();
    deserializers.insert("line", line::LineEncoderDeserializer(settings.format));
    deserializers
        .insert("daily_file", daily::DailyFileDeserializer { dir: settings.dir.clone(), program: program.to_owned() });
    let (appenders, mut errors) = raw.appenders_lossy(&deserializers);
    if !errors.is_empty() {
        tell(format_args!("{program}: part of the logging could not be set up; going on with the rest"));
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
        .map_err(|error| Error::invalid(format!("log.config `{}`: {error}", settings.config.display())))?;
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
            tell(format_args!("{program}: a log line could not be written: {error}"));
        }
    }
}
