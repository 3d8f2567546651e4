//! Finds models without configuration: one file, a flat folder of `.onnx`, a
//! Triton repository (`name/1/model.onnx`) or TensorFlow Serving's version
//! folders. Reads names only; no model file is opened here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

use smol_str::SmolStr;

/// A model as found on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundModel {
    /// Its name.
    pub name: SmolStr,
    /// The folder that holds its settings, if it has one of its own.
    pub folder: Option<PathBuf>,
    /// Its versions, oldest first.
    pub versions: Vec<FoundVersion>,
}

/// A version as found on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundVersion {
    /// Version number as text.
    pub version: SmolStr,
    /// The model file.
    pub file: PathBuf,
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Every model, by name.
    pub models: BTreeMap<SmolStr, FoundModel>,
    /// Folders that could not be read, by the name of the model that each may hold.
    pub unreadable: BTreeSet<SmolStr>,
}

/// Why a path holds no models.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// It cannot be read.
    #[error("cannot read `{}`: {reason}; give an .onnx file or a folder of models", path.display())]
    Unreadable {
        /// Which path.
        path: PathBuf,
        /// The system's words.
        reason: io::Error,
    },
    /// A file of another kind.
    #[error("`{}` is not an .onnx file; give an .onnx file or a folder of models", path.display())]
    NotAModel {
        /// Which path.
        path: PathBuf,
    },
    /// Two places hold a model of one name.
    #[error("model `{name}` is both in `{}` and in `{}`; rename one", first.display(), second.display())]
    Twice {
        /// The name.
        name: SmolStr,
        /// One place.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
}

/// Finds every model under `paths`, by name; what is named as no model can be is left
/// out with a warning. An empty folder is no error: its
/// models may come later, with a reload. A folder beneath one of the paths that
/// cannot be read is left out with a warning: it is no reason to serve nothing.
///
/// # Errors
/// [`ScanError`] for what an operator has to mend.
pub fn scan(paths: &[PathBuf]) -> Result<Found, ScanError> {
    let mut found = Found::default();
    for path in paths {
        for model in scan_path(path, &mut found.unreadable)? {
            if let Some(why) = nobat_core::model_name::objection(&model.name) {
                log::warn!("model `{}` in `{}` is left out: {why}; rename it", model.name, place(&model).display());
                continue;
            }
            if let Some(first) = found.models.get(&model.name) {
                return Err(ScanError::Twice { name: model.name.clone(), first: place(first), second: place(&model) });
            }
            found.models.insert(model.name.clone(), model);
        }
    }
    Ok(found)
}

fn place(model: &FoundModel) -> PathBuf {
    let first_file = || model.versions.first().map(|version| version.file.clone());
    model.folder.clone().or_else(first_file).unwrap_or_default()
}

fn scan_path(path: &Path, skipped: &mut BTreeSet<SmolStr>) -> Result<Vec<FoundModel>, ScanError> {
    let unreadable = |reason| ScanError::Unreadable { path: path.to_owned(), reason };
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    if meta.is_file() {
        return match is_onnx(path) {
            true => Ok(vec![single(path)]),
            false => Err(ScanError::NotAModel { path: path.to_owned() }),
        };
    }
    if let Some(model) = model_folder(path).map_err(unreadable)? {
        return Ok(vec![model]);
    }
    let mut models = Vec::new();
    for entry in entries(path).map_err(unreadable)? {
        let Some(name) = entry.file_name().and_then(|name| name.to_str()) else {
            log::warn!("`{}` is left out: its name is not UTF-8; rename it", entry.display());
            continue;
        };
        match model_at(&entry) {
            Ok(model) => models.extend(model),
            Err(error) => {
                log::warn!("`{}` is left out: {error}; mend or remove what cannot be read in it", entry.display());
                skipped.insert(model_name(name));
                // A folder's model has the name of what a link leads to.
                let target = std::fs::read_link(&entry).ok();
                let target = target.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
                skipped.extend(target.map(model_name));
            }
        }
    }
    Ok(models)
}

/// The model that a file or folder among others is, if it is one.
fn model_at(entry: &Path) -> io::Result<Option<FoundModel>> {
    match stat(entry)? {
        Some(meta) if meta.is_dir() => model_folder(entry),
        Some(meta) if meta.is_file() && is_onnx(entry) => Ok(Some(single(entry))),
        _ => Ok(None),
    }
}

/// The model that a file or folder of this name may hold.
fn model_name(name: &str) -> SmolStr {
    name.strip_suffix(".onnx").unwrap_or(name).into()
}

/// What stands at a path; `None` where nothing does. A link to nothing is an error:
/// what it names may be about to come.
fn stat(path: &Path) -> io::Result<Option<Metadata>> {
    match std::fs::metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => Ok(None),
        Err(error) => Err(io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))),
    }
}

/// A folder that is one model: numbered versions, or a `model.onnx` of its own.
fn model_folder(folder: &Path) -> io::Result<Option<FoundModel>> {
    let Some(name) = folder.canonicalize()?.file_name().and_then(|name| name.to_str()).map(SmolStr::new) else {
        return Ok(None);
    };
    let mut versions = Vec::new();
    for entry in entries(folder)? {
        let Some(number) = version_number(&entry) else { continue };
        // A plain file of that name is no version.
        if stat(&entry)?.is_some_and(|meta| meta.is_dir())
            && let Some(file) = version_file(&entry)?
        {
            versions.push((number, FoundVersion { version: number.to_string().into(), file }));
        }
    }
    versions.sort_by_key(|(number, _)| *number);
    let mut versions: Vec<_> = versions.into_iter().map(|(_, version)| version).collect();
    let plain = folder.join("model.onnx");
    if versions.is_empty() && stat(&plain)?.is_some_and(|meta| meta.is_file()) {
        versions.push(FoundVersion { version: "1".into(), file: plain });
    }
    Ok((!versions.is_empty()).then(|| FoundModel { name, folder: Some(folder.to_owned()), versions }))
}

/// The model file of a version folder: `model.onnx`, else its only `.onnx`.
fn version_file(folder: &Path) -> io::Result<Option<PathBuf>> {
    let plain = folder.join("model.onnx");
    if stat(&plain)?.is_some_and(|meta| meta.is_file()) {
        return Ok(Some(plain));
    }
    let named = |error: io::Error| io::Error::new(error.kind(), format!("`{}`: {error}", folder.display()));
    let mut files = Vec::new();
    for entry in entries(folder).map_err(named)?.into_iter().filter(|entry| is_onnx(entry)) {
        if stat(&entry)?.is_some_and(|meta| meta.is_file()) {
            files.push(entry);
        }
    }
    Ok(files.pop().filter(|_| files.is_empty()))
}

/// A file given by itself. `digits/1/model.onnx` is model `digits` version 1,
/// `digits/model.onnx` is model `digits`, `digits.onnx` too.
fn single(file: &Path) -> FoundModel {
    let absolute = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let parent = absolute.parent();
    let name_of = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(SmolStr::new);
    let stem = || file.file_stem().and_then(|stem| stem.to_str()).map_or_else(|| SmolStr::new("model"), SmolStr::new);
    if stem() == "model" {
        if let Some(number) = parent.and_then(version_number)
            && let Some(folder) = parent.and_then(Path::parent)
            && let Some(name) = name_of(folder)
        {
            let version = FoundVersion { version: number.to_string().into(), file: file.to_owned() };
            return FoundModel { name, folder: Some(folder.to_owned()), versions: vec![version] };
        }
        if let Some(folder) = parent
            && let Some(name) = name_of(folder)
        {
            let version = FoundVersion { version: "1".into(), file: file.to_owned() };
            return FoundModel { name, folder: Some(folder.to_owned()), versions: vec![version] };
        }
    }
    let version = FoundVersion { version: "1".into(), file: file.to_owned() };
    FoundModel { name: stem(), folder: None, versions: vec![version] }
}

fn version_number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.parse().ok()
}

fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "onnx")
}

/// Entries in name order, without hidden ones.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary folder");
        for file in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            std::fs::write(path, b"x").expect("a file");
        }
        root
    }

    fn names(paths: &[PathBuf]) -> Vec<String> {
        let found = scan(paths).expect("scans").models;
        let describe = |model: &FoundModel| {
            let versions: Vec<_> = model.versions.iter().map(|version| version.version.as_str()).collect();
            format!("{}:{}", model.name, versions.join(","))
        };
        found.values().map(describe).collect()
    }

    #[test]
    fn every_layout_is_found_without_configuration() {
        let root = tree(&[
            "a.onnx",
            "triton/1/model.onnx",
            "triton/config.pbtxt",
            "tfs/2/net.onnx",
            "tfs/10/net.onnx",
            "own/model.onnx",
            "notes.txt",
            ".git/x.onnx",
        ]);
        assert_eq!(names(&[root.path().to_owned()]), ["a:1", "own:1", "tfs:2,10", "triton:1"]);
        assert_eq!(names(&[root.path().join("tfs")]), ["tfs:2,10"]);
        assert_eq!(names(&[root.path().join("triton/1/model.onnx")]), ["triton:1"]);
        assert_eq!(names(&[root.path().join("own/model.onnx"), root.path().join("a.onnx")]), ["a:1", "own:1"]);
    }

    #[test]
    fn what_an_operator_must_mend_is_said_with_the_path() {
        let root = tree(&["a.onnx", "b/a.onnx", "notes.txt"]);
        let message = |paths: &[&str]| {
            let paths: Vec<_> = paths.iter().map(|path| root.path().join(path)).collect();
            scan(&paths).expect_err("refused").to_string()
        };
        assert!(message(&["gone"]).contains("gone`: "));
        assert!(message(&["notes.txt"]).contains("notes.txt` is not an .onnx file"));
        assert!(message(&["a.onnx", "b"]).contains("model `a` is both in"));
    }

    #[test]
    fn an_empty_folder_holds_no_models_yet() {
        let root = tempfile::tempdir().expect("a temporary folder");
        assert!(scan(&[root.path().to_owned()]).expect("scans").models.is_empty());
    }

    #[test]
    fn what_cannot_be_read_or_named_hides_no_neighbour() {
        use std::os::unix::ffi::OsStrExt;

        // A link to nothing, as a version that is being replaced, fails for every user, root too.
        let root = tree(&["good/1/model.onnx", "broken/2/model.onnx", "flat.onnx", "good/7", "2024"]);
        std::os::unix::fs::symlink("gone", root.path().join("broken/3")).expect("a link");
        std::fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"\xff.onnx")), b"x").expect("a file");
        let found = scan(&[root.path().to_owned()]).expect("scans");
        assert_eq!(found.models.keys().collect::<Vec<_>>(), ["flat", "good"]);
        assert_eq!(found.unreadable.iter().collect::<Vec<_>>(), ["broken"]);
        // Links of which the ends are on their way: a model, a folder, a version's file.
        for (link, end) in [("late.onnx", "blobs/x.onnx"), ("current", "releases/own"), ("good/8/model.onnx", "../x")] {
            std::fs::create_dir_all(root.path().join("good/8")).expect("a folder");
            std::os::unix::fs::symlink(end, root.path().join(link)).expect("a link");
        }
        let found = scan(&[root.path().to_owned()]).expect("scans");
        assert_eq!(found.models.keys().collect::<Vec<_>>(), ["flat"]);
        let unreadable: Vec<_> = found.unreadable.iter().map(SmolStr::as_str).collect();
        assert_eq!(unreadable, ["broken", "current", "good", "late", "own", "x"]);
        let error = scan(&[root.path().join("broken")]).expect_err("named by the operator").to_string();
        assert!(error.contains("broken/3"), "{error}");
    }
}
