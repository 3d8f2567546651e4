//! Files that are whole or not there.

use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nobat_core::{Error, Result};

use crate::run::random_id;

/// A file on its way; gone when dropped before it replaced the old one.
pub(super) struct Part {
    path: PathBuf,
    file: Option<std::fs::File>,
}

impl Part {
    pub(super) fn create(beside_file: &Path) -> Result<Part> {
        let path = beside(beside_file, &format!("part-{}", random_id()));
        let file = std::fs::File::create(&path).map_err(|e| cannot_write(&path, &e))?;
        Ok(Part { path, file: Some(file) })
    }

    /// Writes on a blocking thread: a slow disk holds up nobody else.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.with(move |file| file.write_all(&bytes)).await
    }

    pub(super) async fn replace(mut self, old: &Path) -> Result<()> {
        self.with(|file| file.sync_all()).await?;
        std::fs::rename(&self.path, old).map_err(|e| cannot_write(old, &e))
    }

    async fn with(
        &mut self,
        work: impl FnOnce(&mut std::fs::File) -> std::io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let Some(mut file) = self.file.take() else {
            return Err(Error::internal("a file is written after its write failed"));
        };
        let worked = tokio::task::spawn_blocking(move || work(&mut file).map(|()| file)).await;
        match worked {
            Ok(Ok(file)) => {
                self.file = Some(file);
                Ok(())
            }
            Ok(Err(error)) => Err(cannot_write(&self.path, &error)),
            Err(error) => Err(Error::internal(format!("a write ended early: {error}"))),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Renamed away when it is whole; else nobody wants it.
        let _ = std::fs::remove_file(&self.path);
    }
}

pub(super) async fn write_whole(file: &Path, bytes: &[u8]) -> Result<()> {
    let mut part = Part::create(file)?;
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
