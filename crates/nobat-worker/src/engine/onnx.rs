//! A model version on ONNX Runtime: session building and runs.
//!
//! `Session::run` takes `&mut self`, so one session serves one thread. Inputs
//! are lent to the runtime from the caller's buffers; outputs are read where
//! the runtime wrote them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use nobat_core::signature::TensorSpec;
use nobat_core::tensor::Datatype;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{RunOptions, Session, SessionInputValue, SessionOutputs};
use ort::value::{DynValue, IntoTensorElementType, Outlet, Tensor, TensorElementType, TensorRef, ValueType};
use smallvec::SmallVec;
use smol_str::SmolStr;

use super::api::{Engine, InputData, InputView, OutputData, OutputView, RunError, RunLimit};
use super::classes::{ClassRows, Classes, is_class_map};
use super::library::{LibraryError, environment};
use super::message::{clean, of_the_input, refusal};
use crate::config::{Fallback, ProviderConfig, ProviderKind};

/// Why a model file cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The file is not a model this runtime takes, or a tensor of it cannot travel in a request.
    #[error("{0}")]
    Model(String),
    #[error("{0}")]
    Provider(String),
}

pub(crate) struct OnnxEngine {
    session: Session,
    /// Where it runs, which is not where it was to run after a fallback.
    provider: ProviderKind,
    /// Names of the inputs, required ones first, as in the signature.
    names: Vec<String>,
    /// How many inputs a request must bring.
    required: usize,
    datatypes: Vec<Datatype>,
    /// By output: its classes, where it is a map from class to probability.
    classes: Vec<Option<Classes>>,
}

/// What a model file says about itself.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    pub(crate) inputs: Vec<TensorSpec>,
    pub(crate) outputs: Vec<TensorSpec>,
    /// By output: the names of its columns, for outputs that are maps from classes.
    pub(crate) classes: Vec<(SmolStr, Vec<String>)>,
    /// What its maker wrote into the file, by key.
    pub(crate) metadata: BTreeMap<String, String>,
}

impl OnnxEngine {
    /// Opens a model file that the guard has checked; `limit` ends the opening when its lease
    /// is lost.
    pub(crate) fn open(path: &Path, provider: &ProviderConfig, limit: RunLimit<'_>) -> Result<OnnxEngine, OpenError> {
        let (session, provider) = match open_with(path, provider, &limit) {
            Err(OpenError::Provider(reason)) if provider.fallback == Fallback::Cpu => {
                log::error!("{reason}; serving `{}` on the CPU because fallback = \"cpu\"", path.display());
                let cpu = ProviderConfig { kind: ProviderKind::Cpu, ..provider.clone() };
                (open_with(path, &cpu, &limit)?, cpu.kind)
            }
            opened => (opened?, provider.kind),
        };
        let required = session.inputs().len();
        let read = |outlet: &Outlet| is_class_map(outlet.dtype()).then(|| Classes::read(path, outlet.name())).flatten();
        let classes = session.outputs().iter().map(read).collect();
        let mut engine = OnnxEngine { session, provider, names: Vec::new(), required, datatypes: Vec::new(), classes };
        let described = engine.describe()?;
        engine.names = described.inputs.iter().map(|spec| spec.name.to_string()).collect();
        engine.datatypes = described.outputs.iter().map(|spec| spec.datatype).collect();
        Ok(engine)
    }

    pub(crate) fn provider(&self) -> ProviderKind {
        self.provider
    }

    /// Names, datatypes and shapes from the file.
    ///
    /// # Errors
    /// [`OpenError::Model`] for sequences, maps and datatypes that no
    /// request can carry.
    pub(crate) fn describe(&self) -> Result<Description, OpenError> {
        let mut inputs = Vec::new();
        for outlet in self.session.inputs() {
            inputs.push(spec(outlet.name(), outlet.dtype(), "input")?);
        }
        // An input with an initializer of the same name has a default.
        for default in self.session.overridable_initializers() {
            inputs.push(TensorSpec { optional: true, ..spec(default.name(), default.dtype(), "input")? });
        }
        let (mut outputs, mut classes) = (Vec::new(), Vec::new());
        for (outlet, own) in self.session.outputs().iter().zip(&self.classes) {
            let Some(own) = own else {
                outputs.push(spec(outlet.name(), outlet.dtype(), "output")?);
                continue;
            };
            let shape = vec![-1, own.len() as i64];
            outputs.push(TensorSpec { name: outlet.name().into(), datatype: Datatype::Fp32, shape, optional: false });
            classes.push((outlet.name().into(), own.names()));
        }
        Ok(Description { inputs, outputs, classes, metadata: self.metadata() })
    }
}

impl OnnxEngine {
    /// The file's own metadata; a key that cannot be read is left out.
    fn metadata(&self) -> BTreeMap<String, String> {
        let Ok(metadata) = self.session.metadata() else { return BTreeMap::new() };
        let keys = metadata.custom_keys().unwrap_or_default();
        keys.into_iter().filter_map(|key| Some((key.clone(), metadata.custom(&key)?))).collect()
    }
}

impl Engine for OnnxEngine {
    fn run(
        &mut self,
        inputs: &[InputView<'_>],
        limit: Option<RunLimit<'_>>,
        take: &mut dyn FnMut(&[OutputView<'_>]),
    ) -> Result<(), RunError> {
        let mut values: SmallVec<[SessionInputValue<'_>; 4]> = SmallVec::new();
        for input in inputs {
            values.push(value(input).map_err(failed)?);
        }
        let (datatypes, classes) = (&self.datatypes, &self.classes);
        // In order when every input is there; by name when an optional one is left out.
        let whole = inputs.iter().map(|input| input.index).eq(0..self.required);
        let names: SmallVec<[Cow<'_, str>; 4]> = match whole {
            true => SmallVec::new(),
            false => inputs.iter().map(|input| Cow::Borrowed(self.names[input.index].as_str())).collect(),
        };
        let Some(limit) = limit else {
            let outputs = match whole {
                true => self.session.run(values.as_slice()),
                false => self.session.run(names.into_iter().zip(values).collect::<Vec<_>>()),
            };
            return lend(&outputs.map_err(failed)?, datatypes, classes, take);
        };
        let options = Arc::new(RunOptions::new().map_err(failed)?);
        let to_end = Arc::clone(&options);
        let armed = limit.watchdog.arm(limit.lease, limit.at, move || {
            if let Err(error) = to_end.terminate() {
                log::warn!("cannot end a run: {error}");
            }
        });
        let outputs = match whole {
            true => self.session.run_with_options(values.as_slice(), &*options),
            false => self.session.run_with_options(names.into_iter().zip(values).collect::<Vec<_>>(), &*options),
        };
        let outputs = match (outputs, armed.ended()) {
            (Err(_), Some(why)) => return Err(RunError::Ended(why)),
            (outputs, _) => outputs.map_err(failed)?,
        };
        drop(armed);
        lend(&outputs, datatypes, classes, take)
    }
}

fn open_with(path: &Path, provider: &ProviderConfig, limit: &RunLimit<'_>) -> Result<Session, OpenError> {
    let model = |error: ort::Error| OpenError::Model(refusal(&error.to_string()));
    let builder = Session::builder(environment()?).map_err(model)?;
    let mut builder = configure(builder, provider.intra_threads as usize).map_err(OpenError::Model)?;
    builder = provide(builder, provider)?;
    builder = with_custom_ops(builder, provider).map_err(OpenError::Model)?;
    let canceler = builder.canceler();
    let _armed = limit.watchdog.arm(limit.lease, None, move || {
        if let Err(error) = canceler.cancel() {
            log::warn!("cannot end the opening of a model: {error}");
        }
    });
    builder.commit_from_file(path).map_err(model)
}

fn configure(builder: SessionBuilder, intra_threads: usize) -> Result<SessionBuilder, String> {
    fn text<R>(error: ort::Error<R>) -> String {
        clean(&error.to_string())
    }
    builder
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(text)?
        .with_intra_threads(intra_threads.max(1))
        .map_err(text)?
        .with_inter_threads(1)
        .map_err(text)?
        // Spinning costs 20-35 % more CPU at partial load and gains no latency.
        .with_intra_op_spinning(false)
        .map_err(text)?
        .with_inter_op_spinning(false)
        .map_err(text)
}

/// Whether sessions can run on this provider, without a model.
///
/// # Errors
/// One line: why not, and what to install or set.
pub fn check_provider(provider: &ProviderConfig) -> Result<(), String> {
    let library = environment().map_err(|error| error.to_string())?;
    let builder = Session::builder(library).map_err(|error| clean(&error.to_string()))?;
    let builder = provide(builder, provider).map_err(|error| error.to_string())?;
    with_custom_ops(builder, provider).map(drop)
}

/// Adds the operators of the libraries that the operator's configuration names.
fn with_custom_ops(builder: SessionBuilder, provider: &ProviderConfig) -> Result<SessionBuilder, String> {
    provider.custom_ops.iter().try_fold(builder, |builder, library| {
        builder.with_operator_library(library).map_err(|error| {
            format!(
                "the custom operators of `{}` (worker.provider.custom_ops) cannot be loaded: {}; give a library built for this machine and this ONNX Runtime",
                library.display(),
                clean(&error.to_string())
            )
        })
    })
}

fn provide(builder: SessionBuilder, provider: &ProviderConfig) -> Result<SessionBuilder, OpenError> {
    use ort::ep;
    let dispatch = match provider.kind {
        ProviderKind::Cpu => ep::CPU::default().with_arena_allocator(provider.arena).build(),
        ProviderKind::Cuda => {
            let mut cuda = ep::CUDA::default()
                .with_device_id(provider.device_id)
                // Exhaustive search benchmarks every new batch size for hundreds of milliseconds.
                .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
                .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
                .with_tf32(provider.tf32);
            if let Some(bytes) = provider.memory_limit_bytes {
                cuda = cuda.with_memory_limit(bytes as usize);
            }
            cuda.build()
        }
    };
    // Without it, ort falls back to the CPU silently.
    builder.with_execution_providers([dispatch.error_on_failure()]).map_err(|error| {
        OpenError::Provider(format!(
            "execution provider `{}` cannot be used: {}; install the GPU build of ONNX Runtime (NOBAT_ORT_LIB) and its CUDA libraries, or set provider.fallback = \"cpu\"",
            provider.kind.as_str(),
            clean(&error.to_string()),
        ))
    })
}

fn spec(name: &str, value: &ValueType, kind: &str) -> Result<TensorSpec, OpenError> {
    let refuse = |what: String| OpenError::Model(format!("{kind} `{name}` {what}"));
    match value {
        ValueType::Tensor { ty, shape, .. } => {
            let datatype = datatype(*ty).ok_or_else(|| {
                refuse(format!(
                    "has datatype {ty}, which the Open Inference Protocol cannot carry; cast it inside the model"
                ))
            })?;
            let shape = shape.iter().map(|&dim| if dim < 0 { -1 } else { dim }).collect();
            Ok(TensorSpec { name: name.into(), datatype, shape, optional: false })
        }
        ValueType::Optional(_) => {
            Err(refuse("is of ONNX type optional; give it a default with an initializer of the same name".into()))
        }
        _ => Err(refuse(
            "is a sequence or map, not a tensor; export the model with tensors only (skl2onnx: zipmap=False; a ZipMap with its class names is served as it is)".into(),
        )),
    }
}

/// Expands a macro with the type of a datatype's elements; texts are another matter.
macro_rules! by_type {
    ($datatype:expr, $expand:ident, $bytes:expr) => {
        match $datatype {
            Datatype::Bool => $expand!(bool),
            Datatype::Uint8 => $expand!(u8),
            Datatype::Uint16 => $expand!(u16),
            Datatype::Uint32 => $expand!(u32),
            Datatype::Uint64 => $expand!(u64),
            Datatype::Int8 => $expand!(i8),
            Datatype::Int16 => $expand!(i16),
            Datatype::Int32 => $expand!(i32),
            Datatype::Int64 => $expand!(i64),
            Datatype::Fp16 => $expand!(half::f16),
            Datatype::Bf16 => $expand!(half::bf16),
            Datatype::Fp32 => $expand!(f32),
            Datatype::Fp64 => $expand!(f64),
            Datatype::Bytes => $bytes,
        }
    };
}

fn datatype(ty: TensorElementType) -> Option<Datatype> {
    macro_rules! element_type {
        ($type:ty) => {
            <$type>::into_tensor_element_type()
        };
    }
    Datatype::ALL.into_iter().find(|own| by_type!(own, element_type, TensorElementType::String) == ty)
}

/// Lends an input to the runtime.
fn value<'a>(input: &InputView<'a>) -> ort::Result<SessionInputValue<'a>> {
    let raw = match &input.data {
        InputData::Text(elements) => {
            let owned: Vec<String> = elements.iter().map(|&element| element.to_owned()).collect();
            return Ok(Tensor::from_string_array((input.shape, owned.as_slice()))?.into());
        }
        InputData::Raw(raw) => *raw,
    };
    macro_rules! lend {
        ($type:ty) => {{
            let elements: &[$type] = bytemuck::checked::try_cast_slice(raw).map_err(|error| {
                ort::Error::new(format!("input {} cannot be read as {}: {error}", input.index, input.datatype))
            })?;
            TensorRef::from_array_view((input.shape, elements))?.into()
        }};
    }
    Ok(by_type!(input.datatype, lend, return Err(ort::Error::new("a BYTES input came without its elements"))))
}

fn lend(
    outputs: &SessionOutputs<'_>,
    datatypes: &[Datatype],
    classes: &[Option<Classes>],
    take: &mut dyn FnMut(&[OutputView<'_>]),
) -> Result<(), RunError> {
    let mut rows: SmallVec<[Option<ClassRows>; 4]> = SmallVec::new();
    for (at, own) in classes.iter().enumerate() {
        rows.push(own.as_ref().map(|own| own.rows(&outputs[at])).transpose().map_err(failed)?);
    }
    let mut views: SmallVec<[OutputView<'_>; 4]> = SmallVec::new();
    for ((at, &datatype), rows) in datatypes.iter().enumerate().zip(&rows) {
        views.push(match rows {
            Some(ClassRows { shape, values }) => {
                OutputView { datatype, shape, data: OutputData::Raw(bytemuck::cast_slice(values)) }
            }
            None => output(&outputs[at], datatype).map_err(failed)?,
        });
    }
    take(&views);
    Ok(())
}

fn output(value: &DynValue, datatype: Datatype) -> ort::Result<OutputView<'_>> {
    macro_rules! read {
        ($type:ty) => {{
            let (shape, elements) = value.try_extract_tensor::<$type>()?;
            OutputView { datatype, shape, data: OutputData::Raw(bytemuck::cast_slice(elements)) }
        }};
    }
    Ok(by_type!(datatype, read, {
        let (shape, elements) = value.try_extract_strings()?;
        OutputView { datatype, shape, data: OutputData::Text(elements) }
    }))
}

fn failed(error: ort::Error) -> RunError {
    let words = clean(&error.to_string());
    if of_the_input(error.code(), &words) { RunError::Invalid(words) } else { RunError::Failed(words) }
}
