//! Reads the small files of a model's folder: beneath the folder only, and bounded.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use nobat_core::{Error, Result};
use serde::de::DeserializeOwned;

/// Most bytes of a file of settings.
const MOST_JSON: u64 = 32 << 20;
/// Most bytes of a tokenizer or a dense layer.
pub(crate) const MOST_DATA: u64 = 512 << 20;

/// A model's folder.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    folder: PathBuf,
    /// Where its files may be: beneath it, or in the store that a hub's cache links to.
    allowed: Vec<PathBuf>,
}

impl Files {
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn open(folder: &Path) -> Result<Files> {
        let resolved = folder.canonicalize().map_err(|error| {
            Error::invalid(format!("`{}` cannot be read: {error}; give a model's folder", folder.display()))
        })?;
        let mut allowed = vec![resolved.clone()];
        // A hub's cache keeps `snapshots/REVISION/config.json` as a link to `blobs/HASH`.
        if let Some(snapshots) = resolved.parent().filter(|parent| parent.ends_with("snapshots"))
            && let Some(blobs) = snapshots.parent().map(|repository| repository.join("blobs"))
            && let Ok(blobs) = blobs.canonicalize()
        {
            allowed.push(blobs);
        }
        Ok(Files { folder: resolved, allowed })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A folder in it, whose files may be where its own may be.
    ///
    /// # Errors
    /// When it leads out of the folder.
    pub(crate) fn inside(&self, name: &str) -> Result<Option<Files>> {
        let Some((path, resolved)) = self.resolve(name)? else { return Ok(None) };
        Ok(resolved.is_dir().then(|| Files { folder: path, allowed: self.allowed.clone() }))
    }

    /// Whether a file of this name is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.place(name).is_ok_and(|place| place.is_some())
    }

    /// The file's path, where it is there.
    ///
    /// # Errors
    /// When the name leads out of the folder.
    pub(crate) fn place(&self, name: &str) -> Result<Option<PathBuf>> {
        Ok(self.resolve(name)?.filter(|(_, resolved)| resolved.is_file()).map(|(path, _)| path))
    }

    /// What a name stands for, and what that is with its links followed; `None` where nothing is.
    fn resolve(&self, name: &str) -> Result<Option<(PathBuf, PathBuf)>> {
        let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !plain {
            return Err(Error::invalid(format!(
                "`{}` names `{}`, which is not beneath it; keep a model's files in its folder",
                self.folder.display(),
                nobat_core::clip(name)
            )));
        }
        let path = self.folder.join(name);
        let Ok(resolved) = path.canonicalize() else { return Ok(None) };
        if !self.allowed.iter().any(|allowed| resolved.starts_with(allowed)) {
            return Err(Error::invalid(format!(
                "`{}` is a link out of the model's folder; keep a model's files in its folder",
                path.display()
            )));
        }
        Ok(Some((path, resolved)))
    }

    /// A file's bytes; `None` where there is none.
    ///
    /// # Errors
    /// When it leads out of the folder, is over `most` bytes, or cannot be read.
    pub(crate) fn bytes(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let Some(path) = self.place(name)? else { return Ok(None) };
        let unreadable = |error| Error::invalid(format!("`{}` cannot be read: {error}", path.display()));
        let file = File::open(&path).map_err(unreadable)?;
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > most {
            return Err(Error::invalid(format!(
                "`{}` has over {most} bytes, the most that is read of it; give the file of a text model",
                path.display()
            )));
        }
        Ok(Some(bytes))
    }

    /// A JSON file; `None` where there is none.
    ///
    /// # Errors
    /// As [`Files::bytes`], and when it is not the JSON that is wanted.
    pub(crate) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(bytes) = self.bytes(name, MOST_JSON)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::invalid(format!(
                "`{}` cannot be read: {error}; save the model again",
                self.folder.join(name).display()
            ))
        })
    }
}
