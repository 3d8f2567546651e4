//! Levels over those of the file: `debug`, `info,nobat_queue=trace`.

use std::collections::BTreeMap;

use log::LevelFilter;

use nobat_core::{Error, Result};

/// Levels as `log.level` states them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Levels {
    /// For everything not named.
    pub(super) root: Option<LevelFilter>,
    /// By module.
    pub(super) modules: BTreeMap<String, LevelFilter>,
}

/// Reads a comma-separated list of `level` and `module=level`.
pub(super) fn parse(text: &str) -> Result<Levels> {
    let mut levels = Levels::default();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (module, level) = match part.split_once('=') {
            Some((module, level)) => (Some(module.trim()), level.trim()),
            None => (None, part),
        };
        let level: LevelFilter = level.parse().map_err(|_| {
            Error::invalid(format!("log.level has no level `{level}`; use off, error, warn, info, debug or trace"))
        })?;
        match module {
            Some(module) => {
                levels.modules.insert(module.to_owned(), level);
            }
            None => levels.root = Some(level),
        }
    }
    Ok(levels)
}

/// `level`, `extra` levels more talkative, up to trace; off stays off.
pub(super) fn raise(level: LevelFilter, extra: usize) -> LevelFilter {
    let raised = (level as usize + extra).min(LevelFilter::Trace as usize);
    match level {
        LevelFilter::Off => LevelFilter::Off,
        level => LevelFilter::iter().nth(raised).unwrap_or(level),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_level_and_levels_by_module_are_read() {
        let levels = parse("warn, nobat_queue=trace,nobat_worker = off").expect("reads");
        assert_eq!(levels.root, Some(LevelFilter::Warn));
        assert_eq!(levels.modules["nobat_queue"], LevelFilter::Trace);
        assert_eq!(levels.modules["nobat_worker"], LevelFilter::Off);
        assert_eq!(parse("").expect("reads"), Levels::default());
    }

    #[test]
    fn an_unknown_level_is_refused_by_name() {
        let error = parse("nobat_queue=loud").expect_err("no such level");
        assert!(error.message.contains("`loud`") && error.message.contains("debug"), "{error}");
    }

    #[test]
    fn raising_stops_at_trace_and_leaves_off_alone() {
        assert_eq!(raise(LevelFilter::Info, 1), LevelFilter::Debug);
        assert_eq!(raise(LevelFilter::Debug, 5), LevelFilter::Trace);
        assert_eq!(raise(LevelFilter::Off, 3), LevelFilter::Off);
    }
}
