//! The folder of the files, and their records.
//!
//! A file is written under another name, synced, renamed, and known from the moment its
//! record is there. What a kill leaves in the folder without a record is swept.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use nobat_core::{Error, ErrorCode, OwnerId, Result};
use nobat_queue::MetadataStore;

use super::record::{FileRecord, is_id};
use crate::random_id::random_id;
use crate::settings::FileSettings;

/// The metadata store's set of files, by id; due when they expire.
const FILES: &str = "files";
/// The metadata store's set of batches, by id; see [`crate::batch`].
pub(crate) const BATCHES: &str = "batches";
/// Most batches that are not forgotten yet.
pub(crate) const MOST_BATCHES: usize = 10_000;
/// How long a process that deletes expired files has for each.
const LEASE: Duration = Duration::from_secs(30);
/// Expired files deleted in one go.
const AT_ONCE: usize = 64;
/// An expired file that a batch still reads is looked at again after so long.
const LATER: Duration = Duration::from_secs(3_600);
/// Bytes of a file after which it is looked again how much room there is.
const LOOK_BYTES: u64 = 16 << 20;
/// What is in the folder without a record for so long is nobody's any more.
const STRAY: Duration = Duration::from_secs(86_400);

/// A deployment's files. Cheap to clone.
#[derive(Clone)]
pub struct Files {
    metadata: Arc<dyn MetadataStore>,
    settings: Arc<FileSettings>,
    folder: Arc<Path>,
}

impl Files {
    /// The files in `folder`, which is made where it is missing.
    ///
    /// # Errors
    /// `invalid_parameter` for a folder that cannot be used.
    pub fn open(metadata: Arc<dyn MetadataStore>, settings: FileSettings, folder: PathBuf) -> Result<Files> {
        let refuse = |error: io::Error| {
            Error::invalid(format!("gateway.files.folder `{}` cannot be used: {error}", folder.display()))
        };
        fs::create_dir_all(&folder).map_err(refuse)?;
        let probe = folder.join(random_id("probe-")?);
        File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(refuse)?;
        Ok(Files { metadata, settings: Arc::new(settings), folder: folder.into() })
    }

    /// The settings.
    pub fn settings(&self) -> &FileSettings {
        &self.settings
    }

    /// Refuses a body that says it is too large for a file, before a byte of it is read.
    ///
    /// # Errors
    /// `payload_too_large`, naming the limit.
    pub fn check_size(&self, bytes: u64) -> Result<()> {
        if bytes <= self.settings.max_file_bytes {
            return Ok(());
        }
        let limit = self.settings.max_file_bytes;
        let message =
            format!("the file is over the limit of {limit} bytes; split it, or raise `gateway.files.max_file_bytes`");
        Err(Error::new(ErrorCode::PayloadTooLarge, message))
    }

    /// Begins a file of `owner`.
    ///
    /// # Errors
    /// `payload_too_large` when there are too many files or bytes of them;
    /// `queue_unavailable`.
    pub async fn upload(&self, owner: OwnerId, filename: &str, purpose: &str) -> Result<Upload> {
        let count = self.all().await?.len();
        if count >= self.settings.max_files {
            let message = format!(
                "{count} files are kept, the most there may be; delete some, or raise `gateway.files.max_files`"
            );
            return Err(Error::new(ErrorCode::PayloadTooLarge, message));
        }
        let id = random_id("file-")?;
        let part = self.folder.join(format!("{id}.part"));
        let opened = blocking({
            let part = part.clone();
            move || File::create(part)
        });
        Ok(Upload {
            writer: Some(BufWriter::with_capacity(256 << 10, opened.await?)),
            left: 0,
            files: self.clone(),
            id,
            owner,
            filename: filename.to_owned(),
            purpose: purpose.to_owned(),
            part: Some(part),
            bytes: 0,
        })
    }

    /// Bytes that all files may still have, with what is being written to the folder now.
    ///
    /// # Errors
    /// `internal` for a folder that cannot be read.
    pub(crate) async fn room(&self) -> Result<u64> {
        let folder = self.folder.clone();
        let used = blocking(move || {
            let mut used = 0u64;
            for entry in fs::read_dir(&folder)? {
                // One that has gone meanwhile takes no room.
                used += entry?.metadata().map_or(0, |about| about.len());
            }
            Ok(used)
        });
        Ok(self.settings.max_bytes.saturating_sub(used.await?))
    }

    async fn all(&self) -> Result<Vec<FileRecord>> {
        let timers = self.metadata.timers(FILES, self.settings.max_files.saturating_mul(2)).await?;
        Ok(timers.iter().filter_map(|(timer, _)| serde_json::from_slice(&timer.value).ok()).collect())
    }

    /// A caller's files, the newest first.
    ///
    /// # Errors
    /// `queue_unavailable`.
    pub async fn list(&self, owner: OwnerId) -> Result<Vec<FileRecord>> {
        let mut own: Vec<_> = self.all().await?.into_iter().filter(|file| file.owner == owner).collect();
        own.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        Ok(own)
    }

    /// A caller's file; another's and one that never was look the same.
    ///
    /// # Errors
    /// `job_not_found`; `queue_unavailable`.
    pub async fn find(&self, owner: OwnerId, id: &str) -> Result<FileRecord> {
        let found = match is_id(id) {
            true => self.metadata.timer(FILES, id).await?,
            false => None,
        };
        let record = found.and_then(|value| serde_json::from_slice::<FileRecord>(&value).ok());
        record.filter(|file| file.owner == owner).ok_or_else(|| {
            let message = format!("there is no file `{}`; it may have expired", nobat_core::clip(id));
            Error::new(ErrorCode::JobNotFound, message)
        })
    }

    /// Where a file's contents are.
    pub fn path(&self, file: &FileRecord) -> PathBuf {
        self.folder.join(&file.id)
    }

    /// Where a carrier of a batch writes what belongs to it alone.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Deletes a file.
    ///
    /// # Errors
    /// As [`Files::find`].
    pub async fn delete(&self, owner: OwnerId, id: &str) -> Result<()> {
        let file = self.find(owner, id).await?;
        self.remove(&file).await
    }

    async fn remove(&self, file: &FileRecord) -> Result<()> {
        let path = self.path(file);
        blocking(move || gone(fs::remove_file(path))).await?;
        self.metadata.remove_timer(FILES, &file.id).await.map(drop)
    }

    /// Keeps what was written to `from` as the file `id`, under that id whoever repeats it.
    pub(crate) async fn keep(
        &self,
        from: PathBuf,
        id: &str,
        owner: OwnerId,
        filename: &str,
        purpose: &str,
    ) -> Result<()> {
        let to = self.folder.join(id);
        let folder = self.folder.clone();
        let bytes = blocking(move || {
            let bytes = fs::metadata(&from)?.len();
            rename(&from, &to, &folder)?;
            Ok(bytes)
        })
        .await?;
        self.record(id, owner, bytes, filename, purpose).await.map(drop)
    }

    async fn record(&self, id: &str, owner: OwnerId, bytes: u64, filename: &str, purpose: &str) -> Result<FileRecord> {
        let now = self.metadata.now_ms().await? / 1_000;
        let keep = Duration::from_secs(u64::from(self.settings.keep_s));
        let file = FileRecord {
            id: id.to_owned(),
            owner,
            bytes,
            filename: filename.to_owned(),
            purpose: purpose.to_owned(),
            created_at: now,
            expires_at: now + keep.as_secs(),
        };
        self.metadata.add_timer(FILES, id, &file.encode()?, keep).await?;
        Ok(file)
    }

    /// Deletes files whose time is over, but for those that are read: their ids are asked for where
    /// there is anything to delete.
    ///
    /// # Errors
    /// `queue_unavailable`; `internal` for a folder that cannot be used.
    pub(crate) async fn sweep(&self, read: impl AsyncFnOnce() -> Result<HashSet<String>>) -> Result<()> {
        let now = self.metadata.now_ms().await? / 1_000;
        let due = self.metadata.take_due(FILES, AT_ONCE, LEASE).await?;
        if due.is_empty() {
            return Ok(());
        }
        let read = read().await?;
        for due in due {
            match serde_json::from_slice::<FileRecord>(&due.value) {
                // A clock that was set back has made it due too early.
                Ok(file) if file.expires_at > now => {
                    let left = Duration::from_secs(file.expires_at - now);
                    self.metadata.move_timer(FILES, &due.key, &due.value, left).await?;
                }
                Ok(file) if read.contains(&file.id) => {
                    self.metadata.move_timer(FILES, &due.key, &due.value, LATER).await?;
                }
                Ok(file) => self.remove(&file).await?,
                Err(_) => drop(self.metadata.remove_timer(FILES, &due.key).await?),
            }
        }
        Ok(())
    }

    /// Deletes what nobody has written to for long and no record names.
    ///
    /// # Errors
    /// `queue_unavailable`; `internal` for a folder that cannot be used.
    pub(crate) async fn sweep_strays(&self) -> Result<()> {
        let folder = self.folder.clone();
        let mut old = blocking(move || strays(&folder, SystemTime::now())).await?;
        if old.is_empty() {
            return Ok(());
        }
        // Two calls, however many files there are.
        for (set, most) in [(FILES, self.settings.max_files.saturating_mul(2)), (BATCHES, MOST_BATCHES)] {
            let timers = self.metadata.timers(set, most).await?;
            if timers.len() >= most {
                // Of those that are not listed nothing is known.
                return Ok(());
            }
            let known: HashSet<&str> = timers.iter().map(|(timer, _)| timer.key.as_str()).collect();
            // What a batch has so far is named after it.
            old.retain(|name| !known.contains(name.as_str()) && !known.contains(name.split('.').next().unwrap_or("")));
        }
        let folder = self.folder.clone();
        blocking(move || old.iter().try_for_each(|name| gone(fs::remove_file(folder.join(name))))).await
    }
}

/// Names in the folder that nobody has written to for long.
fn strays(folder: &Path, now: SystemTime) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let age =
            entry.metadata().and_then(|about| about.modified()).map(|at| now.duration_since(at).unwrap_or_default());
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name.starts_with("file-") || name.starts_with("batch_");
        if ours && age.is_ok_and(|age| age > STRAY) {
            names.push(name);
        }
    }
    Ok(names)
}

/// A file on its way in. Dropped, it leaves nothing.
pub struct Upload {
    files: Files,
    writer: Option<BufWriter<File>>,
    id: String,
    owner: OwnerId,
    filename: String,
    purpose: String,
    /// Where it is written; nothing once it is kept.
    part: Option<PathBuf>,
    bytes: u64,
    /// Bytes that may be written before it is looked again how much room there is: others write too.
    left: u64,
}

impl Upload {
    /// Appends a piece.
    ///
    /// # Errors
    /// `payload_too_large`, naming the limit; `internal` when the disk refuses.
    pub async fn write(&mut self, piece: Bytes) -> Result<()> {
        self.bytes += piece.len() as u64;
        self.files.check_size(self.bytes)?;
        let size = piece.len() as u64;
        if size > self.left {
            // What is still in memory takes no room in the folder.
            self.with_writer(|writer| writer.flush()).await?;
            self.left = self.files.room().await?.min(LOOK_BYTES.max(size));
        }
        if size > self.left {
            let limit = self.files.settings.max_bytes;
            let message = format!(
                "all files together are over the limit of {limit} bytes; delete some, or raise `gateway.files.max_bytes`"
            );
            return Err(Error::new(ErrorCode::PayloadTooLarge, message));
        }
        self.left -= size;
        self.with_writer(move |writer| writer.write_all(&piece)).await
    }

    async fn with_writer(
        &mut self,
        work: impl FnOnce(&mut BufWriter<File>) -> io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let Some(mut writer) = self.writer.take() else { return Err(Error::internal("the file is closed already")) };
        let done = blocking(move || {
            work(&mut writer)?;
            Ok(writer)
        });
        self.writer = Some(done.await?);
        Ok(())
    }

    /// Says what its owner calls it and what it is for.
    pub fn name(&mut self, filename: &str, purpose: &str) {
        self.filename = filename.to_owned();
        self.purpose = purpose.to_owned();
    }

    /// Keeps the file.
    ///
    /// # Errors
    /// `internal` when the disk refuses; `queue_unavailable`.
    pub async fn finish(mut self) -> Result<FileRecord> {
        let Some(mut writer) = self.writer.take() else { return Err(Error::internal("the file is closed already")) };
        let Some(part) = self.part.clone() else { return Err(Error::internal("the file is closed already")) };
        let (path, folder) = (self.files.folder.join(&self.id), self.files.folder.clone());
        blocking(move || {
            writer.flush()?;
            writer.get_ref().sync_all()?;
            rename(&part, &path, &folder)
        })
        .await?;
        self.part = None;
        self.files.record(&self.id, self.owner, self.bytes, &self.filename, &self.purpose).await
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(part) = self.part.take() else { return };
        // What a process that ends here leaves is swept.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || fs::remove_file(part))),
            Err(_) => drop(fs::remove_file(part)),
        }
    }
}

/// Renames within the folder, so that the new name outlives the machine.
fn rename(from: &Path, to: &Path, folder: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    // Windows has no folders that could be synced.
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Work on files, on a thread that may wait for the disk.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    let failed =
        |error: &dyn std::fmt::Display| Error::internal(format!("the folder of the files cannot be used: {error}"));
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| failed(&error)),
        Err(error) => Err(failed(&error)),
    }
}
