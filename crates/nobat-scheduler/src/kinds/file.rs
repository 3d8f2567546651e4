//! Files that are whole or not there.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nobat_core::{Error, Result};

use crate::run::random_id;

/// A file on its way; gone when dropped before it replaced the old one.
pub(super) struct Part {
    path: PathBuf,
    file: Arc<File>,
}

impl Part {
    pub(super) fn create(beside_file: &Path) -> Result<Part> {
        let path = beside(beside_file, &format!("part-{}", random_id()));
        let file = File::create(&path).map_err(|error| cannot_write(&path, &error))?;
        Ok(Part { path, file: Arc::new(file) })
    }

    pub(super) async fn write(&self, bytes: Bytes) -> Result<()> {
        self.blocking(move |mut file| file.write_all(&bytes)).await
    }

    pub(super) async fn replace(self, old: &Path) -> Result<()> {
        self.blocking(File::sync_all).await?;
        std::fs::rename(&self.path, old).map_err(|error| cannot_write(old, &error))
    }

    /// Works on a blocking thread: a slow disk holds up nobody else.
    async fn blocking(&self, work: impl FnOnce(&File) -> std::io::Result<()> + Send + 'static) -> Result<()> {
        let file = self.file.clone();
        let worked = tokio::task::spawn_blocking(move || work(&file)).await;
        worked
            .map_err(|error| Error::internal(format!("a write ended early: {error}")))?
            .map_err(|error| cannot_write(&self.path, &error))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Renamed away when it is whole; else nobody wants it.
        let _ = std::fs::remove_file(&self.path);
    }
}

pub(super) async fn write_whole(file: &Path, bytes: &[u8]) -> Result<()> {
    let part = Part::create(file)?;
    part.write(Bytes::copy_from_slice(bytes)).await?;
    part.replace(file).await
}

pub(super) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    file.with_file_name(name)
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::invalid(format!("cannot write `{}`: {error}; check the folder, its rights and its space", path.display()))
}
