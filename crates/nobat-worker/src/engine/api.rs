//! The contract of an [`Engine`]: whole batches in as plain views, outputs out as plain
//! views, lent while they live in the runtime's own buffers, so that splitting a batch
//! copies each byte once.

use std::time::Instant;

use nobat_core::tensor::Datatype;
use nobat_queue::backend::Lease;

use crate::watchdog::{Ended, Watchdog};

/// One input of a batch.
#[derive(Debug)]
pub(crate) struct InputView<'a> {
    /// Position in the signature's inputs.
    pub(crate) index: usize,
    pub(crate) datatype: Datatype,
    /// Dimensions of the whole batch.
    pub(crate) shape: &'a [i64],
    pub(crate) data: InputData<'a>,
}

#[derive(Debug)]
pub(crate) enum InputData<'a> {
    /// Little-endian, row-major, aligned as its elements need; to 64 bytes in the serving path
    /// of tensors.
    Raw(&'a [u8]),
    /// Elements of a BYTES tensor, which ONNX Runtime takes as UTF-8.
    Text(&'a [&'a str]),
}

/// One output of a batch, lent by the engine.
#[derive(Debug)]
pub(crate) struct OutputView<'a> {
    pub(crate) datatype: Datatype,
    /// Dimensions as the run gave them.
    pub(crate) shape: &'a [i64],
    pub(crate) data: OutputData<'a>,
}

#[derive(Debug)]
pub(crate) enum OutputData<'a> {
    /// Little-endian, row-major.
    Raw(&'a [u8]),
    Text(Vec<String>),
}

impl OutputData<'_> {
    /// Bytes in a packed result.
    pub(crate) fn len(&self) -> usize {
        match self {
            OutputData::Raw(raw) => raw.len(),
            OutputData::Text(elements) => elements.iter().map(|element| element.len() + 4).sum(),
        }
    }
}

/// Ends a run that is not worth finishing.
#[derive(Debug)]
pub(crate) struct RunLimit<'a> {
    /// When to end it; `None` never.
    pub(crate) at: Option<Instant>,
    /// The lease it runs under; a lost one ends it.
    pub(crate) lease: Lease,
    pub(crate) watchdog: &'a Watchdog,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The runtime failed; in its own words.
    #[error("{0}")]
    Failed(String),
    /// The runtime cannot compute this input, now or at another attempt; in its own words.
    #[error("{0}")]
    Invalid(String),
    /// The run was ended by its [`RunLimit`].
    #[error("the run was ended before it finished")]
    Ended(Ended),
}

/// One loaded model version on one thread.
pub(crate) trait Engine: Send {
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
