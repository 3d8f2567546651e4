//! What runs a model: one [`Engine`] per session, on one thread.
//!
//! Two implementations stand: ONNX Runtime ([`onnx`]) and the scripted one of
//! the tests. An engine sees whole batches as plain views; it knows no jobs, no
//! queue and no batching. Outputs are lent to the caller while they live in the
//! runtime's own buffers, so that splitting a batch copies each byte once.

use std::time::Instant;

use nobat_core::tensor::Datatype;
use nobat_queue::backend::Lease;

use crate::watchdog::{Ended, Watchdog};

pub mod buffer;
mod classes;
pub mod library;
mod message;
pub mod onnx;

/// One input of a batch.
#[derive(Debug)]
pub struct InputView<'a> {
    /// Position in the signature's inputs.
    pub index: usize,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions of the whole batch.
    pub shape: &'a [i64],
    /// Elements.
    pub data: InputData<'a>,
}

/// An input's elements.
#[derive(Debug)]
pub enum InputData<'a> {
    /// Little-endian, row-major, aligned to 64 bytes.
    Raw(&'a [u8]),
    /// Elements of a BYTES tensor, which ONNX Runtime takes as UTF-8.
    Text(&'a [&'a str]),
}

/// One output of a batch, lent by the engine.
#[derive(Debug)]
pub struct OutputView<'a> {
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions as the run gave them.
    pub shape: &'a [i64],
    /// Elements.
    pub data: OutputData<'a>,
}

/// An output's elements.
#[derive(Debug)]
pub enum OutputData<'a> {
    /// Little-endian, row-major.
    Raw(&'a [u8]),
    /// Elements of a string tensor.
    Text(Vec<String>),
}

/// Ends a run that is not worth finishing.
#[derive(Debug)]
pub struct RunLimit<'a> {
    /// When to end it; `None` never.
    pub at: Option<Instant>,
    /// The lease it runs under; a lost one ends it.
    pub lease: Lease,
    /// Who ends it.
    pub watchdog: &'a Watchdog,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The runtime failed; its own words.
    #[error("{0}")]
    Failed(String),
    /// The runtime cannot compute this input and says so; its own words. It would say
    /// the same again.
    #[error("{0}")]
    Invalid(String),
    /// The run was ended by its [`RunLimit`].
    #[error("the run was ended before it finished")]
    Ended(Ended),
}

/// One loaded model version on one thread.
pub trait Engine: Send {
    /// Runs one batch and lends its outputs, in the signature's order, to `take`.
    ///
    /// # Errors
    /// [`RunError`]; `take` was not called then.
    fn run(
        &mut self,
        inputs: &[InputView<'_>],
        limit: Option<RunLimit<'_>>,
        take: &mut dyn FnMut(&[OutputView<'_>]),
    ) -> Result<(), RunError>;
}
