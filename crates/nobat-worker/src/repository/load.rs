//! From a found file to a version ready to serve: digest, open, describe,
//! verify, find the batch size.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use nobat_core::signature::{ModelSignature, ModelState, TensorSpec};
use sha2::{Digest, Sha256};

use super::guard::{self, GuardError};
use super::scan::FoundVersion;
use super::settings::ModelSettings;
use crate::config::{BatchingConfig, PolicyKind, WorkerConfig};
use crate::engine::Engine;
use crate::engine::onnx::{OnnxEngine, OpenError};
use crate::golden;
use crate::probe::{self, Rows};
use crate::sizing;

/// Rows per run when the batch axis is free and nothing else says.
const DEFAULT_MAX_BATCH: u32 = 32;

/// A version that loaded, with its first engine.
pub struct Prepared {
    /// What it takes and gives.
    pub signature: ModelSignature,
    /// The first session.
    pub engine: Box<dyn Engine>,
    /// Its batching, as configured for this model.
    pub batching: BatchingConfig,
    /// Run time per row at the best batch size, in seconds.
    pub row_s: f64,
    /// Memory the first session took.
    pub session_bytes: u64,
}

/// Why a version cannot be served; one line that names file and remedy.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read `{path}`: {reason}")]
    Unreadable {
        /// Which file.
        path: String,
        /// The system's words.
        reason: std::io::Error,
    },
    /// It names data outside its folder, or is no model.
    #[error("`{path}` {reason}")]
    Guarded {
        /// Which file.
        path: String,
        /// Why.
        reason: GuardError,
    },
    /// It answers other than its golden outputs.
    #[error("`{path}` is not put in service: {reason}")]
    Golden {
        /// Which file.
        path: String,
        /// Which element.
        reason: String,
    },
    /// ONNX Runtime refused it.
    #[error("`{path}` cannot be served: {reason}")]
    Refused {
        /// Which file.
        path: String,
        /// Why.
        reason: OpenError,
    },
}

/// SHA-256 of the file's bytes, the first 16 in hex.
///
/// # Errors
/// When it cannot be read.
pub fn digest(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0u8; 1 << 20];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            read => hasher.update(&chunk[..read]),
        }
    }
    Ok(hasher.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Opens one more session on a version that was [`prepare`]d, and warms it up.
///
/// # Errors
/// [`LoadError::Refused`].
pub fn open_again(
    found: &FoundVersion,
    signature: &ModelSignature,
    config: &WorkerConfig,
) -> Result<OnnxEngine, LoadError> {
    let mut engine = open(found, config)?;
    let budget = Duration::from_millis(config.loading.probe_ms);
    let max_bytes = config.batching.max_batch_bytes;
    probe::warm_up(&mut engine, &signature.inputs, signature.max_batch_size, max_bytes, budget);
    Ok(engine)
}

fn open(found: &FoundVersion, config: &WorkerConfig) -> Result<OnnxEngine, LoadError> {
    OnnxEngine::open(&found.file, config.provider.intra_threads as usize, &config.provider)
        .map_err(|reason| LoadError::Refused { path: found.file.display().to_string(), reason })
}

/// Loads a version: everything up to the swap.
///
/// # Errors
/// [`LoadError`], when nothing has changed for those who serve.
pub fn prepare(
    name: &str,
    found: &FoundVersion,
    digest: String,
    settings: &ModelSettings,
) -> Result<Prepared, LoadError> {
    let config = &settings.config;
    let path = || found.file.display().to_string();
    guard::check(&found.file).map_err(|reason| LoadError::Guarded { path: path(), reason })?;
    let before = sizing::resident_bytes();
    let mut engine = open(found, config)?;
    let described =
        engine.describe().map_err(|reason| LoadError::Refused { path: found.file.display().to_string(), reason })?;
    if let Some(file) = golden::find(&found.file) {
        golden::check(&file, &mut engine, &described.inputs, &described.outputs)
            .map_err(|reason| LoadError::Golden { path: path(), reason })?;
    }
    let batching = config.batching;
    let (batched, limit) = batch_axis(name, &mut engine, &described.inputs, &described.outputs, config);
    let (max_batch_size, row_s) = match batched {
        false => (1, row_time(&mut engine, &described.inputs)),
        true if batching.policy == PolicyKind::None => (1, row_time(&mut engine, &described.inputs)),
        true => {
            let budget = Duration::from_millis(config.loading.probe_ms);
            // An operator's own size is taken as it is; only its cost is measured.
            let tried = if batching.max_batch_size > 0 { 1 } else { limit };
            match probe::best_batch_size(&mut engine, &described.inputs, tried, batching.max_batch_bytes, budget) {
                Some(best) => {
                    let rows = if batching.max_batch_size > 0 { limit } else { best.rows };
                    log::info!(model = name, rows, row_us = (best.row_s * 1e6) as u64; "batches of model `{name}` hold up to {rows} rows");
                    (rows, best.row_s)
                }
                None => (limit, 0.0),
            }
        }
    };
    let budget = Duration::from_millis(config.loading.probe_ms);
    probe::warm_up(&mut engine, &described.inputs, max_batch_size, batching.max_batch_bytes, budget);
    let labels = settings.labels.iter().filter(|(_, version)| **version == found.version);
    let signature = ModelSignature {
        name: name.into(),
        version: found.version.clone(),
        digest,
        state: ModelState::Ready,
        reason: String::new(),
        inputs: described.inputs,
        outputs: described.outputs,
        batched,
        max_batch_size,
        max_rows: if batched { batching.max_rows.max(max_batch_size) } else { 1 },
        finite: settings.finite,
        labels: labels.map(|(label, _)| label.clone()).collect(),
        settings: settings.gateway.clone(),
    };
    let session_bytes = sizing::resident_bytes().saturating_sub(before);
    Ok(Prepared { signature, engine: Box::new(engine), batching, row_s, session_bytes })
}

/// Whether jobs may share a run, and the most rows of one.
fn batch_axis(
    name: &str,
    engine: &mut OnnxEngine,
    inputs: &[TensorSpec],
    outputs: &[TensorSpec],
    config: &WorkerConfig,
) -> (bool, u32) {
    let limit = match config.batching.max_batch_size {
        0 => DEFAULT_MAX_BATCH,
        size => size,
    };
    let free = |specs: &[TensorSpec]| !specs.is_empty() && specs.iter().all(|spec| spec.shape.first() == Some(&-1));
    if !free(inputs) {
        return (false, 1);
    }
    if !config.loading.verify_batching {
        return (free(outputs), limit);
    }
    match probe::verify_rows(engine, inputs) {
        Rows::Independent => (true, limit),
        Rows::Mixed(why) => {
            log::warn!(model = name; "model `{name}` runs one request at a time: {why}");
            (false, 1)
        }
        Rows::Unknown(why) => {
            log::debug!(model = name; "rows of model `{name}` could not be compared on made-up input: {why}");
            (free(outputs), limit)
        }
    }
}

fn row_time(engine: &mut OnnxEngine, inputs: &[TensorSpec]) -> f64 {
    probe::best_batch_size(engine, inputs, 1, u64::MAX, Duration::from_millis(200)).map_or(0.0, |best| best.row_s)
}
