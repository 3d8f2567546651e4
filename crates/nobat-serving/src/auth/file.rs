//! The file of keys: TOML, readable by its owner only, replaced in one step,
//! taken over when it changes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nobat_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::keyring::{KeyRecord, Keyring};

/// How often a change is looked for: one `stat`.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, rename = "key")]
    keys: Vec<KeyRecord>,
}

/// Reads a file of keys.
///
/// # Errors
/// `invalid_parameter`, naming the file and what is wrong.
pub fn load(path: &Path) -> Result<Keyring> {
    let told = |why: String| Error::invalid(format!("keys file `{}`: {why}", path.display()));
    let text = fs::read_to_string(path)
        .map_err(|error| told(format!("{error}; make it with `nobat keys new`, or leave `auth.keys` empty")))?;
    // A TOML error quotes the line it stopped at; hashes are all it could show.
    let document: Document = toml::from_str(&text).map_err(|error| told(error.message().to_owned()))?;
    Keyring::new(document.keys).map_err(|error| told(error.message))
}

/// As [`load`]; where there is no file yet, the keys of none.
///
/// # Errors
/// As [`load`].
pub fn load_or_none(path: &Path) -> Result<Keyring> {
    if path.exists() { load(path) } else { Ok(Keyring::default()) }
}

/// Changes a file of keys: what `load` reads of it is what `change` gets. Gateways and
/// `nobat keys` take turns, or one's change would undo another's that came in between.
///
/// # Errors
/// Those of `load` and `change`, and then nothing is written; those of [`store`].
pub fn change<T>(
    path: &Path,
    load: impl FnOnce(&Path) -> Result<Keyring>,
    change: impl FnOnce(&mut Keyring) -> Result<T>,
) -> Result<(T, Keyring)> {
    // Of the folder: the file itself is another one after each change. Where folders cannot be
    // locked, changes at the same instant are the operator's to avoid.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let turn = fs::File::open(folder).and_then(|folder| folder.lock().map(|()| folder));
    let mut ring = load(path)?;
    let changed = change(&mut ring)?;
    store(path, &ring)?;
    drop(turn);
    Ok((changed, ring))
}

/// Replaces a file of keys in one step: a reader sees the old or the new one.
///
/// # Errors
/// `internal` when the folder cannot be written to.
pub fn store(path: &Path, ring: &Keyring) -> Result<()> {
    let told = |error: &dyn std::fmt::Display| {
        Error::internal(format!(
            "cannot write keys file `{}`: {error}; let the folder be written to, or change the file where it comes from",
            path.display()
        ))
    };
    let text = toml::to_string(&Document { keys: ring.records().to_vec() }).map_err(|error| told(&error))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(b"# API keys of nobat: hashes only. Change it with `nobat keys`.\n")?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|error| told(&error))
}

/// Looks `every` so often, and hands every changed content of the file to
/// `take`, for ever.
pub(super) async fn follow(path: PathBuf, every: Duration, take: impl Fn(Keyring)) {
    let mut seen = stamp(&path);
    loop {
        tokio::time::sleep(every).await;
        let now = stamp(&path);
        if now == seen {
            continue;
        }
        seen = now;
        match load(&path) {
            Ok(ring) => {
                log::info!(keys = ring.records().len(); "auth: took over the changed keys");
                take(ring);
            }
            Err(error) => log::error!("auth: keeping the last good keys: {error}"),
        }
    }
}

/// What changes when a file does; `None` while there is none.
fn stamp(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let data = fs::metadata(path).ok()?;
    Some((data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{NewKey, Scope};

    fn add(ring: &mut Keyring, name: &str) -> String {
        let new = NewKey {
            name: name.into(),
            scope: Scope::Admin,
            models: vec![],
            valid_s: None,
            rate_per_s: 2.5,
            burst: 0,
            max_in_flight: 3,
            tokens_per_min: 0,
            max_priority: None,
        };
        ring.add(new, 1).expect("made")
    }

    #[test]
    fn keys_read_back_and_only_the_owner_may_read_the_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("keys.toml");
        let mut ring = Keyring::default();
        add(&mut ring, "a");
        add(&mut ring, "b");
        ring.rotate("b", 10, 1).expect("rotated");
        store(&path, &ring).expect("stored");
        assert_eq!(load(&path).expect("loaded").records(), ring.records());
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
    }

    #[test]
    fn changes_at_the_same_time_are_all_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("keys.toml");
        std::thread::scope(|scope| {
            for who in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    for at in 0..10 {
                        change(path, load_or_none, |ring| Ok(add(ring, &format!("{who}-{at}")))).expect("changed");
                    }
                });
            }
        });
        assert_eq!(load(&path).expect("loaded").records().len(), 40);
    }

    #[test]
    fn a_missing_and_a_malformed_file_are_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("keys.toml");
        assert!(load(&path).expect_err("missing").message.contains("nobat keys new"));
        fs::write(&path, "[[key]]\nid = 'x'\nrole = 1").expect("written");
        assert!(load(&path).expect_err("malformed").message.contains("keys.toml"));
    }

    #[tokio::test]
    async fn a_change_is_taken_over_and_a_broken_file_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("keys.toml");
        let mut ring = Keyring::default();
        add(&mut ring, "a");
        store(&path, &ring).expect("stored");
        let (sender, mut taken) = tokio::sync::mpsc::unbounded_channel();
        let following = tokio::spawn(follow(path.clone(), Duration::from_millis(5), move |ring| {
            sender.send(ring.records().len()).expect("the test listens");
        }));
        // The first look has been taken once this task runs again.
        tokio::time::sleep(Duration::from_millis(50)).await;

        fs::write(&path, "not toml").expect("written");
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(taken.try_recv().is_err(), "a broken file is not taken over");

        add(&mut ring, "b");
        store(&path, &ring).expect("stored");
        assert_eq!(taken.recv().await, Some(2));
        following.abort();
    }
}
