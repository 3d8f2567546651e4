//! Finds models without configuration: one file, a flat folder of `.onnx`, a
//! Triton repository (`name/1/model.onnx`) or TensorFlow Serving's version
//! folders, Hugging Face folders (`config.json` beside `onnx/model.onnx`), and folders whose
//! settings make a chain of other models. Reads names, and the settings of folders without a
//! graph; no model file is opened here. What looks like a model and is laid out otherwise is
//! left out, with the reason.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nobat_core::chain::ChainDefinition;
use smol_str::SmolStr;

use super::chains;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundModel {
    pub(crate) name: SmolStr,
    /// The folder that holds its settings, if it has one of its own.
    pub(crate) folder: Option<PathBuf>,
    /// Its versions, oldest first.
    pub(crate) versions: Vec<FoundVersion>,
    /// Where it is no folder but a chain that was declared as a route.
    pub(crate) routed: Option<Arc<ChainDefinition>>,
}

impl FoundModel {
    /// A chain that was declared as the route `name`.
    pub(crate) fn of_route(name: &SmolStr, chain: &Arc<ChainDefinition>) -> FoundModel {
        // Messages name it; nothing is read there.
        let file = Path::new("routes").join(name).join("model.toml");
        let versions = vec![FoundVersion::new("1".into(), file)];
        FoundModel { name: name.clone(), folder: None, versions, routed: Some(Arc::clone(chain)) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundVersion {
    pub(crate) version: SmolStr,
    /// Its model file, or the settings that make a chain of others.
    pub(crate) file: PathBuf,
    /// The graph of pictures, where `file` is that of texts alone.
    pub(crate) pictures: Option<PathBuf>,
    /// The Hugging Face folder that the file is of, whose other files say what it does.
    pub(crate) text_folder: Option<PathBuf>,
    /// The folder that says how its pictures are prepared.
    pub(crate) image_folder: Option<PathBuf>,
}

impl FoundVersion {
    /// A version of this file, and of the folder around it if that is a text model.
    pub(crate) fn new(version: SmolStr, file: PathBuf) -> FoundVersion {
        // `model.onnx` or `onnx/model.onnx` in it.
        let folders = || file.ancestors().skip(1).take(2).filter(|_| !chains::is_chain(&file));
        let text_folder = folders().find(|folder| nobat_text::is_model_folder(folder)).map(Path::to_owned);
        let image_folder = folders().find(|folder| nobat_image::has_processor(folder)).map(Path::to_owned);
        FoundVersion { text_folder, image_folder, version, file, pictures: None }
    }

    /// Its graphs, one or two.
    pub(crate) fn graphs(&self) -> Vec<&Path> {
        std::iter::once(&self.file).chain(&self.pictures).map(PathBuf::as_path).collect()
    }
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScanResult {
    pub(crate) models: BTreeMap<SmolStr, FoundModel>,
    /// Folders that could not be read, by the name of the model that each may hold.
    pub(crate) unreadable: BTreeSet<SmolStr>,
    /// Folders that hold model files and are no model, with what to mend.
    pub(crate) left_out: BTreeMap<SmolStr, String>,
}

impl ScanResult {
    /// Whether nothing here is a model, nor looks like one.
    pub(crate) fn is_empty(&self) -> bool {
        self.models.is_empty() && self.unreadable.is_empty() && self.left_out.is_empty()
    }
}

/// Why a path holds no models.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("cannot read `{}`: {reason}; give an .onnx file or a folder of models", path.display())]
    Unreadable { path: PathBuf, reason: io::Error },
    #[error("`{}` is not an .onnx file; give an .onnx file or a folder of models", path.display())]
    NotAModel { path: PathBuf },
    #[error("model `{name}` is both in `{}` and in `{}`; rename one", first.display(), second.display())]
    Twice { name: SmolStr, first: PathBuf, second: PathBuf },
}

/// Finds every model under `paths`, by name. An empty folder is no error: its models may
/// come later, with a reload. A model whose name is not allowed, and a folder beneath one of
/// the paths that cannot be read or is no model, are left out with a warning, and the
/// others are served.
pub(crate) fn scan(paths: &[PathBuf]) -> Result<ScanResult, ScanError> {
    let mut found = ScanResult::default();
    for path in paths {
        for model in scan_path(path, &mut found)? {
            if let Some(why) = nobat_core::model_name::objection(&model.name) {
                log::warn!("model `{}` in `{}` is left out: {why}; rename it", model.name, location(&model).display());
                continue;
            }
            if let Some(first) = found.models.get(&model.name) {
                return Err(ScanError::Twice {
                    name: model.name.clone(),
                    first: location(first),
                    second: location(&model),
                });
            }
            found.models.insert(model.name.clone(), model);
        }
    }
    let ScanResult { models, left_out, .. } = &mut found;
    left_out.retain(|name, _| !models.contains_key(name) && nobat_core::model_name::objection(name).is_none());
    Ok(found)
}

fn location(model: &FoundModel) -> PathBuf {
    let first_file = || model.versions.first().map(|version| version.file.clone());
    model.folder.clone().or_else(first_file).unwrap_or_default()
}

fn scan_path(path: &Path, found: &mut ScanResult) -> Result<Vec<FoundModel>, ScanError> {
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
            Ok(Some(model)) => models.push(model),
            Ok(None) => {
                if let Some(reason) = no_model(&entry) {
                    log::warn!("{reason}");
                    found.left_out.insert(name.into(), reason);
                }
            }
            Err(error) => {
                log::warn!("`{}` is left out: {error}; mend or remove what cannot be read in it", entry.display());
                found.unreadable.insert(model_name(name));
                // A model in a linked folder has the name of the link's target.
                let target = std::fs::read_link(&entry).ok();
                let target = target.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
                found.unreadable.extend(target.map(model_name));
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

/// Why a folder that holds model files is no model; `None` for one that holds none, or
/// cannot be read any more.
fn no_model(folder: &Path) -> Option<String> {
    let shown = |path: &Path| format!("`{}`", path.display());
    let inner = entries(folder).ok()?;
    let layout = "looked for model.onnx, and for version folders 1, 2, … (or v1, v2, …) with a model.onnx in each";
    if let Some(file) = inner.iter().find(|entry| is_onnx(entry)) {
        return Some(format!(
            "{} holds {} and is not served: {layout}; rename the file to model.onnx, or name the folder itself with --models",
            shown(folder),
            shown(Path::new(file.file_name()?)),
        ));
    }
    let versions = inner.iter().filter(|entry| entry.is_dir());
    let holds = |version: &&PathBuf| entries(version).is_ok_and(|files| files.iter().any(|file| is_onnx(file)));
    let version = versions.clone().find(holds)?;
    let what = match version_number(version) {
        Some(_) => "holds more than one model and no model.onnx",
        None => "is no version number",
    };
    Some(format!("{} is not served: {} {what}; {layout}", shown(folder), shown(version)))
}

/// The model that a file or folder of this name may hold.
fn model_name(name: &str) -> SmolStr {
    let path = Path::new(name);
    let stem = path.file_stem().filter(|_| is_onnx(path)).and_then(|stem| stem.to_str());
    stem.unwrap_or(name).into()
}

/// The metadata of a path; `None` where nothing is there. A link to nothing is an error:
/// its target may be about to come.
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
    let (mut versions, mut others) = (BTreeMap::<u64, PathBuf>::new(), Vec::new());
    let chain = chains::file(folder);
    for entry in entries(folder)? {
        let Some(number) = version_number(&entry) else {
            others.extend(holds_another_model(folder, &entry).then_some(entry));
            continue;
        };
        // A plain file of that name is no version.
        if !stat(&entry)?.is_some_and(|meta| meta.is_dir()) {
            continue;
        }
        let file = version_file(&entry)?.or_else(|| chains::file(&entry)).or_else(|| chain.clone());
        match (versions.entry(number), file) {
            (_, None) => {}
            (Entry::Vacant(entry), Some(file)) => drop(entry.insert(file)),
            // `1` comes before `v1`.
            (Entry::Occupied(_), Some(_)) => others.push(entry),
        }
    }
    let version = |(number, file): (u64, PathBuf)| FoundVersion::new(number.to_string().into(), file);
    let mut versions: Vec<FoundVersion> = versions.into_iter().map(version).collect();
    if versions.is_empty()
        && let Some(file) = own_file(folder)?.or(chain)
    {
        versions.push(FoundVersion::new("1".into(), file));
    }
    if versions.is_empty() {
        return Ok(None);
    }
    for other in others {
        log::warn!(model = name.as_str(); "`{}` is left out of model `{name}`: its name is no version number of its own; versions are folders 1, 2, … (or v1, v2, …)", other.display());
    }
    Ok(Some(FoundModel { name, folder: Some(folder.to_owned()), versions, routed: None }))
}

/// Whether a folder in a model's, no version by its name, holds a model all the same. One that is
/// no version may be anything, and unreadable; a Hugging Face folder has its graphs in `onnx`.
fn holds_another_model(folder: &Path, entry: &Path) -> bool {
    entry.is_dir()
        && !(entry.ends_with("onnx") && nobat_text::is_model_folder(folder))
        && version_file(entry).is_ok_and(|file| file.is_some())
}

/// `model.onnx` among files, in whatever letters; the one in small letters first.
fn named_model(files: &[PathBuf]) -> io::Result<Option<PathBuf>> {
    let named = |file: &&PathBuf| file.file_name().is_some_and(|name| name.eq_ignore_ascii_case("model.onnx"));
    // Small letters sort last.
    for file in files.iter().rev().filter(named) {
        if stat(file)?.is_some_and(|meta| meta.is_file()) {
            return Ok(Some(file.clone()));
        }
    }
    Ok(None)
}

/// The model file of a folder that is one model: `model.onnx`, or that of a Hugging Face folder.
fn own_file(folder: &Path) -> io::Result<Option<PathBuf>> {
    Ok(named_model(&entries(folder)?)?.or_else(|| text_file(folder)))
}

/// The plain graph of a Hugging Face folder; its settings may name another.
fn text_file(folder: &Path) -> Option<PathBuf> {
    if !nobat_text::is_model_folder(folder) {
        return None;
    }
    let plain = nobat_text::graph_file(folder, None);
    // Of several variants the load says which there are.
    Some(plain.map_or_else(|_| folder.join("onnx/model.onnx"), |graph| graph.path))
}

/// The model file of a version folder: `model.onnx`, else its only `.onnx`.
fn version_file(folder: &Path) -> io::Result<Option<PathBuf>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("`{}`: {error}", folder.display()));
    let inner = entries(folder).map_err(named)?;
    if let Some(file) = named_model(&inner)? {
        return Ok(Some(file));
    }
    let mut files = Vec::new();
    for entry in inner.into_iter().filter(|entry| is_onnx(entry)) {
        if stat(&entry)?.is_some_and(|meta| meta.is_file()) {
            files.push(entry);
        }
    }
    Ok(files.pop().filter(|_| files.is_empty()).or_else(|| text_file(folder)))
}

/// A file given by itself. `digits/1/model.onnx` is model `digits` version 1,
/// `digits/model.onnx` is model `digits`, `digits.onnx` too.
fn single(file: &Path) -> FoundModel {
    let absolute = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("model");
    let parent = absolute.parent().filter(|_| stem == "model");
    let number = parent.and_then(version_number);
    let folder = if number.is_some() { parent.and_then(Path::parent) } else { parent };
    let name = folder.and_then(Path::file_name).and_then(|name| name.to_str());
    let versions = vec![FoundVersion::new(number.unwrap_or(1).to_string().into(), file.to_owned())];
    FoundModel {
        name: name.unwrap_or(stem).into(),
        folder: folder.filter(|_| name.is_some()).map(Path::to_owned),
        versions,
        routed: None,
    }
}

/// The number of a folder `3`, or `v3` as MLflow users name it.
fn version_number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let digits = name.strip_prefix(['v', 'V']).unwrap_or(name);
    digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
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
    fn names_that_leave_no_doubt_are_served() {
        let root = tree(&["a.ONNX", "b/v2/model.onnx", "b/V10/Model.Onnx", "c/model.ONNX", "d/1/net.ONNX"]);
        assert_eq!(names(&[root.path().to_owned()]), ["a:1", "b:2,10", "c:1", "d:1"]);
        let root = tree(&["m/1/model.onnx", "m/v1/model.onnx", "m/latest/model.onnx"]);
        let found = scan(&[root.path().to_owned()]).expect("scans");
        assert_eq!(found.models["m"].versions.len(), 1, "two folders of one number are one version");
        assert!(found.models["m"].versions[0].file.ends_with("m/1/model.onnx"));
        assert!(found.left_out.is_empty());
    }

    #[test]
    fn graphs_beside_a_stray_config_are_models_each_and_variants_are_one() {
        let root = tree(&["config.json", "letters.onnx", "digits.onnx"]);
        assert_eq!(names(&[root.path().to_owned()]), ["digits:1", "letters:1"]);
        let found = scan(&[root.path().to_owned()]).expect("scans");
        assert!(found.models.values().all(|model| model.versions[0].text_folder.is_none()));
        let root = tree(&["text/config.json", "text/tokenizer.json", "text/model.onnx", "text/model_fp16.onnx"]);
        let found = scan(&[root.path().to_owned()]).expect("scans");
        assert!(found.models["text"].versions[0].text_folder.is_some());
    }

    #[test]
    fn the_graphs_of_a_hugging_face_folder_are_no_model_of_their_own_wherever_they_lie() {
        let root =
            tree(&["blobs/graph", "text/config.json", "text/onnx/readme.txt", "m/1/model.onnx", "m/latest/a.onnx"]);
        let text = root.path().join("text");
        // As the hub's cache has them.
        std::os::unix::fs::symlink("../../blobs/graph", text.join("onnx/model.onnx")).expect("a link");
        assert!(!holds_another_model(&text, &text.join("onnx")));
        let own = root.path().join("m");
        assert!(holds_another_model(&own, &own.join("latest")) && !holds_another_model(&own, &own.join("none")));
    }

    #[test]
    fn what_looks_like_a_model_and_is_none_is_told_with_what_to_mend() {
        let root = tree(&[
            "dotted/1.0.1/model.onnx",
            "latest/latest/model.onnx",
            "single/net.onnx",
            "two/1/a.onnx",
            "two/1/b.onnx",
            "plus/+1/model.onnx",
            "notes/readme.txt",
            "empty/1/readme.txt",
            "good.onnx",
        ]);
        let found = scan(&[root.path().to_owned()]).expect("scans");
        assert_eq!(found.models.keys().collect::<Vec<_>>(), ["good"]);
        let left_out: Vec<_> = found.left_out.keys().map(SmolStr::as_str).collect();
        assert_eq!(left_out, ["dotted", "latest", "plus", "single", "two"]);
        for (name, says) in [
            ("dotted", "1.0.1` is no version number"),
            ("latest", "latest/latest` is no version number"),
            ("single", "holds `net.onnx` and is not served"),
            ("two", "two/1` holds more than one model and no model.onnx"),
            ("plus", "+1` is no version number"),
        ] {
            let reason = &found.left_out[name];
            assert!(reason.contains(says) && reason.contains("version folders 1, 2"), "{name}: {reason}");
        }
        assert!(!found.is_empty());
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
