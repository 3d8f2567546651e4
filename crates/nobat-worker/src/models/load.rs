//! From a found file to a version ready to serve: check, open, describe, verify,
//! find the batch size, open its further sessions.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nobat_core::signature::{ModelSignature, ModelState, TensorSpec};
use nobat_core::task::{Task, TaskKind};
use nobat_transform::{CallerSignature, Transform};
use smol_str::SmolStr;

use super::files::{self, Files};
use super::golden;
use super::guard;
use super::independence::RowCheck;
use super::memory::{Memory, resident_bytes};
use super::profile;
use super::scan::FoundVersion;
use super::settings::ModelSettings;
use super::transforms::{self, OpenedTransform};
use crate::config::{PolicyKind, ProviderKind};
use crate::engine::Engine;
use crate::engine::onnx::{Description, OnnxEngine};
use crate::engine::towers::{Graphs, TowerEngines};
use crate::gpu;
use crate::model::Transformed;
use crate::tune::autotune;
use crate::tune::example::Example;
use crate::tune::limit::{LoadLimit, RunTimedOut};
use crate::tune::row_costs::RowRunner;
use crate::tune::samples::Sample;
use crate::tune::sizing::Gpu;
use crate::tune::synthetic::SyntheticRunner;

/// Rows per run when the batch axis is free and nothing else says.
const DEFAULT_MAX_BATCH: u32 = 32;
/// Rows per run of a transformed model, where nothing else says.
const MOST_ROWS: u32 = 64;
/// Tokens of an everyday text, by which sessions are counted.
const EVERYDAY: u32 = 32;
/// Longest time spent on measuring a row of a model that is not batched.
const ROW_BUDGET: Duration = Duration::from_millis(200);

/// A version that loaded, with its first engine.
pub(crate) struct PreparedVersion {
    pub(crate) signature: ModelSignature,
    /// The first session.
    pub(crate) engine: Box<dyn Engine>,
    /// Run time per row at the best batch size, in seconds.
    pub(crate) row_s: f64,
    /// Memory the first session took.
    pub(crate) session_bytes: u64,
    /// The GPU it runs on, if it does.
    pub(crate) gpu: Option<Gpu>,
    /// A request that it answered.
    pub(crate) example: Option<Example>,
    /// Where callers do not see the graph's own tensors.
    pub(crate) transformed: Option<Transformed>,
    /// Whether real requests may show of its rows what synthetic ones could not.
    pub(crate) wants_samples: bool,
}

/// One version to load, and what its load goes by. Every error is one line that names
/// the file and, where there is one, the remedy; what serves is unchanged then.
pub(crate) struct Load<'a> {
    /// The model's name.
    pub(crate) name: &'a str,
    /// Where it is.
    pub(crate) found: &'a FoundVersion,
    /// What was read of its files before any session opened.
    pub(crate) files: &'a Files,
    pub(crate) settings: &'a ModelSettings,
    /// Ends its runs.
    pub(crate) limit: &'a LoadLimit<'a>,
    /// Real requests of the version as it serves, for a trial.
    pub(crate) samples: Option<&'a [Sample]>,
    /// Called with the signature as soon as it is known, long before the version serves.
    pub(crate) on_signature: &'a dyn Fn(ModelSignature),
}

impl Load<'_> {
    /// Everything up to the further sessions.
    pub(crate) fn prepare(&self) -> Result<PreparedVersion, String> {
        let before = resident_bytes();
        let gpu_before = self.gpu_free();
        let mut engine = self.open()?;
        let described = engine.describe().map_err(|error| self.not_served(error))?;
        if let Some(file) = golden::find(&self.found.file) {
            golden::check(&file, &mut self.runner(&mut engine, &described.inputs), &described.outputs)
                .map_err(|reason| self.not_in_service(reason))?;
        }
        let opened = transforms::open(self.name, self.found, self.settings, &described)
            .map_err(|reason| self.not_in_service(reason))?;
        let batching = &self.settings.config.batching;
        let check =
            RowCheck { name: self.name, file: &self.found.file, config: &self.settings.config, samples: self.samples };
        let (rows, wants_samples) = match opened.as_ref().filter(|own| own.has_towers) {
            Some(own) => (check.of_towers(&mut self.row_runner(&mut engine, &*own.transform)), false),
            None => check
                .run(&mut self.runner(&mut engine, &described.inputs))
                .map_err(|error| self.not_in_service(error))?,
        };
        let joins = check.joins(&rows);
        // Callers' rows are always apart; how many share a run is the graph's matter.
        let batched = joins || opened.is_some();
        let Described { inputs, outputs, task, graph } = Described::of(described, opened.as_ref());
        let limit = if batching.max_batch_size == 0 { DEFAULT_MAX_BATCH } else { batching.max_batch_size };
        let max_rows = |limit: u32| if batched { batching.max_rows.max(limit) } else { 1 };
        let mut signature = ModelSignature {
            name: self.name.into(),
            version: self.found.version.clone(),
            digest: self.files.digest.clone(),
            state: ModelState::Loading,
            reason: String::new(),
            inputs,
            outputs,
            batched,
            rows,
            max_batch_size: limit,
            max_rows: max_rows(limit),
            finite: self.settings.finite,
            default: false,
            labels: Vec::new(),
            settings: published(graph.classes, opened.as_ref()),
            task,
        };
        profile::publish(&self.found.file, &mut signature);
        (self.on_signature)(signature.clone());
        let (transformed, max_batch_size, row_s, example) = match opened {
            Some(opened) => {
                let (transformed, row_s) = self.row_costs(&mut engine, &opened, joins)?;
                let example = self.text_example(&mut engine, &transformed);
                let rows = transformed.max_rows;
                (Some(transformed), rows, row_s, example)
            }
            None => {
                let mut runner = self.runner(&mut engine, &signature.inputs);
                let (rows, row_s) =
                    self.batch_size(&mut runner, batched, limit).map_err(|error| self.not_in_service(error))?;
                self.warm_up(&mut runner, rows)?;
                (None, rows, row_s, Example::find(&mut runner))
            }
        };
        let wants_samples = wants_samples && transformed.is_none();
        let signature = ModelSignature {
            state: ModelState::Ready,
            max_batch_size,
            max_rows: max_rows(max_batch_size),
            ..signature
        };
        let session_bytes = resident_bytes().saturating_sub(before);
        let gpu = (engine.provider() == ProviderKind::Cuda).then(|| {
            let free_bytes = self.gpu_free();
            Gpu { free_bytes, session_bytes: gpu_before.unwrap_or(0).saturating_sub(free_bytes.unwrap_or(0)) }
        });
        let engine = Box::new(engine);
        Ok(PreparedVersion { signature, engine, row_s, session_bytes, gpu, example, transformed, wants_samples })
    }

    /// The engines of so many sessions, the first included. All are of the same
    /// files: a file that changed between two opens is refused.
    pub(crate) fn sessions(
        &self,
        first: Box<dyn Engine>,
        signature: &ModelSignature,
        transformed: Option<&Transformed>,
        count: u32,
    ) -> Result<Vec<Box<dyn Engine>>, String> {
        let mut engines = vec![first];
        while engines.len() < count as usize {
            let mut engine = self.open()?;
            match transformed {
                Some(own) => self.row_runner(&mut engine, &*own.transform).warm_up()?,
                None => self.warm_up(&mut self.runner(&mut engine, &signature.inputs), signature.max_batch_size)?,
            }
            engines.push(Box::new(engine));
        }
        match files::read(&self.found.graphs(), &transforms::side_files(self.found, self.settings))? == *self.files {
            true => Ok(engines),
            false => Err(self.refusal(
                "or its external data changed while it was loaded; reload the models when the files are complete",
            )),
        }
    }

    /// The largest batch that pays and the run time of a row in it, in seconds.
    fn batch_size(
        &self,
        runner: &mut SyntheticRunner<'_>,
        batched: bool,
        limit: u32,
    ) -> Result<(u32, f64), RunTimedOut> {
        let batching = &self.settings.config.batching;
        if !batched || batching.policy == PolicyKind::None {
            let best = autotune::best_batch_size(runner, 1, u64::MAX, ROW_BUDGET)?;
            return Ok((1, best.map_or(0.0, |best| best.row_s)));
        }
        // An operator's own size is taken as it is; only its cost is measured.
        let fixed = batching.max_batch_size > 0;
        let tried = if fixed { 1 } else { limit };
        let best = autotune::best_batch_size(runner, tried, batching.max_batch_bytes, self.budget())?;
        Ok(best.map_or((limit, 0.0), |best| {
            let rows = if fixed { limit } else { best.rows };
            log::info!(model = self.name, rows, row_us = (best.row_s * 1e6) as u64; "batches of model `{}` hold up to {rows} rows", self.name);
            (rows, best.row_s)
        }))
    }

    /// What runs of a transformed model cost, and the run time of a row of an everyday length.
    fn row_costs(
        &self,
        engine: &mut Graphs,
        opened: &OpenedTransform,
        joins: bool,
    ) -> Result<(Transformed, f64), String> {
        let batching = &self.settings.config.batching;
        let batched = joins && opened.lengths_mix && batching.policy != PolicyKind::None;
        let transform = Arc::clone(&opened.transform);
        let costs = self.row_runner(engine, &*transform).costs(batched, self.budget());
        let cost = costs.map_err(|reason| self.not_in_service(reason))?;
        let padded = match batching.max_batch_tokens {
            0 => cost.budget(),
            tokens => tokens,
        };
        let padded = padded.min(within_bytes(batching.max_batch_bytes, transform.bytes_per_cost()));
        let max_rows = match batching.max_batch_size {
            _ if !batched => 1,
            0 => MOST_ROWS,
            rows => rows,
        };
        let row_s = cost.seconds(1, EVERYDAY.min(transform.max_cost()));
        let (name, row_us) = (self.name, (row_s * 1e6) as u64);
        match transform.signature().task.kind {
            TaskKind::Image => {
                log::info!(model = name, cost = padded, row_us; "runs of model `{name}` hold up to {padded} of the largest picture's {}", transform.max_cost())
            }
            TaskKind::Bytes => {
                log::info!(model = name, rows = padded, row_us; "runs of model `{name}` hold up to {padded} files")
            }
            _ => {
                log::info!(model = name, tokens = padded, row_us; "runs of model `{name}` hold up to {padded} tokens, padding counted")
            }
        }
        Ok((Transformed { transform, batched, cost, padded, max_rows }, row_s))
    }

    /// A request of one text that the model answers, if one text is all that it takes.
    fn text_example(&self, engine: &mut Graphs, transformed: &Transformed) -> Option<Example> {
        let example = Example::of_texts(&transformed.transform.signature().inputs)?;
        let mut runner = self.row_runner(engine, &*transformed.transform);
        runner.answers(&example.inputs).then_some(example)
    }

    fn row_runner<'r>(&'r self, engine: &'r mut Graphs, transform: &'r dyn Transform) -> RowRunner<'r> {
        RowRunner { engine, transform, limit: self.limit }
    }

    /// Free memory of the GPU the model runs on; `None` on the CPU and where the driver does not say.
    fn gpu_free(&self) -> Option<u64> {
        let provider = &self.settings.config.provider;
        (provider.kind == ProviderKind::Cuda).then(|| gpu::free_bytes(provider.device_id)).flatten()
    }

    /// Opens a session, of two graphs one of each. The guard comes first each time: the files may
    /// have changed.
    fn open(&self) -> Result<Graphs, String> {
        let config = &self.settings.config;
        let named = |file: &Path, what: &dyn Display| format!("`{}` {what}", file.display());
        for file in self.found.graphs() {
            guard::check(file).map_err(|reason| named(file, &reason))?;
        }
        let memory = Memory::now(config.loading.memory_limit_bytes);
        memory.fits(self.files).map_err(|reason| self.refusal(format_args!("is not opened: {reason}")))?;
        let open = |file: &Path| {
            OnnxEngine::open(file, &config.provider, self.limit.next())
                .map_err(|error| named(file, &format_args!("cannot be served: {error}")))
        };
        let first = open(&self.found.file)?;
        let Some(pictures) = &self.found.pictures else { return Ok(Graphs::One(Box::new(first))) };
        let both = TowerEngines::new(first, open(pictures)?).map_err(|error| self.not_served(error))?;
        Ok(Graphs::Two(Box::new(both)))
    }

    fn runner<'r>(&'r self, engine: &'r mut Graphs, inputs: &'r [TensorSpec]) -> SyntheticRunner<'r> {
        SyntheticRunner { engine, inputs, limit: self.limit }
    }

    fn warm_up(&self, runner: &mut SyntheticRunner<'_>, rows: u32) -> Result<(), String> {
        let max_bytes = self.settings.config.batching.max_batch_bytes;
        autotune::warm_up(runner, rows, max_bytes, self.budget()).map_err(|error| self.not_in_service(error))
    }

    fn budget(&self) -> Duration {
        self.settings.config.loading.tune_budget()
    }

    fn not_served(&self, reason: impl Display) -> String {
        self.refusal(format_args!("cannot be served: {reason}"))
    }

    fn not_in_service(&self, reason: impl Display) -> String {
        self.refusal(format_args!("is not put in service: {reason}"))
    }

    fn refusal(&self, what: impl Display) -> String {
        format!("`{}` {what}", self.found.file.display())
    }
}

/// Most units of cost of a run of `bytes` for each, within `most` bytes; a row alone may have more.
fn within_bytes(most: u64, bytes: u64) -> u32 {
    most.checked_div(bytes).map_or(u32::MAX, |units| u32::try_from(units).unwrap_or(u32::MAX)).max(1)
}

/// What callers see of a version, and what its graph is beside that.
struct Described {
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    task: Option<Task>,
    graph: Description,
}

impl Described {
    fn of(mut graph: Description, opened: Option<&OpenedTransform>) -> Described {
        match opened.map(|own| own.transform.signature().clone()) {
            Some(CallerSignature { inputs, outputs, task }) => Described { inputs, outputs, task: Some(task), graph },
            None => {
                let inputs = std::mem::take(&mut graph.inputs);
                Described { inputs, outputs: std::mem::take(&mut graph.outputs), task: None, graph }
            }
        }
    }
}

/// What the file itself says, and how its pictures are prepared.
fn published(
    classes: Vec<(SmolStr, Vec<String>)>,
    opened: Option<&OpenedTransform>,
) -> serde_json::Map<String, serde_json::Value> {
    let mut published = class_labels(classes);
    if let Some(own) = opened.filter(|own| !own.found.is_empty()) {
        published.insert("found".to_owned(), own.found.as_slice().into());
    }
    published
}

/// The class names of the file itself, in the form of the setting that an owner may write.
fn class_labels(classes: Vec<(SmolStr, Vec<String>)>) -> serde_json::Map<String, serde_json::Value> {
    let by_output: serde_json::Map<_, _> =
        classes.into_iter().map(|(output, names)| (output.to_string(), names.into())).collect();
    match by_output.is_empty() {
        true => by_output,
        false => [("class_labels".to_owned(), by_output.into())].into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
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
        then: impl FnOnce(&Load<'_>, Result<PreparedVersion, String>) -> T,
    ) -> T {
        let (watchdog, stop) = (Watchdog::start().expect("a thread"), AtomicBool::new(false));
        let limit = LoadLimit { watchdog: &watchdog, run: Duration::from_millis(200), stop: &stop };
        let found = FoundVersion::new("1".into(), file.to_owned());
        let files = files::read(&[file], &[]).expect("a model");
        let (samples, on_signature) = (None, &|_| {});
        let load = Load { name: "m", found: &found, files: &files, settings, limit: &limit, samples, on_signature };
        then(&load, load.prepare())
    }

    fn refusal(file: &Path, settings: &ModelSettings) -> String {
        load(file, settings, |_, prepared| prepared.err().expect("a refusal"))
    }

    #[test]
    fn sessions_of_one_version_are_all_of_one_file() {
        let (_folder, file) = copied("identity_fp32");
        let sessions_after = |replaced: &[u8]| {
            load(&file, &quick(), |load, prepared| {
                let PreparedVersion { signature, engine, .. } = prepared.expect("a model");
                std::fs::write(&file, replaced).expect("a file");
                load.sessions(engine, &signature, None, 2).map(|engines| engines.len())
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
    fn a_run_of_texts_holds_no_more_logits_than_its_bytes_allow() {
        // Logits of BERT's vocabulary and of a multilingual one.
        assert_eq!((within_bytes(64 << 20, 122_112), within_bytes(64 << 20, 1_000_032)), (549, 67));
        assert_eq!((within_bytes(64 << 20, 0), within_bytes(1, 1_000)), (u32::MAX, 1));
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
