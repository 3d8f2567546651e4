//! Why a run failed, in words that say where and what to do.

use std::any::Any;

use nobat_core::{Error, ErrorCode};

use crate::engine::RunError;
use crate::model::Version;
use crate::watchdog::Ended;

/// A failed run of several rows or one.
pub(crate) struct Failure {
    pub(super) code: ErrorCode,
    pub(super) message: String,
    /// Whether another attempt may succeed.
    pub(super) again: bool,
}

impl Failure {
    pub(crate) fn new(code: ErrorCode, again: bool, message: String) -> Failure {
        Failure { code, message, again }
    }

    /// What a transformation says of its input, or of outputs that it cannot read.
    pub(crate) fn of(error: Error) -> Failure {
        let again = matches!(error.code, ErrorCode::Internal | ErrorCode::InferenceFailed);
        Failure::new(error.code, again, error.message)
    }

    pub(super) fn run(error: RunError, version: &Version) -> Failure {
        let (name, model) = (&version.signature.name, model(version));
        match error {
            RunError::Failed(reason) => {
                let message = format!("{model} failed{}; {}", located(&reason), remedy(&reason));
                Failure::new(ErrorCode::InferenceFailed, true, message)
            }
            RunError::Invalid(reason) => {
                Failure::invalid(format!("{model} cannot compute this input{}; {}", located(&reason), remedy(&reason)))
            }
            RunError::Ended(Ended::TimedOut) => {
                let message = format!("the run of model `{name}` was ended at the job's deadline; allow more time");
                Failure::new(ErrorCode::DeadlineExceeded, false, message)
            }
            RunError::Ended(Ended::Abandoned) => {
                let message = format!("the run of model `{name}` was ended: its job is cancelled or runs elsewhere");
                Failure::new(ErrorCode::JobCancelled, false, message)
            }
        }
    }

    pub(crate) fn panicked(text: &str, version: &Version) -> Failure {
        let message =
            format!("the run of {} panicked: {text}; report the model and its input to its owner", model(version));
        Failure::new(ErrorCode::InferenceFailed, true, message)
    }

    pub(super) fn unloaded(version: &Version) -> Failure {
        let message = format!("{} was unloaded while the job waited", model(version));
        Failure::new(ErrorCode::ModelNotReady, true, message)
    }

    /// Outputs that cannot be split among rows.
    pub(super) fn outputs(what: &str, version: &Version) -> Failure {
        Failure::new(ErrorCode::InferenceFailed, false, format!("{}: {what}", model(version)))
    }

    /// Outputs over the limit of a result.
    pub(super) fn too_large(bytes: usize, most: usize, version: &Version) -> Failure {
        let message = format!(
            "the outputs of {} have {bytes} bytes, more than the {most} that a result may have; ask for fewer outputs, send fewer rows per request, or raise worker.max_result_bytes",
            model(version)
        );
        Failure::new(ErrorCode::PayloadTooLarge, false, message)
    }

    pub(super) fn invalid(message: String) -> Failure {
        Failure::new(ErrorCode::InvalidTensor, false, message)
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message")
}

fn model(version: &Version) -> String {
    format!("model `{}` version {}", version.signature.name, version.signature.version)
}

/// ONNX Runtime's words: the node that failed, then what is wrong, without the
/// runtime's own functions and conditions.
fn located(reason: &str) -> String {
    let parts = reason.split_once("while running ").and_then(|(_, rest)| {
        let (operator, rest) = rest.split_once(" node. Name:'")?;
        let (name, message) = rest.split_once("' Status Message: ")?;
        Some((operator, name, message))
    });
    match parts {
        None => format!(": {reason}"),
        Some((operator, "", message)) => format!(" at its {operator} node: {}", plain(message)),
        Some((operator, name, message)) => format!(" at its {operator} node `{name}`: {}", plain(message)),
    }
}

fn plain(message: &str) -> &str {
    // `void* onnxruntime::Allocate(size_t, onnxruntime::Stream*) Failed …`
    let after_signature = message.rsplit_once("onnxruntime::").and_then(|(_, rest)| rest.split_once(") "));
    let said = after_signature.map_or(message, |(_, said)| said);
    said.split_once(" was false. ").map_or(said, |(_, said)| said)
}

fn remedy(reason: &str) -> &'static str {
    let reason = reason.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if says(&["by zero"]) {
        "send no zero as a divisor"
    } else if says(&["allocat", "bad_alloc", "out of memory"]) {
        "send fewer or smaller rows, or give the worker more memory"
    } else if says(&["bounds", "out of range", "indices", "index"]) {
        "send indices within the model's range"
    } else if says(&["shape", "dimension", "broadcast", "rank", "axis"]) {
        "send inputs of shapes that the model can compute with"
    } else {
        "check the inputs against what the model was made for"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtimes_words_are_reduced_to_the_node_and_what_is_wrong() {
        let reshape = "Non-zero status code returned while running Reshape node. Name:'flat' Status Message: \
            /onnxruntime_src/onnxruntime/core/providers/cpu/tensor/reshape_helper.h:84 \
            onnxruntime::ReshapeHelper::ReshapeHelper(const onnxruntime::TensorShape&, \
            onnxruntime::TensorShapeVector&, bool) size != 0 && (input_shape_size % size) == 0 was false. The input \
            tensor cannot be reshaped to the requested shape. Input shape:{1,4}, requested shape:{-1,7}";
        assert_eq!(
            located(reshape),
            " at its Reshape node `flat`: The input tensor cannot be reshaped to the requested shape. \
             Input shape:{1,4}, requested shape:{-1,7}"
        );
        let memory = "Non-zero status code returned while running Expand node. Name:'' Status Message: void* \
            onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed to allocate memory \
            for requested buffer of size 17592186044416";
        assert_eq!(
            located(memory),
            " at its Expand node: Failed to allocate memory for requested buffer of size 17592186044416"
        );
        assert_eq!(located("something else"), ": something else");
    }
}
