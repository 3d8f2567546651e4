//! The files of a deployment: their contents, and a record of each.
//!
//! A file is known from the moment its record is there, which is after its contents are. What a
//! kill leaves without a record is swept.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nobat_core::{Error, ErrorCode, OwnerId, Result};
use nobat_queue::MetadataStore;

use super::bucket::Bucket;
use super::contents::{Contents, Draft, FileContents, blocking};
use super::folder::Folder;
use super::record::{FileRecord, is_id};
use super::s3;
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
/// What is there without a record for so long is nobody's any more.
const STRAY: Duration = Duration::from_secs(86_400);

/// A deployment's files. Cheap to clone.
#[derive(Clone)]
pub struct Files {
    metadata: Arc<dyn MetadataStore>,
    settings: Arc<FileSettings>,
    contents: Arc<dyn Contents>,
}

impl Files {
    /// The files in `folder`, which is made where it is missing.
    ///
    /// # Errors
    /// `invalid_parameter` for a folder that cannot be used.
    pub fn in_folder(metadata: Arc<dyn MetadataStore>, settings: FileSettings, folder: PathBuf) -> Result<Files> {
        let shown = folder.display().to_string();
        let refuse =
            |error: io::Error| Error::invalid(format!("gateway.files.folder `{shown}` cannot be used: {error}"));
        let contents = Arc::new(Folder::open(folder).map_err(refuse)?);
        Ok(Files { metadata, settings: Arc::new(settings), contents })
    }

    /// The files in the bucket that is set. One that does not answer now may do so later.
    ///
    /// # Errors
    /// `invalid_parameter` for a bucket that is not there or refuses the keys.
    pub async fn in_bucket(metadata: Arc<dyn MetadataStore>, settings: FileSettings) -> Result<Files> {
        let (store, prefix) = s3::open(&settings)?;
        let name = settings.bucket.clone();
        let refuse = |why: &str| Error::invalid(format!("gateway.files.bucket `{name}` {why}"));
        let opened = Bucket::new(store, prefix, &name);
        let bucket = Arc::new(opened.map_err(|error| refuse(&format!("cannot be used: {error}")))?);
        let probed = Arc::clone(&bucket);
        match blocking(move || Ok(probed.probe())).await? {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(refuse("is not there; make it, or name another"));
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let why = "refuses the keys, or lets them write nothing; mend AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
                           or gateway.files.credentials_file, or what they may do";
                return Err(refuse(why));
            }
            Err(error) => log::warn!("batches: files cannot be kept or read now: {error}"),
        }
        Ok(Files { metadata, settings: Arc::new(settings), contents: bucket })
    }

    #[cfg(test)]
    pub(crate) fn with(metadata: Arc<dyn MetadataStore>, settings: FileSettings, contents: Arc<dyn Contents>) -> Files {
        Files { metadata, settings: Arc::new(settings), contents }
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
        let (contents, name) = (Arc::clone(&self.contents), id.clone());
        let draft = blocking(move || contents.create(&name, &format!("{name}.part"))).await?;
        Ok(Upload {
            draft: Some(draft),
            left: 0,
            files: self.clone(),
            id,
            owner,
            filename: filename.to_owned(),
            purpose: purpose.to_owned(),
            bytes: 0,
        })
    }

    /// Bytes that all files may still have, with what is being written now.
    ///
    /// # Errors
    /// `internal` where files cannot be looked at.
    pub(crate) async fn room(&self) -> Result<u64> {
        let contents = Arc::clone(&self.contents);
        let used = blocking(move || contents.used()).await?;
        Ok(self.settings.max_bytes.saturating_sub(used))
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

    /// A file's contents.
    ///
    /// # Errors
    /// `result_expired` where they are gone; `internal` where they cannot be read.
    pub async fn read(&self, file: &FileRecord) -> Result<FileContents> {
        let (contents, id) = (Arc::clone(&self.contents), file.id.clone());
        let opened = blocking(move || match contents.open(&id) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        });
        opened.await?.ok_or_else(|| {
            let message = format!("the contents of file `{}` are not where this gateway keeps files", file.id);
            Error::new(ErrorCode::ResultExpired, message)
        })
    }

    /// What they are made of.
    pub(crate) fn contents(&self) -> &Arc<dyn Contents> {
        &self.contents
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
        let (contents, id) = (Arc::clone(&self.contents), file.id.clone());
        blocking(move || contents.remove(&id)).await?;
        self.metadata.remove_timer(FILES, &file.id).await.map(drop)
    }

    /// Keeps what was written as the file `id`, under that id whoever repeats it.
    pub(crate) async fn keep(
        &self,
        draft: Box<dyn Draft>,
        id: &str,
        owner: OwnerId,
        filename: &str,
        purpose: &str,
    ) -> Result<()> {
        let bytes = blocking(move || draft.finish()).await?;
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
    /// `queue_unavailable`; `internal` where files cannot be deleted.
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
    /// `queue_unavailable`; `internal` where files cannot be deleted.
    pub(crate) async fn sweep_strays(&self) -> Result<()> {
        let contents = Arc::clone(&self.contents);
        let mut old = blocking(move || contents.older_than(STRAY)).await?;
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
        let contents = Arc::clone(&self.contents);
        blocking(move || old.iter().try_for_each(|name| contents.remove(name))).await
    }
}

/// A file on its way in. Dropped, it leaves nothing.
pub struct Upload {
    files: Files,
    draft: Option<Box<dyn Draft>>,
    id: String,
    owner: OwnerId,
    filename: String,
    purpose: String,
    bytes: u64,
    /// Bytes that may be written before it is looked again how much room there is: others write too.
    left: u64,
}

impl Upload {
    /// Appends a piece.
    ///
    /// # Errors
    /// `payload_too_large`, naming the limit; `internal` where it cannot be written.
    pub async fn write(&mut self, piece: Bytes) -> Result<()> {
        self.bytes += piece.len() as u64;
        self.files.check_size(self.bytes)?;
        let size = piece.len() as u64;
        if size > self.left {
            // What is still in memory takes no room in a folder.
            self.with_draft(|draft| draft.flush()).await?;
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
        self.with_draft(move |draft| draft.write_all(&piece)).await
    }

    async fn with_draft(&mut self, work: impl FnOnce(&mut dyn Draft) -> io::Result<()> + Send + 'static) -> Result<()> {
        let Some(mut draft) = self.draft.take() else { return Err(closed()) };
        let done = blocking(move || {
            work(&mut *draft)?;
            Ok(draft)
        });
        self.draft = Some(done.await?);
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
    /// `internal` where it cannot be written; `queue_unavailable`.
    pub async fn finish(mut self) -> Result<FileRecord> {
        let Some(draft) = self.draft.take() else { return Err(closed()) };
        blocking(move || draft.finish()).await?;
        self.files.record(&self.id, self.owner, self.bytes, &self.filename, &self.purpose).await
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(draft) = self.draft.take() else { return };
        // It deletes what it has written.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(draft))),
            Err(_) => drop(draft),
        }
    }
}

fn closed() -> Error {
    Error::internal("the file is closed already")
}
