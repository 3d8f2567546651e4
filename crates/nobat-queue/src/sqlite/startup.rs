//! Opening what an earlier process left: its logs, its jobs, and which of them ran.

use nobat_core::{IdIssuer, Result};

use super::folder::{Folder, unavailable};
use super::journal::{Journal, JournalError};
use super::machine::Machine;
use super::wal::{self, LogDamage};
use crate::api::QueueSettings;

/// Payload bytes of waiting jobs that stay in memory.
const RESIDENT_LIMIT: u64 = 256 << 20;

/// Says which commits SQLite is about to drop, and keeps a copy of the log that had
/// them: once it is opened, they are gone.
pub(super) fn damaged_logs(folder: &Folder) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for (file, what) in [
        (folder.journal(), "jobs that were accepted, settled or cancelled"),
        (folder.metadata(), "routes, periodic tasks and webhooks that were changed"),
    ] {
        let log = wal::log_of(&file);
        let unreadable = |e: std::io::Error| {
            unavailable(folder.path(), &format!("holds a log that cannot be read: {e}; look at its disk"))
        };
        let Some(damage) = wal::damage(&log).map_err(&unreadable)? else { continue };
        let mut copy = log.clone().into_os_string();
        copy.push(".damaged");
        let kept = match std::fs::copy(&log, &copy) {
            Ok(_) => format!("a copy is kept as `{}`", copy.display()),
            Err(e) => format!("no copy could be kept: {e}"),
        };
        let lost = match damage {
            LogDamage::Header { bytes } => format!("its header is, so all of it is dropped, {bytes} bytes"),
            LogDamage::From { at, commits, kept } => {
                format!("at byte {at}: {kept} commits are read, {commits} or more behind it are dropped")
            }
        };
        let note = format!(
            "the write-ahead log `{}` is damaged, {lost}; {what} last before the last process ended may be lost or run again; {kept}; look at the disk",
            log.display()
        );
        log::error!("{note}");
        notes.push(note);
        // As SQLite would, but so that the next start does not find it again.
        wal::cut(&log, damage).map_err(unreadable)?;
    }
    Ok(notes)
}

/// Builds the machine as the last process left it, and counts a death for every
/// job that it was running.
pub(super) fn restore(
    folder: &Folder,
    journal: &mut Journal,
    settings: &QueueSettings,
    ids: IdIssuer,
    now_us: u64,
) -> Result<Machine, JournalError> {
    let notes = |e: std::io::Error| JournalError::Other(format!("the notes of running jobs cannot be read: {e}"));
    let mut machine = Machine::new(settings.clone(), ids, now_us, RESIDENT_LIMIT);
    for queue in journal.queues()? {
        machine.restore_queue(queue);
    }
    journal.each_job(|row, job| machine.restore_job(row, job))?;
    for key in journal.keys()? {
        machine.restore_key(key);
    }
    machine.restore_row(journal.last_row()?);
    let running = folder.were_running().map_err(notes)?;
    for &row in &running {
        machine.count_death(now_us, row);
    }
    // The deaths are durable before the notes of them go.
    loop {
        let group = machine.take_group(now_us);
        if group.is_empty() {
            break;
        }
        journal.commit(&group, None)?;
        machine.committed(group);
    }
    folder.forget_running().map_err(notes)?;
    if !running.is_empty() {
        log::warn!(
            "the last process on `{}` ended with {} jobs running; they go back to their queues",
            folder.path().display(),
            running.len()
        );
    }
    Ok(machine)
}
