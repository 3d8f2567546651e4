//! From a found file to a version ready to serve: check, open, describe, verify,
//! find the batch size, open its further sessions.

use std::time::Duration;

use nobat_core::signature::{ModelSignature, ModelState, TensorSpec};
use smol_str::SmolStr;

use super::files::{self, Files};
use super::guard::{self, GuardError};
use super::memory::Memory;
use super::scan::FoundVersion;
use super::settings::ModelSettings;
use crate::config::{PolicyKind, ProviderKind};
use crate::engine::Engine;
use crate::engine::onnx::{OnnxEngine, OpenError};
use crate::example::Example;
use crate::probe::{self, Bound, Endless};
use crate::samples::Sample;
use crate::sizing::{self, Gpu};
use crate::{golden, gpu};

/// Rows per run when the batch axis is free and nothing else says.
const DEFAULT_MAX_BATCH: u32 = 32;

/// A version that loaded, with its first engine.
pub struct Prepared {
    /// What it takes and gives.
    pub signature: ModelSignature,
    /// The first session.
    pub engine: Box<dyn Engine>,
    /// Run time per row at the best batch size, in seconds.
    pub row_s: f64,
    /// Memory the first session took.
    pub session_bytes: u64,
    /// The GPU it runs on, if it does.
    pub gpu: Option<Gpu>,
    /// A request that it answered.
    pub example: Option<Example>,
    /// Whether real requests may show of its rows what made-up ones could not.
    pub wants_samples: bool,
}

/// Why a version cannot be served; one line that names file and remedy.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read, is no model, or names data outside its folder.
    #[error("`{path}` {reason}")]
    Guarded {
        /// Which file.
        path: String,
        /// Why.
        reason: GuardError,
    },
    /// It does not fit into memory.
    #[error("`{path}` is not opened: {reason}")]
    TooLarge {
        /// Which file.
        path: String,
        /// The arithmetic.
        reason: String,
    },
    /// It answers other than its golden outputs.
    #[error("`{path}` is not put in service: {reason}")]
    Golden {
        /// Which file.
        path: String,
        /// Which element.
        reason: String,
    },
    /// A run at load did not end.
    #[error("`{path}` is not put in service: {reason}")]
    Endless {
        /// Which file.
        path: String,
        /// After how long.
        reason: Endless,
    },
    /// ONNX Runtime refused it.
    #[error("`{path}` cannot be served: {reason}")]
    Refused {
        /// Which file.
        path: String,
        /// Why.
        reason: OpenError,
    },
    /// Its sessions may hold different weights.
    #[error("`{path}` or its external data changed while it was loaded; reload the models when it is whole")]
    Changed {
        /// Which file.
        path: String,
    },
}

/// One version to load, and what its load goes by.
pub struct Load<'a> {
    /// The model's name.
    pub name: &'a str,
    /// Where it is.
    pub found: &'a FoundVersion,
    /// What was read of its files before any session opened.
    pub files: &'a Files,
    /// The model's settings.
    pub settings: &'a ModelSettings,
    /// What ends its runs.
    pub bound: &'a Bound<'a>,
    /// Real requests of the version as it serves, for a trial.
    pub samples: Option<&'a [Sample]>,
    /// Told what the version takes and gives once that is known, long before it serves.
    pub known: &'a dyn Fn(ModelSignature),
}

/// Reads a version's files: see [`files::read`].
///
/// # Errors
/// [`LoadError::Guarded`].
pub fn read(found: &FoundVersion) -> Result<Files, LoadError> {
    files::read(&found.file).map_err(|reason| LoadError::Guarded { path: found.file.display().to_string(), reason })
}

impl Load<'_> {
    /// Everything up to the further sessions.
    ///
    /// # Errors
    /// [`LoadError`], when nothing has changed for those who serve.
    pub fn prepare(&self) -> Result<Prepared, LoadError> {
        let before = sizing::resident_bytes();
        let gpu_before = self.gpu_free();
        let mut engine = self.open()?;
        let described = engine.describe().map_err(|reason| LoadError::Refused { path: self.path(), reason })?;
        if let Some(file) = golden::find(&self.found.file) {
            golden::check(&file, &mut engine, &described.inputs, &described.outputs, self.bound)
                .map_err(|reason| LoadError::Golden { path: self.path(), reason })?;
        }
        let batching = &self.settings.config.batching;
        let (rows, wants_samples) = self.rows(&mut engine, &described)?;
        let batched = self.joins(&rows);
        let limit = match batching.max_batch_size {
            0 => DEFAULT_MAX_BATCH,
            size => size,
        };
        let signature = ModelSignature {
            name: self.name.into(),
            version: self.found.version.clone(),
            digest: self.files.digest.clone(),
            state: ModelState::Loading,
            reason: String::new(),
            inputs: described.inputs.clone(),
            outputs: described.outputs,
            batched,
            rows,
            max_batch_size: limit,
            max_rows: if batched { batching.max_rows.max(limit) } else { 1 },
            finite: self.settings.finite,
            default: false,
            labels: Vec::new(),
            settings: class_labels(described.classes),
        };
        (self.known)(signature.clone());
        let fixed = batching.max_batch_size > 0;
        let (max_batch_size, row_s) = match batched && batching.policy != PolicyKind::None {
            false => (1, self.row_time(&mut engine, &described.inputs)?),
            true => {
                // An operator's own size is taken as it is; only its cost is measured.
                let tried = if fixed { 1 } else { limit };
                match self.endless(probe::best_batch_size(
                    &mut engine,
                    &described.inputs,
                    tried,
                    batching.max_batch_bytes,
                    self.budget(),
                    self.bound,
                ))? {
                    Some(best) => {
                        let rows = if fixed { limit } else { best.rows };
                        log::info!(model = self.name, rows, row_us = (best.row_s * 1e6) as u64; "batches of model `{}` hold up to {rows} rows", self.name);
                        (rows, best.row_s)
                    }
                    None => (limit, 0.0),
                }
            }
        };
        self.warm_up(&mut engine, &described.inputs, max_batch_size)?;
        let example = Example::find(&mut engine, &described.inputs, self.bound);
        let signature = ModelSignature {
            state: ModelState::Ready,
            max_batch_size,
            max_rows: if batched { batching.max_rows.max(max_batch_size) } else { 1 },
            ..signature
        };
        let session_bytes = sizing::resident_bytes().saturating_sub(before);
        let gpu = (engine.provider() == ProviderKind::Cuda).then(|| {
            let free_bytes = self.gpu_free();
            Gpu { free_bytes, session_bytes: gpu_before.unwrap_or(0).saturating_sub(free_bytes.unwrap_or(0)) }
        });
        Ok(Prepared { signature, engine: Box::new(engine), row_s, session_bytes, gpu, example, wants_samples })
    }

    /// The engines of so many sessions, the first included. All are of the same
    /// files: what changed between two opens is refused.
    ///
    /// # Errors
    /// [`LoadError`], as [`Load::prepare`].
    pub fn sessions(
        &self,
        first: Box<dyn Engine>,
        signature: &ModelSignature,
        count: u32,
    ) -> Result<Vec<Box<dyn Engine>>, LoadError> {
        let mut engines = vec![first];
        while engines.len() < count as usize {
            let mut engine = self.open()?;
            self.warm_up(&mut engine, &signature.inputs, signature.max_batch_size)?;
            engines.push(Box::new(engine));
        }
        match read(self.found)? == *self.files {
            true => Ok(engines),
            false => Err(LoadError::Changed { path: self.path() }),
        }
    }

    /// Free memory of the GPU the model runs on; `None` on the CPU and where the driver does not say.
    fn gpu_free(&self) -> Option<u64> {
        let provider = &self.settings.config.provider;
        (provider.kind == ProviderKind::Cuda).then(|| gpu::free_bytes(provider.device_id)).flatten()
    }

    /// Opens a session. The guard comes first each time: the files may be others by now.
    fn open(&self) -> Result<OnnxEngine, LoadError> {
        let config = &self.settings.config;
        guard::check(&self.found.file).map_err(|reason| LoadError::Guarded { path: self.path(), reason })?;
        Memory::now(config.loading.memory_limit_bytes)
            .fits(self.files)
            .map_err(|reason| LoadError::TooLarge { path: self.path(), reason })?;
        OnnxEngine::open(&self.found.file, config.provider.intra_threads as usize, &config.provider, self.bound.next())
            .map_err(|reason| LoadError::Refused { path: self.path(), reason })
    }

    fn row_time(&self, engine: &mut OnnxEngine, inputs: &[TensorSpec]) -> Result<f64, LoadError> {
        let best = probe::best_batch_size(engine, inputs, 1, u64::MAX, Duration::from_millis(200), self.bound);
        Ok(self.endless(best)?.map_or(0.0, |best| best.row_s))
    }

    fn warm_up(&self, engine: &mut OnnxEngine, inputs: &[TensorSpec], rows: u32) -> Result<(), LoadError> {
        let max_bytes = self.settings.config.batching.max_batch_bytes;
        self.endless(probe::warm_up(engine, inputs, rows, max_bytes, self.budget(), self.bound))
    }

    pub(super) fn endless<T>(&self, outcome: Result<T, Endless>) -> Result<T, LoadError> {
        outcome.map_err(|reason| LoadError::Endless { path: self.path(), reason })
    }

    pub(super) fn budget(&self) -> Duration {
        Duration::from_millis(self.settings.config.loading.probe_ms)
    }

    fn path(&self) -> String {
        self.found.file.display().to_string()
    }
}

/// What the file itself says of its classes, as the setting that an owner may write.
fn class_labels(classes: Vec<(SmolStr, Vec<String>)>) -> serde_json::Map<String, serde_json::Value> {
    let by_output: serde_json::Map<_, _> =
        classes.into_iter().map(|(output, names)| (output.to_string(), names.into())).collect();
    let setting = ("class_labels".to_owned(), serde_json::Value::from(by_output));
    std::iter::once(setting).filter(|(_, by_output)| by_output.as_object().is_some_and(|own| !own.is_empty())).collect()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::config::{LoadingConfig, WorkerConfig};
    use crate::watchdog::Watchdog;

    fn test_model(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(format!("{name}.onnx"))
    }

    /// A folder with a copy of the test model.
    fn copied(name: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(format!("{name}.onnx"));
        std::fs::copy(test_model(name), &file).expect("a test model");
        (folder, file)
    }

    fn quick() -> ModelSettings {
        let loading = LoadingConfig { probe_ms: 20, ..LoadingConfig::default() };
        ModelSettings { config: WorkerConfig { loading, ..WorkerConfig::default() }, ..ModelSettings::default() }
    }

    /// Begins to load `file` and hands the load and what was prepared to `then`.
    fn load<T>(
        file: &Path,
        settings: &ModelSettings,
        then: impl FnOnce(&Load<'_>, Result<Prepared, LoadError>) -> T,
    ) -> T {
        let (watchdog, stop) = (Watchdog::start().expect("a thread"), AtomicBool::new(false));
        let bound = Bound { watchdog: &watchdog, run: Duration::from_millis(200), stop: &stop };
        let found = FoundVersion { version: "1".into(), file: file.to_owned() };
        let files = read(&found).expect("a model");
        let (samples, known) = (None, &|_| {});
        let load = Load { name: "m", found: &found, files: &files, settings, bound: &bound, samples, known };
        then(&load, load.prepare())
    }

    fn refusal(file: &Path, settings: &ModelSettings) -> String {
        load(file, settings, |_, prepared| prepared.err().expect("a refusal").to_string())
    }

    #[test]
    fn sessions_of_one_version_are_all_of_one_file() {
        let (_folder, file) = copied("identity_fp32");
        let sessions_after = |replaced: &[u8]| {
            load(&file, &quick(), |load, prepared| {
                let Prepared { signature, engine, .. } = prepared.expect("a model");
                std::fs::write(&file, replaced).expect("a file");
                load.sessions(engine, &signature, 2).map(|engines| engines.len()).map_err(|error| error.to_string())
            })
        };
        let same = std::fs::read(&file).expect("a file");
        assert_eq!(sessions_after(&same), Ok(2));
        let error = sessions_after(&std::fs::read(test_model("mixing")).expect("a file")).expect_err("another file");
        assert!(error.contains("changed while it was loaded") && error.contains("reload"), "{error}");
        std::fs::write(&file, same).expect("a file");
        let error = sessions_after(b"half a fil").expect_err("not a model");
        assert!(error.contains("is not an ONNX model"), "the guard comes before each open: {error}");
    }

    #[test]
    fn a_run_that_does_not_end_is_ended_and_names_the_model() {
        for verify_batching in [true, false] {
            let mut settings = quick();
            settings.config.loading.verify_batching = verify_batching;
            let error = refusal(&test_model("endless"), &settings);
            assert!(error.contains("endless.onnx") && error.contains("ended after 0.2 s"), "{error}");
        }
        let (folder, file) = copied("slow");
        let row = r#"[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]"#;
        let golden = format!(
            r#"{{"inputs": [{{"name": "n", "datatype": "INT64", "shape": [], "data": [4611686018427387904]}},
                {{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": {row}}}], "outputs": []}}"#
        );
        std::fs::write(folder.path().join("slow.golden.json"), golden).expect("a file");
        let error = refusal(&file, &quick());
        assert!(error.contains("slow.golden.json") && error.contains("ended after 0.2 s"), "{error}");
    }

    #[test]
    fn what_does_not_fit_into_memory_is_not_opened() {
        let mut settings = quick();
        settings.config.loading.memory_limit_bytes = Some(1);
        let error = refusal(&test_model("identity_fp32"), &settings);
        assert!(error.contains("is not opened") && error.contains("loading.memory_limit_bytes"), "{error}");
    }

    #[test]
    fn rows_that_mix_are_found_however_small_the_outputs() {
        let batched =
            |name: &str| load(&test_model(name), &quick(), |_, prepared| prepared.expect("a model").signature.batched);
        assert_eq!((batched("mixing_small"), batched("independent_small")), (false, true));
    }
}
