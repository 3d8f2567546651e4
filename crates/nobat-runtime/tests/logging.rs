//! The installed logger: one process, one logger, so one test walks through it.

use std::fs;
use std::time::{Duration, Instant};

use log::LevelFilter;
use nobat_runtime::logging::{self, LevelChange, LogFormat, LogSettings};

#[test]
fn the_logger_writes_a_daily_file_changes_by_signal_and_survives_a_full_disk() {
    let dir = tempfile::tempdir().expect("a folder");
    let settings = LogSettings {
        dir: dir.path().join("log"),
        format: LogFormat::Json,
        level: "warn,chatty=debug".into(),
        ..LogSettings::default()
    };
    let logging = logging::init("nobat-test", settings).expect("installs");
    let file = dir.path().join("log/nobat-test.log");

    log::info!("below the level");
    log::warn!(job = "j1", ms = 3; "above the level");
    log::debug!(target: "chatty", "its own level");
    let text = fs::read_to_string(&file).expect("the daily file");
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(
        (&lines[0]["message"], &lines[0]["job"], &lines[0]["ms"]),
        (&"above the level".into(), &"j1".into(), &3.into())
    );
    assert_eq!(lines[1]["target"], "chatty");

    let own = std::process::id().to_string();
    let send = |signal: &str| {
        assert!(std::process::Command::new("kill").args([signal, &own]).status().expect("kill runs").success());
    };
    send("-USR1");
    wait_for(|| fs::read_to_string(&file).is_ok_and(|text| text.contains("logging changed by signal")));
    log::info!("now within the level");
    assert!(fs::read_to_string(&file).expect("reads").contains("now within the level"));
    send("-USR2");
    wait_for(|| log::max_level() == LevelFilter::Debug);

    // A folder that went away, as after a disk's failure: the reload opens a new file.
    fs::remove_dir_all(dir.path().join("log")).expect("removes");
    logging.change(LevelChange::Keep).expect("the built-in configuration reads");
    log::warn!("after the folder was lost");
    assert!(fs::read_to_string(&file).expect("reads").contains("after the folder was lost"));

    // A full disk: every write to this device fails with ENOSPC.
    fs::remove_file(&file).expect("removes");
    std::os::unix::fs::symlink("/dev/full", &file).expect("links");
    logging.change(LevelChange::Keep).expect("still no error");
    for _ in 0..20 {
        log::warn!("goes nowhere, and must not stop the caller");
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_refused_with_its_name() {
    let error =
        logging::init("nobat-test", LogSettings { config: "/nowhere/log4rs.yaml".into(), ..LogSettings::default() })
            .err()
            .expect("no such file");
    assert!(error.message.contains("/nowhere/log4rs.yaml"), "{error}");
}

fn wait_for(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "did not happen within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}
