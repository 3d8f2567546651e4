//! The manifest: a file that whoever publishes models rewrites last, so that a
//! reload never meets a half-written model.

use std::path::PathBuf;
use std::time::SystemTime;

/// A watched file; without a path it never changes.
#[derive(Debug)]
pub(crate) struct Manifest {
    path: Option<PathBuf>,
    seen: Option<(SystemTime, u64)>,
}

impl Manifest {
    /// Watches `path` from its present state on.
    pub(crate) fn of(path: Option<PathBuf>) -> Manifest {
        let mut manifest = Manifest { path, seen: None };
        manifest.seen = manifest.stamp();
        manifest
    }

    /// Whether it was rewritten since the last call. A missing file counts as unchanged: it
    /// is being replaced.
    pub(crate) fn changed(&mut self) -> bool {
        let Some(stamp) = self.stamp() else { return false };
        let changed = self.seen != Some(stamp);
        self.seen = Some(stamp);
        changed
    }

    fn stamp(&self) -> Option<(SystemTime, u64)> {
        let meta = std::fs::metadata(self.path.as_ref()?).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_rewritten_manifest_is_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("manifest");
        assert!(!Manifest::of(None).changed());
        let mut manifest = Manifest::of(Some(path.clone()));
        assert!(!manifest.changed());
        std::fs::write(&path, "1").expect("a file");
        assert!(manifest.changed() && !manifest.changed());
        std::fs::remove_file(&path).expect("a removal");
        assert!(!manifest.changed());
        std::fs::write(&path, "version 2").expect("a file");
        assert!(manifest.changed());
    }
}
