//! What a version is made of on disk: its model file and the external data that
//! the file names, checked, measured and hashed in one pass.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::guard::{self, GuardError};

/// The files of a version as they were when read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    /// SHA-256 of each model file and then of its external files, in the order of
    /// their paths, and of the files that say how its texts are read; the first 16 bytes in hex.
    pub(crate) digest: String,
    pub(crate) model_bytes: u64,
    pub(crate) external_bytes: u64,
}

/// Checks model files as [`guard::check`] does and reads every file of the version, the
/// `others` too.
///
/// # Errors
/// One line that names the file; nothing was handed to ONNX Runtime.
pub(crate) fn read(models: &[&Path], others: &[PathBuf]) -> Result<Files, String> {
    let (mut hasher, mut model_bytes, mut external_bytes) = (Sha256::new(), 0, 0);
    for model in models {
        let (own, external) = hashed(model, &mut hasher).map_err(|reason| format!("`{}` {reason}", model.display()))?;
        (model_bytes, external_bytes) = (model_bytes + own, external_bytes + external);
    }
    for file in others {
        let named = |error: io::Error| format!("`{}`: {error}", file.display());
        File::open(file).and_then(|file| hash(file, &mut hasher)).map_err(named)?;
    }
    let digest = hasher.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Files { digest, model_bytes, external_bytes })
}

/// The file `name` that goes with a version: `MODEL.name` beside the model file, else `name` in
/// the version's folder or the model's.
pub(crate) fn beside(model_file: &Path, name: &str) -> Option<PathBuf> {
    let version = model_file.parent()?;
    let above = version
        .parent()
        .filter(|_| version.file_name().is_some_and(|name| name.to_string_lossy().parse::<u64>().is_ok()));
    let in_folders = [Some(version), above].into_iter().flatten().map(|folder| folder.join(name));
    [model_file.with_extension(name)].into_iter().chain(in_folders).find(|path| path.is_file())
}

/// Bytes of a model file and of its external data.
fn hashed(model: &Path, hasher: &mut Sha256) -> Result<(u64, u64), GuardError> {
    let model_bytes = std::fs::metadata(model)?.len();
    let mut external_bytes = 0;
    for file in guard::check_and_hash(model, Some(hasher))? {
        // The system's words do not say which file.
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("external data `{}`: {error}", file.display()));
        external_bytes += File::open(&file).and_then(|file| hash(file, hasher)).map_err(named)?;
    }
    Ok((model_bytes, external_bytes))
}

fn hash(mut file: File, hasher: &mut Sha256) -> io::Result<u64> {
    let mut chunk = vec![0u8; 1 << 20];
    let mut bytes = 0;
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(bytes),
            read => {
                hasher.update(&chunk[..read]);
                bytes += read as u64;
            }
        }
    }
}
