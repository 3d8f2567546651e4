//! Finds and loads the ONNX Runtime library, once per process.
//!
//! Invariant: a missing, foreign or too old library is one clear error that
//! says what to run; `ort` is never asked to load a path that was not checked,
//! because its own fallback panics.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ort::environment::Environment;
use ort::logging::LogLevel;
use parking_lot::Mutex;

/// Name of the library beside the executable and under `.nobat/lib`.
pub const LIBRARY: &str = if cfg!(target_os = "macos") { "libonnxruntime.dylib" } else { "libonnxruntime.so" };

/// Why ONNX Runtime cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LibraryError {
    /// A variable names a file that is not there.
    #[error("{variable} names `{}`, which does not exist; run scripts/setup and unset it, or name the library of ONNX Runtime 1.24 or later", path.display())]
    NoSuchFile {
        /// The environment variable.
        variable: &'static str,
        /// What it says.
        path: PathBuf,
    },
    /// Nothing was found anywhere.
    #[error(
        "ONNX Runtime is not installed: no {LIBRARY} beside the executable, in its Python environment or in .nobat/lib of a parent folder; run `pip install onnxruntime` there, scripts/setup in a checkout, or set NOBAT_ORT_LIB to the library"
    )]
    NotFound,
    /// It is there but cannot be used.
    #[error("`{}` cannot be used as ONNX Runtime: {reason}; run scripts/setup, or set NOBAT_ORT_LIB to the library of ONNX Runtime 1.24 or later", path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },
}

/// The process's one environment. It is never dropped: sessions may live until
/// the process ends, and they must not outlive it.
static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

/// Loads the library on the first call; later calls return the same environment.
///
/// # Errors
/// [`LibraryError`], which says what to run.
pub fn environment() -> Result<&'static Environment, LibraryError> {
    if let Some(environment) = ENVIRONMENT.get() {
        return Ok(environment);
    }
    let _one_at_a_time = LOADING.lock();
    if let Some(environment) = ENVIRONMENT.get() {
        return Ok(environment);
    }
    let path = find()?;
    let unusable = |reason: String| LibraryError::Unusable { path: path.clone(), reason };
    let builder = ort::init_from(&path).map_err(|error| unusable(first_line(&error.to_string())))?;
    let environment = builder
        .with_name("nobat")
        .with_telemetry(false)
        .with_logger(Arc::new(|level, _, _, _, message| log_line(level, message)))
        .build()
        .map_err(|error| unusable(first_line(&error.to_string())))?;
    // Its warnings (unused initializers, slow fallbacks) are for model authors;
    // what fails comes back as an error with the same words.
    environment.set_log_level(LogLevel::Error);
    log::info!(library = path.display().to_string(); "loaded ONNX Runtime from {}", path.display());
    Ok(ENVIRONMENT.get_or_init(|| environment))
}

/// Writes ONNX Runtime's own lines to our log instead of in colour to stderr. For each
/// error that it returns it also writes a line; the caller reports the error already.
fn log_line(level: LogLevel, message: &str) {
    const RETURNED: [&str; 3] = ["Non-zero status code returned", "Exception during initialization", "Load model from"];
    let returned = RETURNED.iter().any(|start| message.starts_with(start));
    let line = super::message::clean(message);
    match level {
        LogLevel::Error | LogLevel::Fatal if !returned => log::warn!("ONNX Runtime: {line}"),
        _ => log::debug!("ONNX Runtime: {line}"),
    }
}

/// Where the library is: `NOBAT_ORT_LIB`, `ORT_DYLIB_PATH`, beside the
/// executable, in the Python environment the executable is installed in, then
/// `.nobat/lib` in every parent folder of the executable and of the working
/// directory.
///
/// # Errors
/// [`LibraryError`], where there is none.
pub fn find() -> Result<PathBuf, LibraryError> {
    for variable in ["NOBAT_ORT_LIB", "ORT_DYLIB_PATH"] {
        if let Some(value) = std::env::var_os(variable).filter(|value| !value.is_empty()) {
            let path = PathBuf::from(value);
            return match path.is_file() {
                true => Ok(path),
                false => Err(LibraryError::NoSuchFile { variable, path }),
            };
        }
    }
    let executable = std::env::current_exe().ok();
    let folder = executable.as_deref().and_then(Path::parent);
    let beside = folder.map(|folder| folder.join(LIBRARY)).filter(|path| path.is_file());
    let work = std::env::current_dir().ok();
    let installed = || {
        [executable.as_deref(), work.as_deref()]
            .into_iter()
            .flatten()
            .flat_map(Path::ancestors)
            .map(|folder| folder.join(".nobat/lib").join(LIBRARY))
            .find(|path| path.is_file())
    };
    beside.or_else(|| python_package(folder?)).or_else(installed).ok_or(LibraryError::NotFound)
}

/// The library of the `onnxruntime` package in the Python environment whose
/// commands are in `bin`: pip puts its files under `lib/python3.X/site-packages`
/// of a virtual environment or a prefix (`dist-packages` on Debian), and beside
/// `bin` with `--target`. The package has no name without a version.
fn python_package(bin: &Path) -> Option<PathBuf> {
    let root = bin.parent()?;
    let of_python = |lib: &str| {
        let versions = std::fs::read_dir(root.join(lib)).into_iter().flatten().flatten();
        let versions = versions.filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"));
        versions.flat_map(|entry| ["site-packages", "dist-packages"].map(|packages| entry.path().join(packages)))
    };
    let packages = std::iter::once(root.to_owned()).chain(of_python("lib")).chain(of_python("lib64"));
    packages.filter_map(|packages| library_in(&packages.join("onnxruntime/capi"))).next()
}

/// `libonnxruntime.so.1.31.0` (`libonnxruntime.1.31.0.dylib`) of a folder. Where there are
/// several, because the package for GPUs was installed over the other, the newest file.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let named = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (stem, _) = LIBRARY.rsplit_once('.').unwrap_or((LIBRARY, ""));
        name == LIBRARY || name.starts_with(&format!("{LIBRARY}.")) || name.starts_with(&format!("{stem}.1."))
    };
    let files = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).filter(|path| named(path));
    files.max_by_key(|path| path.metadata().and_then(|file| file.modified()).ok())
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_of_a_python_environment_is_found_wherever_pip_puts_it() {
        for packages in
            ["lib/python3.12/site-packages", "lib64/python3.11/site-packages", "lib/python3/dist-packages", ""]
        {
            let environment = tempfile::tempdir().expect("made");
            let capi = environment.path().join(packages).join("onnxruntime/capi");
            std::fs::create_dir_all(&capi).expect("made");
            let bin = environment.path().join("bin");
            assert_eq!(python_package(&bin), None, "{packages}");
            std::fs::write(capi.join("libonnxruntime_providers_shared.so"), "").expect("written");
            assert_eq!(python_package(&bin), None, "{packages}");
            let library = capi.join(format!("{LIBRARY}.1.31.0"));
            std::fs::write(&library, "").expect("written");
            assert_eq!(python_package(&bin), Some(library), "{packages}");
        }
    }
}
