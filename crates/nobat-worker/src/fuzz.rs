//! Entries for the fuzz targets and the replay of their corpora (`fuzz/`).

use std::path::Path;

use crate::models::{guard, settings};

/// A Triton `config.pbtxt`.
pub fn config_pbtxt(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = settings::of_pbtxt(text);
    }
}

/// A model file's external data: whatever is found lies beneath its folder.
pub fn external_data(data: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    // A checkout that has moved since the build has no such folder.
    let Ok(folder) = folder.canonicalize() else { return };
    if let Ok(files) = guard::check_model(data, &folder) {
        assert!(files.iter().all(|file| file.starts_with(&folder)), "{files:?} lie outside");
    }
}
